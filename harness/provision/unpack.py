"""Unpacking package files below a directory as a plain user, with a merged /usr."""

import os
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.core.errors import ArchiveError
from harness.provision.deb import data_members

# Where Debian's base-files puts links: /lib -> usr/lib and so on.
_MERGED = ("bin", "sbin", "lib", "lib64")
_SKIPPED = (
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/bash-completion/",
    "usr/share/applications/",
    "usr/share/icons/",
)


def unpack(packages: Iterable[Path], destination: Path) -> None:
    """Extract files, links and directories of ``usr/`` (with /lib, /bin and /sbin merged into it).

    Documentation is left out; owners and set-id bits are not kept. Raises ArchiveError for a
    member that would land outside ``destination``, IntegrityError for a damaged package.
    """
    for path in packages:
        with data_members(path) as tar:
            extract(tar, destination, wanted=lambda name: name.startswith("usr/") and not _skipped(name))


def extract(tar: tarfile.TarFile, destination: Path, *, wanted: Callable[[str], bool]) -> None:
    """Extract the members of ``tar`` whose merged name is ``wanted``; raises ArchiveError on an escape."""
    root = destination.resolve()
    for member in tar:
        name = merged_name(member.name)
        if name and wanted(name):
            _extract_member(tar, member, name, root)


def merged_name(name: str) -> str:
    """Return a member's path relative to the root with /usr merged; "" for the root itself.

    Raises ArchiveError when the path leaves the root.
    """
    if ".." in name.split("/"):
        raise ArchiveError(f"a package member is called {name}, outside of its root")
    plain = posixpath.normpath(name.lstrip("/"))
    if plain == ".":
        return ""
    return f"usr/{plain}" if plain.split("/", 1)[0] in _MERGED else plain


def _skipped(name: str) -> bool:
    return name.startswith(_SKIPPED)


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, root: Path) -> None:
    target = _inside(root, name)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if member.issym():
        target.symlink_to(_relative_link(member, name))
    elif member.islnk():
        target.hardlink_to(_inside(root, merged_name(member.linkname)))
    elif member.isfile():
        source = tar.extractfile(member)
        assert source is not None, "a regular file has content"
        with target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _inside(root: Path, name: str) -> Path:
    """Return ``root``/``name``, its directory resolved: a link unpacked before must not lead out."""
    target = root / name
    parent = target.parent.resolve()
    if parent != root and root not in parent.parents:
        raise ArchiveError(f"a package member {name} would be unpacked outside of {root}")
    return parent / target.name


def _relative_link(member: tarfile.TarInfo, name: str) -> str:
    """Return the link's target relative to where the link goes, with /usr merged."""
    here = posixpath.dirname(member.name.lstrip("/").removeprefix("./"))
    absolute = posixpath.normpath(posixpath.join("/", here, member.linkname))
    # normpath of an absolute path cannot climb above /, as in the kernel's chroot.
    return os.path.relpath("/" + merged_name(absolute), "/" + posixpath.dirname(name))
