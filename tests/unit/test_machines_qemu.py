"""A machine whose QEMU is a shell script that ends at once: errors say why, nothing is left behind."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.core.deadline import Deadline
from harness.core.errors import HostError, MachineDiedError, MachineError, StorageError
from harness.machines.qemu import QemuMachine
from harness.machines.qemu_config import MachineFiles
from harness.machines.template import Template, TemplateSpec, template

FILES = MachineFiles(
    kernel=Path("/cache/Image"),
    initramfs=Path("/cache/initramfs"),
    root=Path("/cache/root.erofs"),
    tools=Path("/cache/tools.erofs"),
)
KILLED = "was killed by (signal 9|SIGKILL)"
SPEC = TemplateSpec(key="abc", program=("/no/such/qemu",), cpu="neoverse-v1", files=FILES)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path, tempfile.TemporaryDirectory() as state:
        monkeypatch.setenv("XDG_RUNTIME_DIR", path)  # not tmp_path: a socket's path has to fit
        monkeypatch.setenv("XDG_STATE_HOME", state)  # logs of failures are kept there
        yield Path(path)


def _start(runtime: Path, *program: str) -> QemuMachine:
    return QemuMachine.start(
        program=program, cpu="max", files=FILES, ram=runtime / "ram", ram_shared=True, incoming=False
    )


def _wait_for_end(pid: int) -> None:
    def ended() -> bool | None:
        # A zombie: nobody has waited for it yet.
        return True if " Z " in Path(f"/proc/{pid}/stat").read_text("ascii") else None

    Deadline.after(5, "end of the script").poll(ended)


def _directories(runtime: Path) -> list[Path]:
    return [path for path in runtime.iterdir() if path.is_dir()]


def test_a_program_that_is_not_there_is_named_and_leaves_nothing(runtime: Path) -> None:
    with pytest.raises(HostError, match=r"cannot start .*/no/such/qemu"):
        _start(runtime, "/no/such/qemu")
    assert list(runtime.iterdir()) == []


def test_a_qemu_that_refuses_is_quoted(runtime: Path) -> None:
    with _start(runtime, "sh", "-c", "echo 'unable to find CPU model' >&2; exit 1") as machine:
        _wait_for_end(machine.pid)
        with pytest.raises(MachineError, match="unable to find CPU model"):
            machine.boot(Deadline.after(5, "boot"))
        assert isinstance(error := machine.lost(), MachineDiedError)
        assert "exit code 1" in str(error)


def test_a_qemu_that_was_killed_is_told_from_one_that_ended(runtime: Path) -> None:
    with _start(runtime, "sh", "-c", "kill -KILL $$") as machine:
        _wait_for_end(machine.pid)
        assert re.search(KILLED, str(machine.lost()))
        with pytest.raises(MachineDiedError, match=KILLED):
            machine.run(["true"], Deadline.after(5, "a command"))


def test_closing_ends_the_process_and_removes_its_directory(runtime: Path) -> None:
    machine = _start(runtime, "sleep", "60", "--")
    assert machine.directory.parent == runtime
    assert machine.docker_url == f"unix://{machine.directory}/docker.sock"
    machine.close()
    machine.close()
    assert _directories(runtime) == []
    with pytest.raises(ProcessLookupError):
        os.kill(machine.pid, 0)


class FakeStore:
    """An ArtifactStore with one artifact that somebody has made already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, str]] = []

    def artifact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        self.asked.append((kind, key))
        return self.path


class EmptyStore:
    """An ArtifactStore in which everything has to be made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def artifact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        build(self.path)
        return self.path


def _never(_: QemuMachine) -> dict[str, str]:
    raise AssertionError("a template that is there is not prepared again")


def test_a_template_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    facts = {"container_pid": "412", "control own keys": "alive"}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    store = FakeStore(tmp_path)
    assert template(store, SPEC, _never) == Template(spec=SPEC, path=tmp_path, facts=facts)
    assert store.asked == [("template", "abc")]


@pytest.mark.parametrize("facts", [b"", b'{"container_pid": "4', b"\xff\xfe", b"[]", b"null", None])
def test_damaged_facts_are_a_damaged_template(tmp_path: Path, facts: bytes | None) -> None:
    if facts is not None:
        (tmp_path / "facts.json").write_bytes(facts)
    with pytest.raises(StorageError, match=r"the template .* is damaged.*cache prune"):
        template(FakeStore(tmp_path), SPEC, _never)


def test_a_template_that_cannot_boot_leaves_nothing_running(runtime: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot start .*/no/such/qemu"):
        template(EmptyStore(tmp_path), SPEC, _never)
    assert _directories(runtime) == []
    assert not (tmp_path / "facts.json").exists()
