"""CRIU's logs and image files."""

from pathlib import Path

import pytest

from harness.parsing.criu_log import parse_criu_log

DATA = Path(__file__).parents[1] / "data"


def _log(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


# What CRIU 3.17.1 says in every log of this guest, while it probes what the kernel can do.
PROBING = (
    "Error (criu/util.c:642): exited, status=1",
    "Error (criu/util.c:642): exited, status=1",
    "Error (criu/libnetlink.c:54): -95 reported by netlink: Operation not supported",
    "Error (criu/net.c:3741): Unable to create a veth pair: -95",
)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("criu-dump-3.17.1.log", "(00.820530) Dumping finished successfully"),
        ("criu-restore-3.17.1.log", "(00.465079) Running post-resume scripts"),
    ],
)
def test_a_captured_success(name: str, last: str) -> None:
    log = parse_criu_log(_log(name))
    assert log.version == "3.17.1"
    assert log.finished
    assert log.last_line == last


@pytest.mark.parametrize("name", ["criu-dump-3.17.1.log", "criu-restore-3.17.1.log"])
def test_errors_are_no_sign_of_failure(name: str) -> None:
    """Success is told by nothing in a log; the task of this very restore died at once."""
    assert parse_criu_log(_log(name)).errors == PROBING


def test_warnings_are_no_errors() -> None:
    assert "Warn  (criu/kerndat.c:1132)" in _log("criu-dump-3.17.1.log")
    assert not any("kdat" in error for error in parse_criu_log(_log("criu-dump-3.17.1.log")).errors)


def test_a_log_that_was_cut_off_gives_what_is_there() -> None:
    whole = _log("criu-dump-3.17.1.log")
    log = parse_criu_log(whole[: whole.index("Dumping finished") + 9])
    assert not log.finished
    assert log.last_line == "(00.820530) Dumping f"
    assert log.errors == PROBING


def test_a_failed_restore_keeps_its_errors_in_order() -> None:
    log = parse_criu_log(_log("criu-restore-failed.log"))
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


@pytest.mark.parametrize(
    "line",
    [
        "(00.041234) pac-key-module: error: pac-keys.img: belongs to other images",
        "(00.041234)    452: pac-key-module: error: pac-keys.img: belongs to other images",
        "pac-key-module: error: pac-keys.img: belongs to other images",
    ],
)
def test_errors_of_the_key_module_are_listed_in_their_place(line: str) -> None:
    log = f"(00.1) Error (a.c:1): one\n{line}  \n(00.2) Error (b.c:2): two\n"
    assert parse_criu_log(log).errors == (
        "Error (a.c:1): one",
        "pac-key-module: error: pac-keys.img: belongs to other images",
        "Error (b.c:2): two",
    )


@pytest.mark.parametrize(
    "line",
    [
        "(00.1) pac-key-module: warning: error: of another kind",
        "(00.1) pac-key-module: saved the keys of 2 threads",
        "(00.1) other-module: error: not ours",
        "(00.1) saw pac-key-module: error: in passing",
    ],
)
def test_what_the_key_module_says_besides_is_no_error(line: str) -> None:
    assert parse_criu_log(f"{line}\n").errors == ()


def test_a_success_mentioned_inside_a_line_is_none() -> None:
    assert not parse_criu_log(
        "(00.1) Error (x.c:1): Restore finished successfully was not reached\n"
    ).finished
