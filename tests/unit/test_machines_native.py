"""The host as a machine: what it is asked, how it gets root, and how its commands end."""

import contextlib
import os
import platform
import struct
import time
from pathlib import Path

import pytest

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError, HostError, MachineDiedError, MachineError
from harness.core.process import CommandResult
from harness.machines.native import NativeMachine, docker_url, root_words, shows_pac

PACA = 1 << 30


def machine(directory: Path, root: tuple[str, ...] = ()) -> NativeMachine:
    return NativeMachine(root, directory, "unix:///run/docker.sock")


def soon(seconds: float = 20) -> Deadline:
    return Deadline.after(seconds, "a command")


@pytest.mark.parametrize(
    ("entries", "pac"),
    [
        ([(16, PACA), (0, 0)], True),
        ([(16, 0xFF), (0, 0)], False),
        ([(26, PACA), (16, 0), (0, 0)], False),  # AT_HWCAP2 has another meaning for that bit
        ([(0, 0)], False),
    ],
)
def test_pac_is_a_bit_of_the_hardware_capabilities(entries: list[tuple[int, int]], *, pac: bool) -> None:
    assert shows_pac(b"".join(struct.pack("QQ", *one) for one in entries)) is pac


def test_another_architecture_shows_no_pac(monkeypatch: pytest.MonkeyPatch) -> None:
    # On x86 bit 30 of AT_HWCAP is a bit of CPUID.
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert not shows_pac()


@pytest.mark.parametrize("url", ["unix:///home/a/docker.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:1"])
def test_an_engine_of_this_host_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    assert docker_url() == url


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:2375", "ssh://somebody@elsewhere", "tcp://localhost.evil"])
def test_an_engine_of_another_host_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    with pytest.raises(HostError, match=r"no engine of this host.*--machine qemu"):
        docker_url()


def test_root_itself_needs_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert root_words() == ()


@pytest.mark.parametrize(("answer", "words"), [(0, ("sudo", "-n")), (1, None)])
def test_others_need_sudo_without_a_password(
    monkeypatch: pytest.MonkeyPatch, answer: int, words: tuple[str, ...] | None
) -> None:
    def run(argv: list[str], deadline: Deadline) -> CommandResult:
        said = b"sudo: a password is required\n"
        return CommandResult(argv=tuple(argv), returncode=answer, stdout=b"", stderr=said)

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(process, "run", run)
    if words:
        assert root_words() == words
    else:
        with pytest.raises(HostError, match=r"a password is required.*--machine qemu"):
            root_words()


def test_a_host_without_sudo_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="cannot start sudo"):
        root_words()


def test_commands_get_input_and_a_plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    result = machine(tmp_path).run(
        ["bash", "-c", "cat; echo $PYTHONPATH $HOME; exit 3"], soon(), stdin=b"in "
    )
    assert (result.stdout, result.returncode) == (b"in /root\n", 3)


def test_root_comes_before_everything(tmp_path: Path) -> None:
    # Whatever runs the rest of its words stands in for sudo.
    result = machine(tmp_path, ("env", "WHO=sudo")).run(["bash", "-c", "echo $WHO"], soon())
    assert result.text == "sudo\n"


def test_what_outlives_its_deadline_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    script = f"echo $$ > {tmp_path}/pid; sleep 60 & wait"
    with pytest.raises(DeadlineError, match=r"a command took longer than 0\.5 s"):
        machine(tmp_path).run(["bash", "-c", script], soon(0.5))
    assert time.monotonic() - started < 30
    pid = (tmp_path / "pid").read_text().strip()
    with contextlib.suppress(FileNotFoundError):  # or nobody has waited for it yet
        assert "State:\tZ" in Path("/proc", pid, "status").read_text()


def test_nothing_is_started_after_the_deadline_or_the_end(tmp_path: Path) -> None:
    host = machine(tmp_path)
    with pytest.raises(DeadlineError):
        host.run(["touch", f"{tmp_path}/made"], soon(0))
    host.close()
    with pytest.raises(MachineDiedError):
        host.run(["touch", f"{tmp_path}/made"], soon())
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("root", [(), ("env",)])
def test_files_are_read(tmp_path: Path, root: tuple[str, ...]) -> None:
    (tmp_path / "file").write_bytes(b"\xff\n")
    assert machine(tmp_path, root).read_file(f"{tmp_path}/file", soon()) == b"\xff\n"
    with pytest.raises(MachineError, match=r"cannot read .*missing.*No such file"):
        machine(tmp_path, root).read_file(f"{tmp_path}/missing", soon())
