"""Run directories: short-lived, 0700, locked by their owner, swept by the next run when orphaned."""

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from harness.core import steps
from harness.core.closing import Closing
from harness.core.errors import HarnessError, StorageError

_PREFIX = "criu-pac-run-"
_LOCK = "lock"
# What the owner changed outside its directory and has not put back yet. The file goes before the directory.
UNDO = "undo.json"
# criu-pac-run-k3v_0x9a, or with a dot in front: mkdtemp adds eight of these characters. People's own
# directories (criu-pac-results, a checkout, a cache) are beside it and must never match.
_NAME = re.compile(rf"\.?{_PREFIX}[a-z0-9_]{{8}}")
# sockaddr_un.sun_path is 108 bytes with its closing zero; the longest name in here is this one.
_ROOM = 107 - len(f"/.{_PREFIX}xxxxxxxx/console.sock")
# A directory without a lock is being made or being removed, both a matter of milliseconds, unless
# its owner was killed then.
_ABANDONED_SECONDS = 60.0
_MODE = 0o700  # mkdtemp's


class RunDirectory(Closing):
    """A private directory for sockets and logs of one run.

    Unix socket paths hold 107 bytes at most, so it is made in XDG_RUNTIME_DIR or /tmp and
    not below the cache. The owner holds an flock on ``lock`` inside it; a directory whose
    lock is free belongs to nobody and is removed by the next ``sweep``. What its owner did not
    remove goes when the process ends in good order.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._owner = os.getpid()
        atexit.register(self._remove_at_exit)

    @classmethod
    def create(cls, *, base: Path | None = None) -> Self:
        """Make a new run directory below ``base`` (default: the user's runtime directory).

        Raises StorageError when there is no place for one.
        """
        parent = base or _roomy_base()
        hidden: Path | None = None
        lock_fd = -1
        try:
            # The lock is taken in a hidden sibling before the directory gets its swept name: a
            # sweep between mkdir and flock would otherwise remove a directory being born.
            hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
            lock_fd = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = hidden.rename(hidden.with_name(hidden.name.removeprefix(".")))
        except OSError as error:
            if hidden:
                _remove_tree(hidden)
            if lock_fd >= 0:
                os.close(lock_fd)
            raise StorageError(
                f"cannot make a run directory in {parent}: {error.strerror}",
                hint="set XDG_RUNTIME_DIR or TMPDIR to a directory you may write to",
            ) from error
        return cls(path, lock_fd)

    def close(self) -> None:
        """Delete the directory and release its lock. Idempotent.

        One with something left to undo stays for the next ``sweep``.
        """
        if self._lock_fd >= 0:
            if not (self.path / UNDO).exists():
                _remove_tree(self.path)
            with contextlib.suppress(OSError):
                os.close(self._lock_fd)
            self._lock_fd = -1
            atexit.unregister(self._remove_at_exit)

    def _remove_at_exit(self) -> None:
        if os.getpid() == self._owner:  # not in a fork
            self.close()


def runtime_base() -> Path:
    """Return where run directories go: XDG_RUNTIME_DIR when writable, else the temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime)
    return Path(tempfile.gettempdir())


def sweep(*, base: Path | None = None, undo: Callable[[Path], None] | None = None) -> list[Path]:
    """Remove the run directories of this user whose owner is gone; return what was removed.

    Whatever else has a name like theirs stays: a directory counts as one by its whole name, its
    mode and its owner, and one without a lock only by what is in it, too.
    Without ``base``, wherever this or an earlier run may have made them. One with a file UNDO is
    given to ``undo`` before; without that, or when it raises a HarnessError, the directory stays.
    """
    places = [base] if base else sorted({runtime_base(), Path(tempfile.gettempdir()), Path("/tmp")})  # noqa: S108
    found = [path for place in places for name in (_PREFIX, f".{_PREFIX}") for path in place.glob(f"{name}*")]
    return [path for path in found if _removed_orphan(path, undo)]


def _roomy_base() -> Path:
    """Return the first place whose name leaves room for the path of a socket."""
    places = [runtime_base(), Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 -- the last resort
    for place in places:
        if len(os.fsencode(place)) <= _ROOM:
            return place
    raise StorageError(f"{places[0]} is too long a name for a directory of sockets", hint="set TMPDIR")


def _removed_orphan(path: Path, undo: Callable[[Path], None] | None) -> bool:
    """Remove ``path`` if it is a run directory of this user that nobody owns; tell whether it was."""
    try:
        status = path.lstat()
        private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == _MODE
        if not _NAME.fullmatch(path.name) or not private or status.st_uid != os.getuid():
            return False
        # A hidden one may have a lock that its maker is about to take.
        young = time.time() - status.st_mtime < _ABANDONED_SECONDS
        locked = (path / _LOCK).exists()
        if young and (path.name.startswith(".") or not locked):
            return False
        if not locked and not all(_is_remnant(entry) for entry in path.iterdir()):
            return False
        with contextlib.ExitStack() as stack:
            if locked:
                fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (path / UNDO).exists():
                _undone(path, undo)
            _remove_tree(path)
    except HarnessError as error:
        steps.note(f"what a killed command changed could not be put back, see {path / UNDO}: {error}")
        return False
    except OSError:  # owned (BlockingIOError), or gone in this moment
        return False
    return True


def _undone(path: Path, undo: Callable[[Path], None] | None) -> None:
    if undo is None:
        raise BlockingIOError(f"{path} has an owner as long as nobody can undo what it says")
    undo(path)


def _is_remnant(entry: Path) -> bool:
    """Return whether a removal that was cut short can have left ``entry``: a socket or a log."""
    mode = entry.lstat().st_mode
    return (entry.suffix == ".sock" and stat.S_ISSOCK(mode)) or (
        entry.suffix == ".log" and stat.S_ISREG(mode)
    )


def _remove_tree(path: Path) -> None:
    """Remove a run directory, its lock last: whoever is killed here leaves one that is swept."""
    with contextlib.suppress(OSError):
        for entry in path.iterdir():
            if entry.name == _LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
