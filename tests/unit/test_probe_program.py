"""The portable half of pacprobe, built for this host and run: digests, cores, process 1, errors."""

import hashlib
import io
import json
import platform
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.core.process import CommandResult, check, popen, run
from harness.guest.probe_results import CoreReport, Started, parse
from harness.provision.toolchain import SHARED_C

SOURCES = Path(__file__).parents[2] / "harness" / "guest" / "probe"
# They read arm64 registers; everything else compiles anywhere.
ARM64_ONLY = {"cmd_fresh", "cmd_keys", "cmd_machine", "cmd_threads", "cmd_watch", "regsets"}
SALT = bytes(range(32))
KEYS = [bytes([0x41 + n]) * 8 + bytes([0xC1 + n]) * 8 for n in range(5)]  # IA, IB, DA, DB, GA
INSN_MASK = 0x007F000000000000
PC, LR, SP = 0x003EFFFFA159E4DC, 0x003EFFFFA159E4DC, 0x0000FFFFF2A41230
# No process has this number: pid_max is 4194304 at most.
PID = 4194305


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    program: Path
    directory: Path

    def run(self, *arguments: str, stdin: bytes = b"") -> CommandResult:
        return run([self.program, *arguments], Deadline.after(10, "pacprobe"), stdin=stdin)

    def core(self, core: bytes, comm: str = "python3") -> CommandResult:
        salt = self.directory / "salt"
        salt.write_bytes(SALT)
        where = ["--dir", str(self.directory), "--salt", str(salt)]
        return self.run("core", *where, str(PID), "7", "11", comm, stdin=core)

    def report(self) -> str:
        return (self.directory / f"core.{PID}.json").read_text()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probe") / "pacprobe"
    sources = [source for source in sorted(SOURCES.glob("*.c")) if source.stem not in ARM64_ONLY]
    sources.append(SHARED_C / "sha256.c")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu"]
    flags = ["-O1", "-s", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{SHARED_C}", "-o"]
    # The first build on a machine includes zig's own start-up objects; later ones are cached.
    check([*zig, *flags, path, *sources], Deadline.after(120, "build of pacprobe"))
    return path


@pytest.fixture
def probe(program: Path, tmp_path: Path) -> Probe:
    return Probe(program=program, directory=tmp_path)


def note(name: str, kind: int, data: bytes) -> bytes:
    text = name.encode() + b"\0"
    padded = text + b"\0" * (-len(text) % 4)
    return struct.pack("<III", len(text), len(data), kind) + padded + data + b"\0" * (-len(data) % 4)


def prstatus(tid: int, signo: int) -> bytes:
    registers = [0] * 30 + [LR, SP, PC, 0x60001000]
    head = struct.pack("<iiihxxQQi", signo, 0, 0, signo, 0, 0, tid).ljust(112, b"\0")
    return head + struct.pack("<34Q", *registers) + bytes(8)


def thread_notes(tid: int, signo: int, *, keys: list[bytes] | None) -> bytes:
    notes = note("CORE", 1, prstatus(tid, signo))
    if keys is not None:
        notes += note("LINUX", 0x406, struct.pack("<QQ", INSN_MASK, INSN_MASK))
        notes += note("LINUX", 0x407, b"".join(keys[:4])) + note("LINUX", 0x408, keys[4])
        notes += note("LINUX", 0x40A, struct.pack("<Q", 0xF))
    return notes


SIGINFO = note("CORE", 0x53494749, struct.pack("<iii4xQ", 11, 0, 1, PC).ljust(128, b"\0"))
TWO_THREADS = thread_notes(7, 11, keys=KEYS) + SIGINFO + thread_notes(8, 11, keys=KEYS[::-1])


def elf_core(notes: bytes, *, machine: int = 183, note_size: int | None = None) -> bytes:
    """A core as the kernel writes it: headers, notes, then the memory of the task."""
    at = 64 + 2 * 56
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    size = len(notes) if note_size is None else note_size
    segments = struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, size, 0, 0)
    segments += struct.pack("<IIQQQQQQ", 1, 5, at + len(notes), 0x400000, 0, 4096, 4096, 4096)
    return head + segments + notes + b"".join(KEYS) + bytes(4096)


def fingerprint(keys: bytes) -> str:
    return hashlib.sha256(SALT + keys).hexdigest()[:16]


@pytest.mark.parametrize("size", [0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 128, 100_000])
def test_sha256_agrees_with_hashlib(probe: Probe, size: int) -> None:
    data = bytes(n * 7 & 255 for n in range(size))
    assert json.loads(probe.run("sha256", stdin=data).text) == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": size,
    }


def test_core_report_has_registers_masks_and_fingerprints(probe: Probe) -> None:
    assert probe.core(elf_core(TWO_THREADS)).returncode == 0
    report = parse(CoreReport, "core", probe.report())
    assert (report.pid, report.nspid, report.signal, report.comm) == (PID, 7, 11, "python3")
    first, second = report.threads
    assert (first.nstid, first.pc, first.lr, first.sp, first.pstate) == (7, PC, LR, SP, 0x60001000)
    assert (first.insn_mask, first.enabled_keys, first.tid, first.pc_mapping) == (INSN_MASK, 15, None, None)
    assert first.keys is not None
    assert second.keys is not None
    assert first.keys.fingerprint == fingerprint(b"".join(KEYS))
    single = [first.keys.ia, first.keys.ib, first.keys.da, first.keys.db, first.keys.ga]
    assert single == [fingerprint(key) for key in KEYS]
    assert second.keys.ia == first.keys.ga
    assert report.siginfo is not None
    assert (report.siginfo.signo, report.siginfo.code, report.siginfo.addr) == (11, 1, PC)


def test_kept_core_parses_and_differs_only_in_the_keys(probe: Probe) -> None:
    probe.core(elf_core(TWO_THREADS))
    kept = ELFFile(io.BytesIO((probe.directory / f"core.{PID}").read_bytes()))
    (segment,) = kept.iter_segments()
    assert isinstance(segment, NoteSegment)
    notes = list(segment.iter_notes())
    assert (kept.header["e_type"], kept.header["e_machine"], len(notes)) == ("ET_CORE", "EM_AARCH64", 11)
    blanked = TWO_THREADS
    for key in KEYS:
        blanked = blanked.replace(key, bytes(16))
    assert segment.data() == blanked


def test_no_key_reaches_any_file(probe: Probe) -> None:
    core = elf_core(TWO_THREADS)
    assert all(key in core for key in KEYS)
    result = probe.core(core)
    written = [path.read_bytes() for path in probe.directory.iterdir() if path.name != "salt"]
    assert len(written) == 2
    for data in [*written, result.stdout, result.stderr]:
        for key in KEYS:
            for form in (key, key[::-1], key.hex().encode(), key[::-1].hex().encode()):
                assert form not in data


def test_core_of_a_machine_without_pac_has_nulls(probe: Probe) -> None:
    probe.core(elf_core(thread_notes(7, 11, keys=None)))
    report = parse(CoreReport, "core", probe.report())
    assert report.threads[0].keys is None
    assert report.threads[0].insn_mask is None
    assert report.siginfo is None


def test_a_task_may_have_any_name(probe: Probe) -> None:
    assert probe.core(elf_core(TWO_THREADS), '--dir "x\\\n\xe9').returncode == 0
    assert json.loads(probe.report())["comm"] == '--dir "x\\\n\xc3\xa9'


@pytest.mark.parametrize(
    ("core", "why"),
    [
        (b"", "ends at byte 0"),
        (b"not a core at all".ljust(400, b"."), "not a 64-bit little-endian ELF core"),
        (elf_core(TWO_THREADS, machine=62), "machine 62"),
        (elf_core(TWO_THREADS)[:600], "ends at byte 600"),
        (elf_core(TWO_THREADS, note_size=len(TWO_THREADS) - 8), "larger than its segment"),
        (elf_core(TWO_THREADS, note_size=1 << 40), "bytes of notes"),
        (elf_core(SIGINFO), "no thread"),
        (elf_core(note("LINUX", 0x407, bytes(64))), "before any thread"),
        (elf_core(thread_notes(7, 11, keys=None) + note("LINUX", 0x407, KEYS[0])), "has 16 bytes"),
        (elf_core(note("CORE", 1, bytes(336))), "has 336 bytes"),
    ],
)
def test_a_bad_core_is_refused_and_leaves_only_the_reason(probe: Probe, core: bytes, why: str) -> None:
    result = probe.core(core)
    assert result.returncode == 1
    assert why in json.loads(result.text)["error"]
    assert not (probe.directory / f"core.{PID}").exists()
    with pytest.raises(MachineError, match=why):
        parse(CoreReport, "core", probe.report())


def test_salt_of_another_length_is_refused(probe: Probe) -> None:
    short = probe.directory / "short"
    short.write_bytes(b"x" * 31)
    result = probe.run("core", "--dir", str(probe.directory), "--salt", str(short), "1", "1", "11", "x")
    assert "exactly 32 bytes" in json.loads(result.text)["error"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "unknown subcommand"),
        (("nothing",), "unknown subcommand nothing"),
        (("sha256", "--salt", "x"), "unknown option --salt"),
        (("init", "--exits"), "--exits needs a value"),
        (("init", "word"), "unexpected argument word"),
        (("core", "1", "2"), "4 arguments expected, 2 given"),
        (("core", "--dir", "/", "x", "1", "11", "name"), "%P is not a positive number: x"),
        (("reseed", "--hex", "0g"), "other than digits"),
        (("reseed",), "no entropy"),
        (("reseed", "--time"), "--time needs a value"),
        (("reseed", "--new-salt"), "--new-salt needs a value"),
        (("reseed", "--salt", "x"), "unknown option --salt"),
        (("sha256", "--new-salt", "x"), "unknown option --new-salt"),
        (("init", "--exits", "/nonexistent/exits"), "errno 2"),
    ],
)
def test_wrong_use_ends_with_the_reason(probe: Probe, arguments: tuple[str, ...], why: str) -> None:
    result = probe.run(*arguments)
    assert result.returncode == 1
    assert why in json.loads(result.text)["error"]


def test_init_reaps_and_records_raw_statuses(probe: Probe) -> None:
    exits = probe.directory / "exits"
    script = '(sleep 0.1; exit 3) & sh -c \'sleep 0.1; kill -9 $$\' & exec "$0" init --exits "$1"'
    # The children of the shell are the children of what it becomes.
    process = popen(["/bin/sh", "-c", script, str(probe.program), str(exits)])
    try:
        lines = Deadline.after(5, "init").poll(
            lambda: lines if exits.exists() and len(lines := exits.read_text().splitlines()) == 2 else None
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
    assert sorted(line.split()[1] for line in lines) == ["768", "9"]


def test_launch_starts_a_session_with_its_output_in_a_file(probe: Probe) -> None:
    output = probe.directory / "out"
    result = probe.run("launch", str(output), "/bin/sh", "-c", 'read line; echo "$$ [$line]"')
    pid = parse(Started, "launch", result.text).pid
    line = Deadline.after(5, "launched program").poll(lambda: output.read_text() or None)
    assert line == f"{pid} []\n"


def test_launch_of_a_missing_program_is_an_error(probe: Probe) -> None:
    result = probe.run("launch", str(probe.directory / "out"), "/nonexistent/program")
    assert result.returncode == 1
    with pytest.raises(MachineError, match=r"start of /nonexistent/program .* \(errno 2\)"):
        parse(Started, "launch", result.text)


def test_adopt_ends_with_the_program_and_records_what_it_leaves(probe: Probe) -> None:
    exits = probe.directory / "exits"
    leave = "(sleep 0.3; exit 7) & echo $!; exit 5"
    result = probe.run("adopt", str(exits), "/bin/sh", "-c", leave)
    assert result.returncode == 5
    left = int(result.text)
    recorded = Deadline.after(5, "the end of what was left").poll(lambda: exits.read_text() or None)
    assert recorded == f"{left} {7 << 8}\n"


def test_adopt_of_a_missing_program_is_an_exit_code(probe: Probe) -> None:
    result = probe.run("adopt", str(probe.directory / "exits"), "/nonexistent/program")
    assert result.returncode == 127
    assert "/nonexistent/program: No such file" in result.error_text
