"""Who uses what in the cache: kernel locks, shared by users, exclusive for who removes."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.provision.storage import storage_errors


class Uses:
    """Locks by name in one directory. A killed process keeps none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        self._mutex = threading.Lock()

    def stamp(self, name: str) -> Path:
        """Return the file whose modification time says when ``name`` was last used."""
        return self._directory / name

    def hold(self, name: str) -> None:
        """Use ``name`` until ``release`` or ``close``."""
        with self._mutex:
            if name not in self._held:
                fd = self._open(name)
                fcntl.flock(fd, fcntl.LOCK_SH)
                self._held[name] = fd

    def release(self, name: str) -> None:
        """Stop using ``name``."""
        with self._mutex:
            if (fd := self._held.pop(name, -1)) >= 0:
                os.close(fd)

    def close(self) -> None:
        """Stop using everything. Idempotent."""
        with self._mutex:
            for fd in self._held.values():
                os.close(fd)
            self._held.clear()

    @contextmanager
    def exclusive(self, name: str) -> Iterator[bool]:
        """Yield whether nobody uses ``name``; if so, nobody can begin to within the context."""
        fd = self._open(name)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        path = self.stamp(name)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
