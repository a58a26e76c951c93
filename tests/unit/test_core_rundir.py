"""Run directories: private, locked while owned, swept once orphaned."""

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.rundir import RunDirectory, runtime_base, sweep


def _orphan(base: Path, name: str = "criu-pac-orphan") -> Path:
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
    owned.remove()
    owned.remove()
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
    (tmp_path / "criu-pac-without-lock").mkdir()
    (tmp_path / "criu-pac-abc.console.log").write_text("a kept log")
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
