"""The initial RAM disk: read back by a reader of the test's, and the order modules are loaded in."""

import dataclasses
import lzma
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.core.errors import ArchiveError, NotInArchiveError
from harness.provision.fake_archive import make_deb
from harness.provision.initramfs import KernelFiles, busybox_from, load_order, read_kernel, write_initramfs

RELEASE = "6.1.0-50-cloud-arm64"
MODULES = f"./lib/modules/{RELEASE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of a cpio archive."""

    inode: int
    mode: int
    data: bytes
    device: tuple[int, int]


def read_cpio(archive: bytes) -> dict[str, Entry]:
    """Return the entries of a "newc" archive, strictly: magic, alignment, trailer and no rest."""
    entries: dict[str, Entry] = {}
    place = 0
    while True:
        assert place % 4 == 0
        assert archive[place : place + 6] == b"070701", f"no entry at byte {place}"
        fields = [int(archive[place + 6 + 8 * at : place + 14 + 8 * at], 16) for at in range(13)]
        inode, mode, uid, gid, _, _, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, check) == (0, 0, 0)
        name_end = place + 110 + name_size
        assert archive[name_end - 1] == 0
        name = archive[place + 110 : name_end - 1].decode()
        start = -(-name_end // 4) * 4
        if name == "TRAILER!!!":
            assert len(archive) == start
            return entries
        assert name not in entries
        data = archive[start : start + size]
        assert len(data) == size
        entries[name] = Entry(inode=inode, mode=mode, data=data, device=(major, minor))
        place = -(-(start + size) // 4) * 4


def module(*depends: str, name: str = "x") -> bytes:
    """Return what a module's .modinfo section looks like in the middle of an object."""
    info = f"\0license=GPL\0depends={','.join(depends)}\0intree=Y\0name={name}\0vermagic={RELEASE} SMP\0"
    return b"\x7fELF" + bytes(20) + info.encode() + bytes(7)


def kernel(builtin: tuple[str, ...] = (), **modules: bytes) -> KernelFiles:
    return KernelFiles(release=RELEASE, image=b"MZ", modules=modules, builtin=frozenset(builtin))


def _order(kernel_files: KernelFiles, *wanted: str) -> tuple[str, ...]:
    return load_order(kernel_files, wanted)


def test_a_module_comes_after_what_it_depends_on() -> None:
    files = kernel(
        virtio_blk=module("virtio_ring", "virtio"), virtio_ring=module(), virtio=module("virtio_ring")
    )
    assert _order(files, "virtio_blk") == ("virtio_ring", "virtio", "virtio_blk")


def test_what_is_loaded_already_is_not_loaded_again() -> None:
    files = kernel(a=module("c"), b=module("c", "a"), c=module())
    assert _order(files, "a", "b", "c", "a") == ("c", "a", "b")


def test_the_wanted_order_is_kept_where_dependencies_leave_it_open() -> None:
    files = kernel(a=module(), b=module(), c=module())
    assert _order(files, "c", "a", "b") == ("c", "a", "b")
    assert _order(files) == ()


def test_what_is_built_in_is_left_out() -> None:
    files = kernel(("ext4", "crc16"), a=module("crc16"))
    assert _order(files, "ext4", "a") == ("a",)


def test_a_dash_in_a_name_is_an_underscore() -> None:
    files = kernel(("virtio_pci",), nf_tables=module("nfnetlink"), nfnetlink=module())
    assert _order(files, "nf-tables", "virtio-pci") == ("nfnetlink", "nf_tables")


def test_a_missing_module_is_named_with_who_needs_it() -> None:
    files = kernel(overlay=module("exportfs"))
    with pytest.raises(NotInArchiveError, match=f"kernel {RELEASE} has no module 9p, needed by the guest"):
        _order(files, "9p")
    with pytest.raises(NotInArchiveError, match="no module exportfs, needed by overlay"):
        _order(files, "overlay")


@pytest.mark.parametrize(
    "files", [kernel(a=module("a")), kernel(a=module("b"), b=module("c"), c=module("a"))]
)
def test_modules_that_depend_on_each_other_are_an_error_of_the_archive(files: KernelFiles) -> None:
    with pytest.raises(ArchiveError, match=r"\ba\b"):
        _order(files, "a")


def test_an_archive_reads_back() -> None:
    files = kernel(a=module("b"), b=module())
    archive = write_initramfs(files, ["b", "a"], busybox=b"busybox" * 3, init=b"#!/bin/sh\n")
    entries = read_cpio(archive)
    assert entries["init"].data == b"#!/bin/sh\n"
    assert entries["init"].mode == stat.S_IFREG | 0o755
    assert entries["bin/busybox"].data == b"busybox" * 3
    assert (entries["bin/sh"].mode, entries["bin/sh"].data) == (stat.S_IFLNK | 0o777, b"busybox")
    assert entries["modules/order"].data == b"b\na\n"
    assert entries["modules/a.ko"].data == files.modules["a"]
    console = entries["dev/console"]
    assert (stat.S_ISCHR(console.mode), console.device) == (True, (5, 1))
    directories = {name for name, entry in entries.items() if stat.S_ISDIR(entry.mode)}
    assert {"bin", "dev", "proc", "sys", "modules"} <= directories


def test_directories_come_before_what_is_in_them_and_inodes_differ() -> None:
    entries = read_cpio(write_initramfs(kernel(a=module()), ["a"], busybox=b"", init=b""))
    seen: set[str] = set()
    for name in entries:
        parent = name.rpartition("/")[0]
        assert not parent or parent in seen
        seen.add(name)
    assert len({entry.inode for entry in entries.values()}) == len(entries)


@pytest.mark.parametrize("size", range(5))
def test_any_length_is_padded(size: int) -> None:
    name = "m" * (size + 1)
    files = dataclasses.replace(kernel(), modules={name: bytes(size)})
    entries = read_cpio(write_initramfs(files, files.modules, busybox=b"x" * size, init=b"i" * size))
    assert entries[f"modules/{name}.ko"].data == bytes(size)


def test_the_same_parts_give_the_same_archive() -> None:
    files = kernel(a=module())
    first, again = (write_initramfs(files, ["a"], busybox=b"b", init=b"i") for _ in range(2))
    assert first == again


def test_only_modules_in_the_order_are_packed() -> None:
    entries = read_cpio(write_initramfs(kernel(a=module(), b=module()), ["a"], busybox=b"", init=b""))
    assert [name for name in entries if name.endswith(".ko")] == ["modules/a.ko"]


def _package(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    path.write_bytes(make_deb({"Package": path.stem}, files, links))
    return path


def test_a_kernel_is_read_out_of_its_packages(tmp_path: Path) -> None:
    image = _package(
        tmp_path / "image.deb",
        {
            f"./boot/vmlinuz-{RELEASE}": b"MZ image",
            f"./boot/config-{RELEASE}": b"CONFIG_X=y",
            f"{MODULES}/kernel/fs/erofs/erofs.ko.xz": lzma.compress(module("libcrc32c")),
            f"{MODULES}/kernel/drivers/virtio/virtio-pci.ko": module(),
            f"{MODULES}/modules.builtin": b"kernel/fs/ext4/ext4.ko\nkernel/lib/crc-t10dif.ko.xz\n",
            f"{MODULES}/modules.order": b"kernel/fs/erofs/erofs.ko\n",
        },
        {f"{MODULES}/build": "/usr/src/linux"},
    )
    other = _package(tmp_path / "other.deb", {"./usr/bin/x": b""})
    files = read_kernel([other, image])
    assert (files.release, files.image) == (RELEASE, b"MZ image")
    assert files.modules == {"erofs": module("libcrc32c"), "virtio_pci": module()}
    assert files.builtin == {"ext4", "crc_t10dif"}


def test_a_package_below_usr_is_read_too(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "image.deb",
        {"./boot/vmlinuz-7.2": b"MZ", "./usr/lib/modules/7.2/kernel/net/x/x.ko": module()},
    )
    assert set(read_kernel([package]).modules) == {"x"}


def test_an_image_beside_its_modules_is_found(tmp_path: Path) -> None:
    package = _package(
        tmp_path / "binary.deb",
        {"./usr/lib/modules/7.2-cloud/vmlinuz": b"MZ", "./usr/share/vmlinuz.txt": b""},
    )
    found = read_kernel([package])
    assert (found.release, found.image) == ("7.2-cloud", b"MZ")


def test_packages_without_a_kernel_are_named(tmp_path: Path) -> None:
    package = _package(tmp_path / "meta.deb", {"./usr/share/doc/x": b""})
    with pytest.raises(NotInArchiveError, match=r"hold no vmlinuz, .*; looked in: meta\.deb"):
        read_kernel([package])


def test_busybox(tmp_path: Path) -> None:
    package = _package(tmp_path / "a.deb", {"./usr/share/busybox": b"no", "./bin/busybox": b"static"})
    assert busybox_from(package) == b"static"
    with pytest.raises(NotInArchiveError, match=r"no bin/busybox in .*b\.deb"):
        busybox_from(_package(tmp_path / "b.deb", {"./usr/bin/x": b""}, {"./bin/busybox": "x"}))
