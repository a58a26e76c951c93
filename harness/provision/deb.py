"""Reading Debian packages: an ar archive of two tar archives, without dpkg."""

import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard
from debian.deb822 import Deb822

from harness.core.errors import ArchiveError, IntegrityError

_MAGIC = b"!<arch>\n"
_HEADER_SIZE = 60


class _Section(io.RawIOBase):
    """A window of ``size`` bytes from the current position of ``stream``, read only forward."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


@contextmanager
def data_members(path: Path) -> Iterator[tarfile.TarFile]:
    """Open the files of the package ``path`` as a tar stream, to be read once, in order.

    Raises IntegrityError when the package is damaged.
    """
    with _member(path, "data.tar") as tar:
        yield tar


def control_fields(path: Path) -> Deb822:
    """Return the control paragraph of the package ``path``; raises IntegrityError."""
    with _member(path, "control.tar") as tar:
        for member in tar:
            if member.name in {"control", "./control"} and (stream := tar.extractfile(member)):
                return Deb822(stream.read().decode("utf-8"))
    raise IntegrityError(f"{path} has no control file")


@contextmanager
def _member(path: Path, prefix: str) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as stream:
            name, size = _seek(stream, prefix, path)
            with (
                io.BufferedReader(_Section(stream, size), 1 << 16) as section,
                _decompressed(cast("IO[bytes]", section), name) as plain,
                tarfile.open(fileobj=plain, mode="r|") as tar,
            ):
                yield tar
    except (tarfile.TarError, lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise IntegrityError(f"the package {path} is damaged: {error}") from error


def _seek(stream: IO[bytes], prefix: str, path: Path) -> tuple[str, int]:
    """Leave ``stream`` at the content of the member whose name starts with ``prefix``."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise IntegrityError(f"{path} is not a Debian package")
    while len(header := stream.read(_HEADER_SIZE)) == _HEADER_SIZE:
        # name[16] mtime[12] uid[6] gid[6] mode[8] size[10] end[2]; "data.tar.xz/    " in GNU style
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        if header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            break
        size = int(header[48:58])
        if name.startswith(prefix):
            return name, size
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise IntegrityError(f"the package {path} has no {prefix}")


@contextmanager
def _decompressed(section: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    suffix = name.rpartition(".tar")[2]
    if suffix == ".xz":
        with lzma.open(section) as plain:
            yield cast("IO[bytes]", plain)
    elif suffix == ".gz":
        with gzip.open(section) as plain:
            yield cast("IO[bytes]", plain)
    elif suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(section) as plain:
            yield cast("IO[bytes]", plain)
    elif not suffix:
        yield section
    else:
        raise ArchiveError(f"cannot read {name}: unknown compression")
