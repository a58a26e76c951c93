"""Reading files of a root file system that is still a stack of tar archives, as the engine would see it.

Source for the whiteouts: OCI Image Specification 1.1, layer.md.
"""

import json
import lzma
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

import zstandard

from harness.core.errors import IntegrityError, NotInArchiveError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MOST_LINKS = 40  # as the kernel's limit for one path
_DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError)

Layer = Callable[[], AbstractContextManager[tarfile.TarFile]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Where a path's content is: ``name`` in layer number ``layer``; ``target`` of a symbolic link."""

    layer: int
    name: str
    target: str | None
    is_directory: bool


class ImageRoot:
    """The merged view of ``layers``, the lowest first; nothing is unpacked to disk.

    Raises IntegrityError for a damaged archive.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._entries: dict[str, _Entry] = {}
        for number in range(len(self._layers)):
            self._merge(number)

    def find(self, *paths: str) -> str | None:
        """Return the first of ``paths`` that is a file here, links followed; None without one."""
        for path in paths:
            entry = self._resolve(path)
            if entry and not entry.is_directory:
                return path
        return None

    def read(self, *paths: str) -> list[bytes]:
        """Return the contents of files, links followed; NotInArchiveError names one that is not there."""
        entries = {path: self._resolve(path) for path in paths}
        wanted: dict[int, set[str]] = defaultdict(set)
        for path, entry in entries.items():
            if entry is None or entry.is_directory:
                raise NotInArchiveError(f"{path} is not in the root file system")
            wanted[entry.layer].add(entry.name)
        contents = {
            (number, name): data
            for number, names in wanted.items()
            for name, data in self._contents(number, names)
        }
        found = []
        for path, entry in entries.items():
            if entry is None or (entry.layer, entry.name) not in contents:
                raise NotInArchiveError(f"{path} is not a regular file in the root file system")
            found.append(contents[entry.layer, entry.name])
        return found

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of every regular file, once per content where there are hard links."""
        for number in range(len(self._layers)):
            names = {
                path
                for path, entry in self._entries.items()
                if (entry.layer, entry.name, entry.target) == (number, path, None) and not entry.is_directory
            }
            yield from self._contents(number, names)

    def _contents(self, number: int, names: set[str]) -> Iterator[tuple[str, bytes]]:
        with self._layers[number]() as tar:
            for member in tar:
                name = _plain(member.name)
                if name in names and member.isreg() and (stream := tar.extractfile(member)):
                    yield name, stream.read()

    def _merge(self, number: int) -> None:
        hidden: list[tuple[str, bool]] = []
        added: dict[str, _Entry] = {}
        with self._layers[number]() as tar:
            for member in tar:
                path = _plain(member.name)
                directory, _, name = path.rpartition("/")
                if name == _OPAQUE:
                    hidden.append((directory, False))
                elif name.startswith(_WHITEOUT):
                    hidden.append((f"{directory}/{name.removeprefix(_WHITEOUT)}".lstrip("/"), True))
                elif path:
                    added[path] = _Entry(
                        layer=number,
                        # A hard link's content stands in its layer under the name it links to.
                        name=_plain(member.linkname) if member.islnk() else path,
                        target=member.linkname if member.issym() else None,
                        is_directory=member.isdir(),
                    )
        # What was a directory, with an entry of its own or without, may be a file from here on.
        directories = {above for path in self._entries for above in _above(path)}
        replaced = [
            (path, False) for path, entry in added.items() if not entry.is_directory and path in directories
        ]
        self._hide([*hidden, *replaced])
        self._entries |= added

    def _hide(self, hidden: Iterable[tuple[str, bool]]) -> None:
        """Take away what is below each path and, where told so, the path itself."""
        for path, itself in hidden:
            below = f"{path}/" if path else ""
            for name in [one for one in self._entries if one.startswith(below)]:
                del self._entries[name]
            if itself:
                self._entries.pop(path, None)

    def _resolve(self, path: str) -> _Entry | None:
        pending = path.split("/")[::-1]
        here: list[str] = []
        links = 0
        entry = None
        while pending:
            part = pending.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                here = here[:-1]
                continue
            entry = self._entries.get("/".join((*here, part)))
            if entry is None or entry.target is None:
                here.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                return None
            if entry.target.startswith("/"):
                here = []
            pending += entry.target.split("/")[::-1]
        return self._entries.get("/".join(here))


def plain_layer(path: Path) -> Layer:
    """Return the layer that is a tar archive of its own, compressed or not."""

    @contextmanager
    def opened() -> Iterator[tarfile.TarFile]:
        with _damage(path), path.open("rb") as stream, _tar(stream) as tar:
            yield tar

    return opened


def image_layers(archive: Path) -> tuple[Layer, ...]:
    """Return the layers of an image archive as `docker load` takes it; raises IntegrityError."""
    with _damage(archive), tarfile.open(archive, "r:") as tar:
        stream = tar.extractfile("manifest.json")
        assert stream is not None, "this harness wrote it as a file"
        names = json.load(stream)[0]["Layers"]
    return tuple(_inner_layer(archive, name) for name in names)


def _inner_layer(archive: Path, name: str) -> Layer:
    @contextmanager
    def opened() -> Iterator[tarfile.TarFile]:
        with _damage(archive), tarfile.open(archive, "r:") as outer:
            stream = outer.extractfile(name)
            assert stream is not None, "this harness wrote it as a file"
            with stream, _tar(stream) as tar:
                yield tar

    return opened


@contextmanager
def _tar(stream: IO[bytes]) -> Iterator[tarfile.TarFile]:
    # Not every supported Python's tarfile knows zstd, and a user's archive may be of that kind.
    buffered = cast("BufferedReader", stream)
    if buffered.peek(len(_ZSTD_MAGIC))[: len(_ZSTD_MAGIC)] == _ZSTD_MAGIC:
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        with reader as plain, tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|") as tar:
            yield tar
    else:
        with tarfile.open(fileobj=stream, mode="r:*") as tar:
            yield tar


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise IntegrityError(f"the archive {path} lacks {error}") from error
    except _DAMAGE as error:
        raise IntegrityError(f"the archive {path} cannot be read: {error}") from error


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in {"", "."})


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
