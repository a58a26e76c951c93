"""The initial RAM disk: a static busybox, the kernel modules in load order, and an init script.

Written as an uncompressed "newc" cpio archive (kernel documentation:
driver-api/early-userspace/buffer-format): decompression under emulation costs more than it saves.
"""

import io
import lzma
import re
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import ArchiveError, NotInArchiveError
from harness.provision.deb import data_members

# usr/lib/modules/6.1.0-44-cloud-arm64/kernel/fs/erofs/erofs.ko.xz
_MODULE = re.compile(r"lib/modules/(?P<release>[^/]+)/kernel/.*/(?P<name>[^/]+)\.ko(?P<packed>\.xz)?$")
# usr/lib/modules/6.1.0-44-cloud-arm64/modules.builtin
_BUILTIN = re.compile(r"lib/modules/[^/]+/modules\.builtin$")
# boot/vmlinuz-6.1.0-44-cloud-arm64; since Debian's 7.2 usr/lib/modules/7.2.12+deb14-cloud-arm64/vmlinuz
_IMAGE = re.compile(r"(boot/vmlinuz-(?P<suffix>.+)|lib/modules/(?P<directory>[^/]+)/vmlinuz)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFiles:
    """What a kernel package holds for us: release, boot image, module objects, built-in names."""

    release: str
    image: bytes
    modules: Mapping[str, bytes]
    builtin: frozenset[str]


def read_kernel(packages: Iterable[Path]) -> KernelFiles:
    """Read a kernel out of its Debian packages.

    Raises NotInArchiveError when none of them holds a boot image.
    """
    image, release = b"", ""
    modules: dict[str, bytes] = {}
    builtin: set[str] = set()
    for package in packages:
        with data_members(package) as members:
            for member in members:
                if not member.isreg():
                    continue
                if found := _MODULE.search(member.name):
                    data = _content(members, member)
                    modules[module_name(found["name"])] = lzma.decompress(data) if found["packed"] else data
                elif _BUILTIN.search(member.name):
                    lines = _content(members, member).decode().split()
                    builtin.update(module_name(Path(line).name.split(".ko")[0]) for line in lines)
                elif found := _IMAGE.search(member.name):
                    image, release = _content(members, member), found["suffix"] or found["directory"]
    if not image:
        raise NotInArchiveError(
            "the kernel packages hold no vmlinuz, in boot or beside the modules; looked in: "
            + ", ".join(package.name for package in packages)
        )
    return KernelFiles(release=release, image=image, modules=modules, builtin=frozenset(builtin))


def load_order(kernel: KernelFiles, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return ``wanted`` modules and their dependencies, each after what it depends on.

    Names built into the kernel are left out. Raises NotInArchiveError for a module that is
    neither built in nor shipped, ArchiveError for modules that need each other.
    """
    ordered: dict[str, None] = {}
    waiting: list[str] = []

    def visit(name: str, needed_by: str) -> None:
        if name in ordered or name in kernel.builtin:
            return
        if name in waiting:
            raise ArchiveError(f"kernel {kernel.release}: modules need each other: {', '.join(waiting)}")
        if name not in kernel.modules:
            raise NotInArchiveError(f"kernel {kernel.release} has no module {name}, needed by {needed_by}")
        waiting.append(name)
        for dependency in _dependencies(kernel.modules[name]):
            visit(dependency, name)
        waiting.remove(name)
        ordered[name] = None

    for name in wanted:
        visit(module_name(name), "the guest")
    return tuple(ordered)


def _dependencies(module: bytes) -> tuple[str, ...]:
    # .modinfo holds NUL-separated "key=value"; the only "depends=" in an object is that one.
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    names = found[1].decode().split(",") if found else []
    return tuple(module_name(name) for name in names if name)


def module_name(name: str) -> str:
    """Return the name the kernel gives a module of this file name."""
    return name.replace("-", "_")


def busybox_from(package: Path) -> bytes:
    """Return the program of a busybox-static package; NotInArchiveError when it has none."""
    with data_members(package) as members:
        for member in members:
            if member.name.endswith("bin/busybox") and member.isreg():
                return _content(members, member)
    raise NotInArchiveError(f"no bin/busybox in {package}")


def write_initramfs(kernel: KernelFiles, order: Iterable[str], *, busybox: bytes, init: bytes) -> bytes:
    """Return the cpio archive: /init, /bin/busybox, /modules/*.ko and their order."""
    out = io.BytesIO()
    names = list(order)
    for directory in ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "root"):
        _cpio_entry(out, directory, stat.S_IFDIR | 0o755, b"")
    _cpio_entry(out, "bin/busybox", stat.S_IFREG | 0o755, busybox)
    _cpio_entry(out, "bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    _cpio_entry(out, "init", stat.S_IFREG | 0o755, init)
    _cpio_entry(out, "modules/order", stat.S_IFREG | 0o644, "".join(f"{n}\n" for n in names).encode())
    for name in names:
        _cpio_entry(out, f"modules/{name}.ko", stat.S_IFREG | 0o644, kernel.modules[name])
    # Without it the kernel has no console for /init; mknod needs root on disk but not in a cpio.
    _cpio_entry(out, "dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))
    _cpio_entry(out, "TRAILER!!!", 0, b"")
    return out.getvalue()


def _cpio_entry(
    out: io.BytesIO, name: str, mode: int, data: bytes, *, device: tuple[int, int] = (0, 0)
) -> None:
    path = name.encode() + b"\0"
    inode = out.tell() + 1  # unique and reproducible
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
    out.write(b"\0" * (-out.tell() % 4))
    out.write(data)
    out.write(b"\0" * (-out.tell() % 4))


def _content(members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = members.extractfile(member)
    assert stream is not None, f"{member.name} is a regular file"
    return stream.read()
