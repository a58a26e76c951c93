"""Root file systems by extraction: package data merged as tar streams, no maintainer script run.

Owners, modes and hard links live only in the tar streams; unpacking them as a plain user
would lose them. What maintainer scripts would have made is made here: the merged-/usr
links, /etc/passwd and /etc/group from base-passwd's masters, and an empty machine.
"""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.core.errors import ArchiveError
from harness.provision.deb import data_members

# Documentation and translations: half of the bytes, read by nobody in a test machine.
_DROPPED = tuple(
    f"usr/share/{name}/"
    for name in (
        "doc",
        "man",
        "info",
        "locale",
        "lintian",
        "bug",
        "bash-completion",
        "zsh",
        "doc-base",
        "i18n",
    )
)
_MERGED = ("bin", "sbin", "lib")  # top-level names that live below usr/ (Debian's merged /usr)
_MASTERS = {
    "usr/share/base-passwd/passwd.master": "etc/passwd",
    "usr/share/base-passwd/group.master": "etc/group",
}
_EMPTY_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "var", "var/lib", "var/log", "etc")


class RootTar:
    """A root file system being written as one tar stream; first come, first kept.

    Use as a context manager. ``whole`` makes the links and directories every root has; without
    it, a layer to be unpacked on a root that has them. Raises ArchiveError for a member that
    leaves the root.
    """

    def __init__(self, path: Path, *, whole: bool = True) -> None:
        self._whole = whole
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 -- closed in __exit__
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        if not self._whole:
            return self
        for name in _MERGED:
            self.add_directory(f"usr/{name}")
            self.add_symlink(name, f"usr/{name}")
        for name in _EMPTY_DIRECTORIES:
            self.add_directory(name, mode=0o1777 if name == "tmp" else 0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def add_packages(self, packages: Iterable[Path]) -> None:
        """Merge the data members of Debian packages."""
        for package in packages:
            with data_members(package) as members:
                for member in members:
                    self._add_member(members, member, package)

    def _add_member(self, source: tarfile.TarFile, member: tarfile.TarInfo, package: Path) -> None:
        name = canonical(member.name, package)
        if name in self._seen or f"{name}/".startswith(_DROPPED) or not name:
            return
        if member.islnk():
            member.linkname = canonical(member.linkname, package)
        member.name = name
        data = source.extractfile(member) if member.isreg() else None
        if name in _MASTERS and data is not None:
            self.add_file(_MASTERS[name], data.read())
            return
        self._parents(name)
        self._seen.add(name)
        self._tar.addfile(member, data)

    def add_file(self, name: str, content: bytes, *, mode: int = 0o644) -> None:
        """Add a regular file owned by root; a name already there is kept as it is."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = mode
        self._add(info, content)

    def add_symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        info = tarfile.TarInfo(name)
        info.type = tarfile.SYMTYPE
        info.linkname = target
        info.mode = 0o777
        self._add(info)

    def add_directory(self, name: str, *, mode: int = 0o755) -> None:
        """Add a directory."""
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE
        info.mode = mode
        self._add(info)

    def _add(self, info: tarfile.TarInfo, content: bytes = b"") -> None:
        if info.name not in self._seen:
            self._parents(info.name)
            self._seen.add(info.name)
            self._tar.addfile(info, io.BytesIO(content))

    def _parents(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent and parent not in self._seen:
            self.add_directory(parent)


def canonical(name: str, package: Path) -> str:
    """Return ``name`` without a leading ``./``, moved below usr/ where /usr is merged.

    Raises ArchiveError for a name that would leave the root.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ArchiveError(f"{package.name} holds the member {name!r}, which leaves its root")
    if parts and parts[0] in _MERGED:
        parts.insert(0, "usr")
    return "/".join(parts)
