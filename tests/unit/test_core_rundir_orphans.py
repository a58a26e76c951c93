"""What a killed process can leave of a run directory, at any instant, goes; what is not ours stays."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core import steps
from harness.core.errors import HostError, StorageError
from harness.core.rundir import UNDO, RunDirectory, sweep

LONG_AGO = time.time() - 3600


def aged(path: Path) -> Path:
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def test_killed_before_it_got_its_name(tmp_path: Path) -> None:
    for name, with_lock in ((".criu-pac-run-one_born", True), (".criu-pac-run-two_born", False)):
        (tmp_path / name).mkdir(mode=0o700)
        if with_lock:
            (tmp_path / name / "lock").touch()
    assert sweep(base=tmp_path) == [], "somebody may be making them at this moment"
    for path in tmp_path.iterdir():
        aged(path)
    assert len(sweep(base=tmp_path)) == 2
    assert list(tmp_path.iterdir()) == []


def test_killed_while_it_was_removed(tmp_path: Path) -> None:
    (tmp_path / "criu-pac-run-nolock_1").mkdir(mode=0o700)
    assert sweep(base=tmp_path) == [], "its owner may be about to remove it"
    aged(tmp_path / "criu-pac-run-nolock_1")
    assert len(sweep(base=tmp_path)) == 1


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "goes"),
    [
        (lambda path: (path / "console.log").touch(), True),
        (lambda path: _socket(path / "qmp.sock"), True),
        (lambda path: (path / "results.jsonl").touch(), False),
        (lambda path: (path / "no.sock").touch(), False),
        (lambda path: (path / "no.log").mkdir(), False),
        (lambda path: (path / "away.log").symlink_to("/etc/passwd"), False),
    ],
)
def test_without_a_lock_it_is_told_by_what_it_holds(make: Callable[[Path], object], *, goes: bool) -> None:
    with tempfile.TemporaryDirectory() as base:  # not tmp_path: the path of a socket has 107 bytes at most
        path = Path(base) / "criu-pac-run-nolock_1"
        path.mkdir(mode=0o700)
        make(path)
        aged(path)
        assert sweep(base=Path(base)) == [path] * goes
        assert path.exists() is not goes


def test_a_hidden_one_with_an_owner_stays(tmp_path: Path) -> None:
    with RunDirectory.create(base=tmp_path) as owned:
        hidden = owned.path.rename(tmp_path / ".criu-pac-run-slow_one")
        aged(hidden)
        assert sweep(base=tmp_path) == []
        hidden.rename(owned.path)


def test_the_lock_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    unlink = os.unlink

    def watched(path: str, **keywords: int) -> None:
        removed.append(os.path.basename(os.fspath(path)))  # noqa: PTH119 -- what the os module is given
        unlink(path, **keywords)

    owned = RunDirectory.create(base=tmp_path)
    for name in ("a", "qmp.sock", "z"):
        (owned.path / name).touch()
    (owned.path / "directory").mkdir()
    monkeypatch.setattr(os, "unlink", watched)
    owned.close()
    assert sorted(removed[:-1]) == ["a", "qmp.sock", "z"]
    assert removed[-1] == "lock"
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_directory_is_none(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "lock").touch()
    place = tmp_path / "run"
    place.mkdir()
    (place / "criu-pac-run-link_one").symlink_to(precious)
    assert sweep(base=place) == []
    assert (precious / "lock").exists()


def test_a_place_with_too_long_a_name_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    with tempfile.TemporaryDirectory(prefix="t") as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        with RunDirectory.create() as owned:
            assert owned.path.parent == Path(short)
            (owned.path / "console.sock").touch()
            assert len(str(owned.path / "console.sock")) <= 107


def test_no_place_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot make a run directory in .*TMPDIR"):
        RunDirectory.create(base=tmp_path / "missing")


def test_the_end_of_the_process_removes_it_but_not_the_end_of_a_fork(tmp_path: Path) -> None:
    owned = RunDirectory.create(base=tmp_path)
    owner, owned._owner = owned._owner, owned._owner + 1
    owned._remove_at_exit()
    assert owned.path.exists()
    owned._owner = owner
    owned._remove_at_exit()
    assert not owned.path.exists()


def _orphan_with_something_to_undo(tmp_path: Path) -> Path:
    path = tmp_path / "criu-pac-run-killed_1"
    path.mkdir(mode=0o700)
    (path / "lock").touch()
    (path / UNDO).write_text("{}")
    return path


def test_what_a_killed_owner_changed_is_undone_before_its_directory_goes(tmp_path: Path) -> None:
    path = _orphan_with_something_to_undo(tmp_path)
    assert sweep(base=tmp_path) == [], "this caller cannot undo anything"
    assert (path / UNDO).exists()
    undone: list[Path] = []

    def undo(directory: Path) -> None:
        assert (directory / UNDO).exists()
        undone.append(directory)

    assert sweep(base=tmp_path, undo=undo) == undone == [path]
    assert not path.exists()


def test_what_cannot_be_undone_is_told_and_stays(tmp_path: Path) -> None:
    path = _orphan_with_something_to_undo(tmp_path)
    told: list[str] = []

    def undo(directory: Path) -> None:
        raise HostError("the engine does not answer")

    with steps.subscribed(lambda event: told.append(event.text)):
        assert sweep(base=tmp_path, undo=undo) == []
    assert (path / UNDO).exists()
    assert told == [
        f"what a killed command changed could not be put back, see {path / UNDO}: the engine does not answer"
    ]


def test_an_owner_leaves_what_it_could_not_undo(tmp_path: Path) -> None:
    with RunDirectory.create(base=tmp_path) as owned:
        (owned.path / UNDO).write_text("{}")
    assert (owned.path / UNDO).exists()
    assert sweep(base=tmp_path, undo=lambda _: None) == [owned.path]
