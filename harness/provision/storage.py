"""Files on the host's disk: digests, sizes, removal, and its failures said in plain words."""

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import StorageError

_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
_CHUNK = 1 << 20


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or a broken disk at ``path`` into a StorageError."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in _SPACE:
            raise StorageError(
                f"no space left for {where} ({_free_space(path)})",
                hint="free some, run `criu-pac cache prune`, or set CRIU_PAC_CACHE to a directory with space",
            ) from error
        if error.errno in _PERMISSION:
            raise StorageError(
                f"cannot write {where}: {error.strerror} ({_free_space(path)})",
                hint="set CRIU_PAC_CACHE to a directory you may write to",
            ) from error
        if error.errno == errno.EIO:
            raise StorageError(f"the disk failed at {where}: {error.strerror}") from error
        raise


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; raise OSError when it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def disk_size(path: Path) -> int:
    """Return the bytes a file or a tree takes on disk; holes of sparse files count nothing."""
    total = 0
    pending = [path]
    while pending:
        current = pending.pop()
        try:
            status = current.lstat()
            total += status.st_blocks * 512
            if current.is_dir() and not current.is_symlink():
                pending += current.iterdir()
        except FileNotFoundError:  # pruned by another process in this moment
            continue
    return total


def remove_tree(path: Path) -> None:
    """Remove a directory whatever the modes of the directories in it; a missing one is fine."""
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o700)  # noqa: PTH101 -- os.walk gives strings
    shutil.rmtree(path, ignore_errors=True)


def discard(path: Path) -> None:
    """Take a directory of the cache out of sight in one step, then remove it; a missing one is fine.

    Whoever has files of it open keeps them.
    """
    doomed = path.with_name(f".{path.name}.building-{os.getpid()}-{time.monotonic_ns()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
        remove_tree(doomed)


def _free_space(path: Path) -> str:
    for place in (path, *path.parents):
        try:
            return f"{shutil.disk_usage(place).free / 1e6:.0f} MB free at {place}"
        except OSError:
            continue
    return "free space unknown"
