"""Evidence on disk: what is there, that collecting ends, and that what fails is written down."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest

from harness.catalogue.outcome import Premise
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, MachineDiedError, MachineError
from harness.guest.container import EXITS, IMAGES, OUTPUT
from harness.guest.engine import tar_of
from harness.guest.native import KERNEL_LOG_MARK
from harness.guest.probe_results import CoreReport, parse
from harness.machines.console import Console
from harness.machines.fake import Answer, FakeMachine, Scripted
from harness.machines.qemu import QemuMachine
from harness.parsing.kernel_fault import parse_faults
from harness.scenario.evidence import collect, collect_hang, read_kernel_log
from harness.scenario.observation import Observation

DATA = Path(__file__).parents[1] / "data"
CORE = parse(CoreReport, "core", (DATA / "core-segv-neoverse-v1.json").read_text("utf-8"))
(FAULT,) = parse_faults((DATA / "dmesg-segv-neoverse-v1.txt").read_text("utf-8"))
LONGEST = 20.0  # seconds that one collector may take
OWN = {"console.log", "kernel.log", "observations.json", "registers.json"}
FILES = {"run/criu-pac/output": b"tick 1\n", "run/criu-pac/images/dump-1.log": b"(00.1) x\n"}


class Guest(FakeMachine):
    """A machine with a console log, whose guest packs its files as told."""

    def __init__(self, directory: Path, packed: Scripted) -> None:
        super().__init__(directory)
        self.answer(["bash", "-c"], packed)
        self.answer(["dmesg"], "[    1.0] hello\n")
        self.console = Console(directory / "console.sock", directory / "recorded.log")
        self.console.log.write_bytes(b"booting\n\xff\n")


def guest(tmp_path: Path, packed: Scripted | bytes) -> QemuMachine:
    machine = Guest(tmp_path, Answer(stdout=packed) if isinstance(packed, bytes) else packed)
    return cast("QemuMachine", machine)


def collected(tmp_path: Path, packed: Scripted | bytes, seen: Observation | None = None) -> dict[str, bytes]:
    """Return what evidence is there after collecting, by file name."""
    directory = tmp_path / "results" / "stock"
    collect(guest(tmp_path, packed), seen or Observation(), directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_evidence_is_the_guests_files_and_what_the_host_saw(tmp_path: Path) -> None:
    found = collected(tmp_path, tar_of(FILES))
    assert set(found) == OWN | {"output", "dump-1.log"}
    assert found["kernel.log"] == b"[    1.0] hello\n"
    assert found["console.log"].startswith(b"booting\n")


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (Answer(hangs=True), "evidence of the guest took longer than 20 s"),
        (Answer(returncode=1, stderr=b"ls: no such directory"), "no such directory"),
        (MachineDiedError("QEMU was killed"), "QEMU was killed"),
        (MachineError("the agent said no"), "the agent said no"),
        (b"no archive", ""),
        (b"", ""),
        (tar_of({**FILES, "run/z": bytes(4096)})[:2000], "unexpected end of data"),
    ],
    ids=["hangs", "fails", "died", "refused", "no-archive", "nothing", "cut-off"],
)
def test_a_collector_that_fails_is_written_down_and_the_others_go_on(
    tmp_path: Path, packed: Scripted | bytes, why: str
) -> None:
    found = collected(tmp_path, packed)
    assert found.keys() >= OWN | {"not-collected.txt"}
    said = found["not-collected.txt"].decode()
    assert said.startswith("files of the guest: ")
    assert why in said
    assert not any(f"\n{what}: " in said for what in ("console log", "registers", "observations"))


def test_nothing_is_said_of_collectors_that_did_not_fail(tmp_path: Path) -> None:
    assert "not-collected.txt" not in collected(tmp_path, tar_of({}))


def test_a_console_that_was_not_recorded_is_written_down(tmp_path: Path) -> None:
    class Mute:
        def text(self) -> str:
            raise PermissionError("recorded.log")

    machine, directory = guest(tmp_path, tar_of(FILES)), tmp_path / "evidence"
    machine.console = cast("Console", Mute())
    collect(machine, Observation(), directory)
    assert (directory / "not-collected.txt").read_text() == "console log: recorded.log\n"
    assert (directory / "observations.json").exists()
    assert (directory / "kernel.log").exists()


def test_the_log_of_a_host_begins_at_the_last_mark() -> None:
    machine = FakeMachine()
    machine.answer(
        ["dmesg"], f"old\n[1.0] {KERNEL_LOG_MARK} 1\nother arm\n[2.0] {KERNEL_LOG_MARK} 2\nfault\n"
    )
    assert read_kernel_log(machine) == " 2\nfault\n"


def test_a_machine_without_a_console_has_no_log_of_one(tmp_path: Path) -> None:
    machine = FakeMachine()
    machine.answer(["bash", "-c"], Answer(stdout=tar_of(FILES)))
    machine.answer(["dmesg"], "")
    collect(machine, Observation(), tmp_path / "evidence")
    assert not (tmp_path / "evidence" / "console.log").exists()
    assert not (tmp_path / "evidence" / "not-collected.txt").exists()


def test_every_call_to_the_guest_is_bounded(tmp_path: Path) -> None:
    machine = guest(tmp_path, tar_of(FILES))
    fake = cast("Guest", machine)
    latest = Deadline.after(LONGEST, "evidence").at + 5  # the calls start later than this
    collect(machine, Observation(), tmp_path / "evidence")
    collect_hang(machine, tmp_path / "evidence")
    read_kernel_log(machine)
    assert len(fake.calls) == 4
    for call in fake.calls:
        assert call.deadline.seconds <= LONGEST
        assert call.deadline.at < latest


def test_no_image_is_asked_for(tmp_path: Path) -> None:
    """Images hold the memory of the task, and the key module's the keys."""
    machine = guest(tmp_path, tar_of(FILES))
    collect(machine, Observation(), tmp_path / "evidence")
    (call,) = cast("Guest", machine).called("bash")
    script = call.argv[-1]
    packed = [word for word in script.split() if word.startswith(f"{IMAGES[1:]}/")]
    assert packed == [f"{IMAGES[1:]}/*.log"]
    assert all(path[1:] in script for path in (EXITS, OUTPUT))
    assert ".img" not in script


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../../outside"])
def test_a_guest_cannot_choose_where_its_files_go(tmp_path: Path, name: str) -> None:
    collected(tmp_path, tar_of({name: b"x"}))
    assert list(tmp_path.rglob("outside")) == [tmp_path / "results" / "stock" / "outside"]


def test_only_plain_files_are_taken_from_the_guest(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"odd-{kind!r}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert set(collected(tmp_path, packed.getvalue())) == OWN


def dead() -> Observation:
    premise = Premise(name="source_pac", declared=True, observed=None)
    return Observation(premises={"source_pac": premise}, exit_status=139, core=CORE, fault=FAULT)


def test_registers_are_those_of_the_death(tmp_path: Path) -> None:
    found = json.loads(collected(tmp_path, tar_of({}), dead())["registers.json"])
    assert found["signal"] == "SIGSEGV"
    assert found["threads"][0]["nstid"] == 35
    assert found["threads"][0]["pc"] == found["threads"][0]["lr"] == "0x0069ffffb754e4dc"
    assert found["fault"]["esr"] == "0x0000000082000004"
    assert found["general"]["x8"] == "0x0000000000000073"


def test_registers_that_were_not_read_are_null(tmp_path: Path) -> None:
    found = json.loads(collected(tmp_path, tar_of({}))["registers.json"])
    assert found == {"signal": None, "fault": None, "threads": [], "general": None}


def test_observations_are_json_of_everything_seen(tmp_path: Path) -> None:
    found: dict[str, Any] = json.loads(collected(tmp_path, tar_of({}), dead())["observations.json"])
    assert found["premises"]["source_pac"] == {"name": "source_pac", "declared": True, "observed": None}
    assert (found["exit_status"], found["restored"]) == (139, None)
    assert found["core"]["threads"][0]["nstid"] == 35
    assert found["fault"]["registers"]["x8"] == 0x73


def test_the_stacks_of_a_hang(tmp_path: Path) -> None:
    collect_hang(guest(tmp_path, "== /proc/1/task/1 init\n"), tmp_path / "evidence")
    assert (tmp_path / "evidence" / "stacks.txt").read_text() == "== /proc/1/task/1 init\n"


@pytest.mark.parametrize("error", [MachineDiedError("QEMU was killed"), Answer(hangs=True)])
def test_stacks_that_cannot_be_had_say_why(tmp_path: Path, error: HarnessError | Answer) -> None:
    collect_hang(guest(tmp_path, error), tmp_path / "evidence")
    assert (tmp_path / "evidence" / "stacks.txt").read_text().startswith("not collected: ")


def test_a_kernel_log_that_cannot_be_read_is_no_empty_one() -> None:
    machine = FakeMachine()
    machine.answer(["dmesg"], Answer(returncode=1, stderr=b"dmesg: not permitted"))
    with pytest.raises(MachineError, match="not permitted"):
        read_kernel_log(machine)
