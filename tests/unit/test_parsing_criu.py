"""CRIU's logs and image files."""

import struct
from pathlib import Path

import pytest

from harness.parsing.criu_images import ImageKind, image_kind, thread_ids
from harness.parsing.criu_log import parse_criu_log

DATA = Path(__file__).parents[1] / "data"


def _log(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def test_a_finished_dump() -> None:
    log = parse_criu_log(_log("criu-dump-3.17.1.log"))
    assert log.version == "3.17.1"
    assert log.errors == ()
    assert log.finished
    assert log.last_line == "(00.412345) Dumping finished successfully"


def test_a_failed_restore_keeps_its_errors_in_order() -> None:
    log = parse_criu_log(_log("criu-restore-3.17.1.log"))
    assert not log.finished
    assert len(log.errors) == 2
    assert log.errors[0].startswith("Error (criu/files-reg.c:1831): File usr/bin/python3.13 has bad size")
    assert log.errors[1] == "Error (criu/cr-restore.c:2447): Restoring FAILED."


def test_a_hang_shows_in_the_last_line() -> None:
    log = parse_criu_log(_log("criu-restore-hung.log"))
    assert log.last_line.endswith("Restoring PAC keys")
    assert not log.finished


def test_an_empty_log() -> None:
    log = parse_criu_log("")
    assert (log.version, log.errors, log.last_line, log.finished) == (None, (), "", False)


def test_a_message_that_only_mentions_an_error_is_none() -> None:
    assert parse_criu_log("(00.1) saw no Error (in this line): really\n").errors == ()


def test_a_success_mentioned_inside_a_line_is_none() -> None:
    assert not parse_criu_log(
        "(00.1) Error (x.c:1): Restore finished successfully was not reached\n"
    ).finished


def test_thread_ids_come_from_whole_names_only() -> None:
    names = [
        "core-12.img",
        "core-3.img",
        "core-x.img",
        "core-5.img.tmp",
        "mm-3.img",
        "core-03.img",
        "core-.img",
    ]
    assert thread_ids(names) == (3, 12)


@pytest.mark.parametrize(
    ("common", "kind", "expected"),
    [
        (0x54564319, 0x55053847, ImageKind.CORE),
        (0x54564319, 0x58313116, ImageKind.INVENTORY),
        (0x54564319, 0x50273030, ImageKind.PSTREE),
        (0x54564319, 0x12345678, ImageKind.OTHER),
        (0x55105940, 0x57093306, ImageKind.OTHER),
    ],
)
def test_image_kinds(common: int, kind: int, expected: ImageKind) -> None:
    assert image_kind(struct.pack("<II", common, kind) + b"rest") is expected


@pytest.mark.parametrize("head", [b"", b"\x19\x43\x56\x54", b"\x7fELF\x02\x01\x01\x00"])
def test_what_is_no_image_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="CRIU image"):
        image_kind(head)
