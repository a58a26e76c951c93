"""The content-addressed cache: files by SHA-256, built directories by key, shared by many processes."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harness.core import steps
from harness.core.errors import StorageError
from harness.provision.manifest import manifest_problem, write_manifest
from harness.provision.storage import discard, disk_size, file_sha256, remove_tree, storage_errors
from harness.provision.uses import Uses

# Kinds only their owner may read: a template is the memory of a machine.
_PRIVATE = frozenset({"template"})
_LOCK_PATIENCE = 0.5  # seconds between two looks at whether waiting still makes sense


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing in the cache; ``size`` in bytes, ``last_used`` in seconds since the epoch."""

    kind: str
    key: str
    path: Path
    size: int
    last_used: float
    in_use: bool


class Cache:
    """Blobs and artifacts below one directory.

    Everything becomes visible by a rename, so a reader sees it whole or not at all. An
    entry is in use from the moment it is handed out until ``close`` or the end of the
    process; ``prune`` leaves it alone. Locks are kernel locks: a killed process keeps none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.damaged: set[str] = set()  # blobs by digest and artifacts by name that were found so
        self._uses = Uses(root / "uses")
        self._cancelled = threading.Event()

    def close(self) -> None:
        """Give back everything handed out. Idempotent."""
        self._uses.close()

    def cancel(self) -> None:
        """Make every wait for another process's lock fail soon, now and for good. From any thread."""
        self._cancelled.set()

    def blob(self, sha256: str, size: int) -> Path | None:
        """Return the file with this digest, or None when it is missing.

        Size (bytes) and digest are checked again; a file that fails either is removed.
        """
        path = self._blob_path(sha256)
        with storage_errors(path):
            self._uses.hold("blobs")
            try:
                intact = path.stat().st_size == size and file_sha256(path) == sha256
            except FileNotFoundError:
                return None
            if not intact:
                path.unlink(missing_ok=True)
                self.damaged.add(sha256)
                return None
            os.utime(path)
            return path

    def adopt(self, part: Path, sha256: str) -> Path:
        """Move a file of the cache's own filesystem, already verified, in as a blob."""
        path = self._blob_path(sha256)
        with storage_errors(path):
            self._uses.hold("blobs")
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.chmod(0o644)
            return part.replace(path)

    def partial(self, sha256: str) -> Path:
        """Return where the download of this digest is collected; its directory exists."""
        path = self.root / "partial" / f"{sha256}.part"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def locked(self, name: str, *, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the lock ``name``, shared by every process that uses this cache.

        Raises StorageError when ``cancelled`` says so, or after ``cancel``, while another process
        holds it.
        """
        path = self.root / "locks" / f"{name}.lock"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            while True:
                try:
                    lock.acquire(timeout=_LOCK_PATIENCE)
                    break
                except Timeout:
                    if cancelled() or self._cancelled.is_set():
                        raise StorageError(f"gave up waiting for {path}") from None
        try:
            yield
        finally:
            lock.release()

    def state(self, *names: str) -> Path:
        """Return the path of a small state file; its directory exists."""
        path = self.root.joinpath("state", *names)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_state(self, path: Path, text: str) -> None:
        """Replace a state file in one step."""
        with storage_errors(path):
            fd, name = tempfile.mkstemp(dir=path.parent, prefix=".")
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(name).replace(path)

    def artifact(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Return the directory ``kind``/``key``, building it once if nobody has.

        ``build`` fills an empty directory that becomes visible only after it returned.
        Whatever it raises reaches the caller and leaves nothing behind.
        """
        if existing := self.existing_artifact(kind, key):
            return existing
        final = self._artifact_path(kind, key)
        with self.locked(f"build-{kind}-{key}"), storage_errors(final):
            if existing := self.existing_artifact(kind, key):
                return existing
            discard(final)
            self._uses.hold(f"{kind}-{key}")
            for stale in final.parent.glob(f".{key}.building-*"):
                remove_tree(stale)
            work = Path(tempfile.mkdtemp(prefix=f".{key}.building-", dir=final.parent))
            try:
                build(work)
                write_manifest(work)
                work.chmod(0o700 if kind in _PRIVATE else 0o755)
                work.rename(final)
                # One of this key that was removed has left its stamp.
                os.utime(self._uses.stamp(f"{kind}-{key}"))
            except BaseException:
                remove_tree(work)
                raise
            return final

    def existing_artifact(self, kind: str, key: str) -> Path | None:
        """Return the directory ``kind``/``key`` if it has been built, marking it used.

        One whose files are no longer as they were built (cut, changed, missing) counts as
        not built, with a note; ``artifact`` replaces it.
        """
        final = self._artifact_path(kind, key)
        with storage_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            name = f"{kind}-{key}"
            self._uses.hold(name)
            if not final.is_dir():
                self._uses.release(name)
                return None
            if problem := manifest_problem(final):
                if name not in self.damaged:
                    steps.note(f"the cache entry {final} is damaged and will be built again: {problem}")
                self.damaged.add(name)
                return None
            os.utime(self._uses.stamp(name))
            return final

    def list_entries(self) -> tuple[Entry, ...]:
        """Return what the cache holds, least recently used first."""
        blobs = [self._entry("blobs", path.name, path) for path in self.root.glob("blobs/*/[0-9a-f]*")]
        return _by_use([*blobs, *self._artifacts("*")])

    def prune(self, max_bytes: int = 0) -> tuple[Entry, ...]:
        """Remove the least recently used entries until at most ``max_bytes`` bytes are left.

        Entries in use stay. Half-built and half-downloaded leftovers of dead processes go
        too. Returns what was removed.
        """
        removed = self._shrink(self.list_entries(), max_bytes)
        self.sweep()
        self._drop_partial()
        return removed

    def prune_kind(self, kind: str, max_bytes: int) -> tuple[Entry, ...]:
        """Remove the least recently used artifacts of ``kind`` until they take at most ``max_bytes`` bytes.

        Artifacts in use stay, so more may be left. Returns what was removed.
        """
        return self._shrink(_by_use(self._artifacts(kind)), max_bytes)

    def _shrink(self, entries: Sequence[Entry], max_bytes: int) -> tuple[Entry, ...]:
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if total <= max_bytes:
                break
            if self._remove(entry):
                total -= entry.size
                removed.append(entry)
        return tuple(removed)

    def sweep(self) -> tuple[Path, ...]:
        """Remove what killed processes left half built or half removed; return it.

        Whoever builds uses the entry from before its directory is made. Half downloads stay:
        they are resumed. What cannot be removed stays without a word.
        """
        swept = []
        for work in sorted(self.root.glob("artifacts/*/.*.building-*")):
            name = work.name[1:].rpartition(".building-")[0]
            with (
                contextlib.suppress(OSError, StorageError),
                self._uses.exclusive(f"{work.parent.name}-{name}") as free,
            ):
                if free:
                    remove_tree(work)
                    swept.append(work)
        return tuple(swept)

    def _drop_partial(self) -> None:
        with self._uses.exclusive("blobs") as free:
            if free:
                for part in self.root.glob("partial/*.part"):
                    part.unlink(missing_ok=True)

    def _remove(self, entry: Entry) -> bool:
        with self._uses.exclusive(_use_name(entry.kind, entry.key)) as free, storage_errors(entry.path):
            if not free:
                return False
            if entry.kind == "blobs":
                entry.path.unlink(missing_ok=True)
            else:
                discard(entry.path)
            return True

    def _artifacts(self, kind: str) -> Iterator[Entry]:
        for path in self.root.glob(f"artifacts/{kind}/[!.]*"):
            yield self._entry(path.parent.name, path.name, path)

    def _entry(self, kind: str, key: str, path: Path) -> Entry:
        name = _use_name(kind, key)
        stamp = path if kind == "blobs" else self._uses.stamp(name)
        with self._uses.exclusive(name) as free:
            return Entry(
                kind=kind,
                key=key,
                path=path,
                size=disk_size(path),
                last_used=stamp.stat().st_mtime if stamp.exists() else time.time(),
                in_use=not free,
            )

    def _blob_path(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256

    def _artifact_path(self, kind: str, key: str) -> Path:
        return self.root / "artifacts" / kind / key


def _by_use(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.last_used, entry.kind, entry.key)))


def _use_name(kind: str, key: str) -> str:
    # Blobs share one lock: they are many, and whoever uses one uses a hundred.
    return kind if kind == "blobs" else f"{kind}-{key}"
