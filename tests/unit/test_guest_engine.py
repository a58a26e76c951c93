"""The engine's client where no engine answers, archives for it, and what maps tell about libraries."""

import io
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import EngineError, MachineDiedError, MachineError, StorageError
from harness.guest.engine import CONTAINERD_LOG, DOCKERD_LOG, DockerEngine, tar_of
from harness.guest.prepare import libraries_of
from harness.machines.fake import Answer, Call, FakeMachine


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    with tempfile.TemporaryDirectory() as directory:
        fake = FakeMachine(Path(directory))
        fake.answer(["bash", "-c"], "512\n")
        fake.answer(["tail"], "level=info\nfailed to start daemon: overlay2 not supported\n")
        fake.answer(["test", "-d"], "")
        yield fake


def test_an_engine_that_ends_while_starting_is_quoted(machine: FakeMachine) -> None:
    machine.answer(["test", "-d", "/proc/512"], "", Answer(returncode=1))
    with (
        closing(DockerEngine(machine)) as engine,
        pytest.raises(EngineError, match="dockerd ended while starting: failed to start daemon: overlay2"),
    ):
        engine.start(Deadline.after(10, "start of dockerd"))
    assert machine.called("tail")[0].argv[-1] == DOCKERD_LOG


def test_an_engine_that_never_answers_is_quoted_too(machine: FakeMachine) -> None:
    with (
        closing(DockerEngine(machine)) as engine,
        pytest.raises(EngineError, match=r"did not answer within 0\.1 s: .*overlay2 not supported"),
    ):
        engine.start(Deadline.after(0.1, "start of dockerd"))


def test_a_script_that_cannot_start_it_is_an_error_of_the_machine(machine: FakeMachine) -> None:
    machine.answer(["bash", "-c"], Answer(returncode=32, stderr=b"mount: no such device"))
    with closing(DockerEngine(machine)) as engine, pytest.raises(MachineError, match="no such device"):
        engine.start(Deadline.after(10, "start of dockerd"))


def test_a_start_that_tells_no_process_id_is_an_error(machine: FakeMachine) -> None:
    machine.answer(["bash", "-c"], "")
    with closing(DockerEngine(machine)) as engine, pytest.raises(EngineError, match="told no process id"):
        engine.start(Deadline.after(10, "start of dockerd"))


def test_a_machine_that_dies_meanwhile_is_no_silent_engine(machine: FakeMachine) -> None:
    machine.answer(["test", "-d"], MachineDiedError("the kernel panicked"))
    with closing(DockerEngine(machine)) as engine, pytest.raises(MachineDiedError, match="panicked"):
        engine.start(Deadline.after(10, "start of dockerd"))


def test_an_engine_whose_log_cannot_be_read_is_still_told(machine: FakeMachine) -> None:
    machine.answer(["tail"], Answer(hangs=True))
    with (
        closing(DockerEngine(machine)) as engine,
        pytest.raises(EngineError, match=r"did not answer within .*: its log could not be read"),
    ):
        engine.start(Deadline.after(0.02, "start of dockerd"))


@pytest.mark.parametrize("failing", ["", "mkdir", "mount", "containerd"])
def test_only_the_engine_itself_is_left_in_the_background(
    tmp_path: Path, machine: FakeMachine, failing: str
) -> None:
    """The script, run here with stand-ins for its programs: what fails is told, and its id is dockerd's."""
    told = tmp_path / "told"
    for name in ("mkdir", "mount"):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {32 if name == failing else 0}\n")
    (tmp_path / "dockerd").write_text(f"#!/bin/sh\necho $$ $PPID > {told}.new\nmv {told}.new {told}\n")
    listen = f"import socket; socket.socket(socket.AF_UNIX).bind('{tmp_path}/socket')"
    start = (
        "echo no cgroup; exit 1" if failing == "containerd" else f'{sys.executable} -c "{listen}"; sleep 1'
    )
    (tmp_path / "containerd").write_text(f"#!/bin/sh\n{start}\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    deadline = Deadline.after(10, "the script")

    def run(call: Call) -> Answer:
        script = call.argv[2].replace(DOCKERD_LOG, str(tmp_path / "log"))
        script = script.replace(CONTAINERD_LOG, str(tmp_path / "containerd.log"))
        script = script.replace("/run/containerd/containerd.sock", str(tmp_path / "socket"))
        ran = process.run(["bash", "-c", script], deadline, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        return Answer(stdout=ran.stdout, stderr=ran.stderr, returncode=ran.returncode)

    machine.answer(["bash", "-c"], run)
    with closing(DockerEngine(machine)) as engine:
        if failing:
            told_why = "ended with 1: no cgroup" if failing == "containerd" else "ended with 32"
            with pytest.raises(MachineError, match=told_why):
                engine.start(deadline)
            assert not told.exists()
            return
        machine.answer(["test", "-d"], Answer(returncode=1))
        with pytest.raises(EngineError, match="ended while starting"):
            engine.start(deadline)
        pid = deadline.poll(lambda: told.read_text().split()[0] if told.exists() else None)
        assert machine.called("test")[0].argv[-1] == f"/proc/{pid}"


def test_an_archive_that_cannot_be_read_is_named(machine: FakeMachine, tmp_path: Path) -> None:
    missing = tmp_path / "base.tar"
    with closing(DockerEngine(machine)) as engine:
        with pytest.raises(StorageError, match=r"cannot read .*/base\.tar: No such file"):
            engine.import_base(missing, "base:1")
        with pytest.raises(StorageError, match=r"cannot read .*/base\.tar: No such file"):
            engine.load_image(missing)
        with pytest.raises(StorageError, match=f"cannot read {tmp_path}: Is a directory"):
            engine.load_image(tmp_path)


def test_a_silent_engine_has_an_empty_log(machine: FakeMachine) -> None:
    machine.answer(["tail"], "\n")
    with closing(DockerEngine(machine)) as engine:
        assert engine.last_words() == "its log is empty"


def test_whatever_fails_names_what_was_asked_of_the_engine(machine: FakeMachine, tmp_path: Path) -> None:
    (tmp_path / "base.tar").write_bytes(tar_of({}))
    with closing(DockerEngine(machine)) as engine:
        attempts: dict[str, Callable[[], object]] = {
            "import of the container base base:1": lambda: engine.import_base(
                tmp_path / "base.tar", "base:1"
            ),
            "load of base.tar": lambda: engine.load_image(tmp_path / "base.tar"),
            "docker build of x": lambda: engine.build(tar_of({"Dockerfile": b"FROM scratch\n"}), "x"),
            "start of a container of x": lambda: engine.run_container(
                "x", name="n", command=[], read_only="/a", shared="/b"
            ),
            "version query": engine.version,
            "copy of /etc out of n": lambda: engine.export("n", "/etc"),
        }
        for what, attempt in attempts.items():
            with pytest.raises(EngineError) as error:
                attempt()
            assert str(error.value).startswith(f"container engine: {what} failed: ")


def test_an_archive_is_the_same_whatever_the_order_of_its_files() -> None:
    files = {"b/x": b"2", "a": b"1", "b/a": b""}
    archive = tar_of(files)
    assert archive == tar_of(dict(reversed(files.items())))
    assert archive != tar_of({**files, "a": b"changed"})
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == ["a", "b/a", "b/x"]
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
        stream = tar.extractfile("b/x")
        assert stream is not None
        assert stream.read() == b"2"


def test_programs_in_an_archive_are_executable() -> None:
    archive = tar_of({"run": b"", "data": b""}, executable=lambda name: name == "run")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [(member.name, member.mode) for member in tar] == [("data", 0o644), ("run", 0o755)]


MAPS = """\
00400000-00a3c000 r-xp 00000000 00:21 318   /usr/bin/python3.13
00a4c000-00a50000 r--p 0063c000 00:21 318   /usr/bin/python3.13
10d1b000-10de2000 rw-p 00000000 00:00 0   [heap]
ffffb7490000-ffffb762c000 r-xp 00000000 00:21 635   /usr/lib/aarch64-linux-gnu/libc.so.6
ffffb762c000-ffffb763d000 ---p 0019c000 00:21 635   /usr/lib/aarch64-linux-gnu/libc.so.6
ffffb7650000-ffffb7678000 r-xp 00000000 00:21 700   /opt/a b/libx.so (deleted)
ffffb77ca000-ffffb77f1000 r-xp 00000000 00:21 620   /usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1
ffffb77f1000-ffffb77f2000 r-xp 00001000 00:21 620   /usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1
ffffb77c9000-ffffb77ca000 r-xp 00000000 00:00 0   [vdso]
ffffb7800000-ffffb7801000 r-xp 00000000 00:00 0
"""


def test_libraries_are_the_files_mapped_executable() -> None:
    assert libraries_of(MAPS) == (
        "/usr/bin/python3.13",
        "/usr/lib/aarch64-linux-gnu/libc.so.6",
        "/opt/a b/libx.so (deleted)",
        "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    )
    assert libraries_of("") == ()
