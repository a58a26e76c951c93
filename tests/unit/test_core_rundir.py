"""Run directories: private, locked while owned, swept once orphaned."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.errors import StorageError
from harness.core.rundir import RunDirectory, runtime_base, sweep


def _orphan(base: Path, name: str = "criu-pac-run-orphan_1") -> Path:
    """Return a run directory whose owner was killed: its lock file is there, its lock is free."""
    path = base / name
    path.mkdir(mode=0o700)
    (path / "lock").touch()
    (path / "console.log").write_text("last words")
    return path


def test_a_run_directory_is_private_and_locked(tmp_path: Path) -> None:
    with RunDirectory.create(base=tmp_path) as owned:
        assert owned.path.parent == tmp_path
        assert stat.S_IMODE(owned.path.stat().st_mode) == 0o700
        fd = os.open(owned.path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
    assert not owned.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_socket_path_fits(tmp_path: Path) -> None:
    with RunDirectory.create(base=tmp_path) as owned:
        assert len(str(owned.path / "console.sock")) - len(str(tmp_path)) < 40


def test_two_runs_do_not_share_one(tmp_path: Path) -> None:
    with RunDirectory.create(base=tmp_path) as one, RunDirectory.create(base=tmp_path) as other:
        assert one.path != other.path


def test_removal_is_idempotent_and_happens_on_errors_too(tmp_path: Path) -> None:
    owned = RunDirectory.create(base=tmp_path)
    (owned.path / "file").touch()
    with pytest.raises(KeyError), owned:
        raise KeyError
    owned.close()
    owned.close()
    assert not owned.path.exists()


def test_sweep_takes_orphans_and_leaves_what_is_owned(tmp_path: Path) -> None:
    orphan = _orphan(tmp_path)
    with RunDirectory.create(base=tmp_path) as owned:
        assert sweep(base=tmp_path) == [orphan]
        assert not orphan.exists()
        assert (owned.path / "lock").exists()
        assert sweep(base=tmp_path) == []


def test_a_killed_owner_leaves_an_orphan(tmp_path: Path) -> None:
    owned = RunDirectory.create(base=tmp_path)
    os.close(owned._lock_fd)  # what the kernel does for a process that is killed
    assert sweep(base=tmp_path) == [owned.path]
    assert not owned.path.exists()


def test_sweep_leaves_what_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "criu-pac-run-nolock_1").mkdir(mode=0o700)
    (tmp_path / "criu-pac-run-abcd1234.log").write_text("a kept log")
    _orphan(tmp_path, "somebody-else")
    before = sorted(tmp_path.iterdir())
    assert sweep(base=tmp_path) == []
    assert sorted(tmp_path.iterdir()) == before


def test_sweep_leaves_another_users_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    orphan = _orphan(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: orphan.stat().st_uid + 1)
    assert sweep(base=tmp_path) == []
    assert (orphan / "console.log").exists()
    monkeypatch.undo()
    assert sweep(base=tmp_path) == [orphan]


@pytest.mark.parametrize("with_lock", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("criu-pac-results", "criu-pac-harness", "criu-pac-cache", "criu-pac-bench-k3v_0x9a"),
        *("criu-pac-orphan12", "criu-pac-run-", "criu-pac-run-notebook", "criu-pac-run-k3v_0x9a.old"),
        *("criu-pac-run-K3V_0X9A", "criu-pac-run-k3v_0x9a\n", ".criu-pac-cache", "..criu-pac-run-k3v_0x9a"),
    ],
)
def test_sweep_leaves_what_people_made(tmp_path: Path, name: str, *, with_lock: bool) -> None:
    """A results directory, a checkout, a cache: private, old, and even with a file named lock in it."""
    own = tmp_path / name
    own.mkdir(mode=0o700)
    (own / "work.txt").write_text("mine")
    if with_lock:
        (own / "lock").touch()
    os.utime(own, (1, 1))
    # Eight letters are a name of ours; without a lock it is told by what it holds.
    ours = name == "criu-pac-run-notebook" and with_lock
    assert sweep(base=tmp_path) == ([own] if ours else [])
    assert own.exists() is not ours


def test_sweep_leaves_what_others_may_read(tmp_path: Path) -> None:
    orphan = _orphan(tmp_path)
    orphan.chmod(0o755)
    assert sweep(base=tmp_path) == []
    assert (orphan / "console.log").exists()


@pytest.mark.parametrize("failing", ["os.open", "fcntl.flock", "pathlib.Path.rename"])
def test_one_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    real = os.open
    opened: list[int] = []

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def noted(path: str | Path, flags: int, mode: int = 0o777, **keywords: int | None) -> int:
        if Path(path).name != "lock":
            return real(path, flags, mode, **keywords)
        if failing == "os.open":
            fail()
        opened.append(real(path, flags, mode))
        return opened[-1]

    monkeypatch.setattr(os, "open", noted)
    if failing != "os.open":
        monkeypatch.setattr(failing, fail)
    with pytest.raises(StorageError, match="No space left on device"):
        RunDirectory.create(base=tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert len(opened) == (failing != "os.open")
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_sweep_of_an_empty_or_missing_base(tmp_path: Path) -> None:
    assert sweep(base=tmp_path) == []
    assert sweep(base=tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (str, lambda path: path),
        (lambda path: str(path / "missing"), None),
        (lambda _: "", None),
    ],
)
def test_the_base_is_the_users_runtime_directory_where_there_is_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: Callable[[Path], str],
    expected: Callable[[Path], Path] | None,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", "/temporary")
    assert runtime_base() == (expected(tmp_path) if expected else Path("/temporary"))
