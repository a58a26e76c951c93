"""Directories with a kernel: where its image and modules are, and what is refused by name.

The images and modules are a few bytes that stand in for real ones; a real kernel is in tests/e2e.
"""

import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from harness.catalogue.kernels import BOOT_MODULES, KERNELS
from harness.core.errors import UsageError
from harness.provision.kernel_tree import kernel_of, read_tree

RELEASE = "6.9.3-mine"
MODULES = KERNELS["6.1"].modules
PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", bytes),
    (".xz", lzma.compress),
    (".gz", gzip.compress),
    (".zst", zstandard.ZstdCompressor().compress),
]


def image(release: str = RELEASE) -> bytes:
    return b"MZ".ljust(56, b"\0") + b"ARM\x64" + bytes(64) + f"Linux version {release} (me) #1".encode()


def zboot(payload: bytes, kind: bytes) -> bytes:
    header = struct.pack("<4s4sII8x8s", b"MZ\0\0", b"zimg", 64, len(payload), kind)
    return header.ljust(64, b"\0") + payload + b"more"


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def add_modules(root: Path, *, builtin: tuple[str, ...] = (), leave_out: tuple[str, ...] = ()) -> Path:
    directory = root / "lib/modules" / RELEASE
    for at, name in enumerate(MODULES):
        if name not in (*builtin, *leave_out):
            suffix, pack = PACKED[at % len(PACKED)]
            depends = b"virtio" if name == "virtio_blk" else b""
            data = pack(b"\0license=GPL\0depends=" + depends + b"\0" + name.encode())
            put(directory / f"kernel/drivers/{name.replace('_', '-')}.ko{suffix}", data)
    put(directory / "updates/virtio.ko", b"\0depends=\0virtio")
    lines = "".join(f"kernel/fs/{name}.ko\n" for name in builtin)
    put(directory / "modules.builtin", lines.encode())
    (directory / "build").symlink_to(root, target_is_directory=True)
    return directory


@pytest.mark.parametrize(
    "place",
    [
        *("Image", "vmlinuz", f"vmlinuz-{RELEASE}", "boot/Image", f"boot/vmlinuz-{RELEASE}"),
        *(f"lib/modules/{RELEASE}/vmlinuz", "arch/arm64/boot/Image"),
    ],
)
def test_an_image_is_found_where_builds_and_packages_put_it(tmp_path: Path, place: str) -> None:
    put(tmp_path / place, image())
    add_modules(tmp_path)
    tree = read_tree(tmp_path)
    assert (tree.files.release, tree.files.image, tree.absent) == (RELEASE, image(), ())


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(image()),
        zboot(gzip.compress(image()), b"gzip"),
        zboot(zstandard.ZstdCompressor().compress(image()), b"zstd22"),
        zboot(lzma.compress(image()), b"xzkern"),
    ],
    ids=["gzip", "zboot-gzip", "zboot-zstd", "zboot-xz"],
)
def test_a_packed_image_is_unpacked(tmp_path: Path, packed: bytes) -> None:
    put(tmp_path / "Image.gz", packed)
    assert read_tree(tmp_path).files.image == image()


def test_modules_are_unpacked_and_follow_what_they_need(tmp_path: Path) -> None:
    put(tmp_path / "Image", image())
    add_modules(tmp_path, builtin=("erofs",))
    tree = read_tree(tmp_path)
    assert tree.order.index("virtio") < tree.order.index("virtio_blk")
    assert set(tree.order) == {"virtio", *MODULES} - {"erofs"}
    assert all(tree.files.modules[name].endswith(name.encode()) for name in tree.order)


def test_a_kernel_with_everything_built_in_has_no_modules(tmp_path: Path) -> None:
    put(tmp_path / "Image", image())
    assert read_tree(tmp_path).order == ()


@pytest.mark.parametrize("name", [f"boot/vmlinuz-{RELEASE}", "Image"])
def test_an_image_may_be_named_itself(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, image())
    put(tmp_path / "boot/vmlinuz-5.4", image("5.4"))
    add_modules(tmp_path)
    assert read_tree(tmp_path / name).files.release == RELEASE


def test_a_kernel_has_a_name_of_its_content(tmp_path: Path) -> None:
    put(tmp_path / "Image", image())
    directory = add_modules(tmp_path)
    first = kernel_of(f"{tmp_path}/")
    assert first.name.startswith(f"{RELEASE}+")
    assert (first.release, first.version, first.path) == (RELEASE, (6, 9, 3), str(tmp_path))
    assert first.modules == MODULES
    put(directory / "kernel/never-loaded.ko", b"another module")
    assert kernel_of(f"{tmp_path}/") == first
    put(directory / "updates/virtio.ko", b"\0depends=\0of another build")
    assert kernel_of(f"{tmp_path}/").name != first.name
    assert kernel_of("6.1") is KERNELS["6.1"]


def test_what_criu_may_need_can_be_absent_and_what_boots_cannot(tmp_path: Path) -> None:
    put(tmp_path / "Image", image())
    add_modules(tmp_path, leave_out=("tun", "raw_diag"))
    tree = read_tree(tmp_path)
    assert tree.absent == ("tun", "raw_diag")
    assert "tun" not in tree.order
    for name in ("erofs", "virtio_blk"):
        assert name in BOOT_MODULES
        (path,) = tmp_path.glob(f"lib/modules/{RELEASE}/kernel/drivers/{name.replace('_', '-')}.ko*")
        path.unlink()
    with pytest.raises(UsageError, match=rf"{RELEASE} has no virtio_blk, erofs, neither built in nor in"):
        read_tree(tmp_path)


def test_several_kernels_are_a_question(tmp_path: Path) -> None:
    for release in (RELEASE, "5.4"):
        put(tmp_path / f"boot/vmlinuz-{release}", image(release))
    told = rf"holds several kernels: vmlinuz-5.4, vmlinuz-{RELEASE}; name one of them"
    with pytest.raises(UsageError, match=told):
        read_tree(tmp_path)


def test_modules_of_another_kernel_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "Image", image("6.9.4"))
    add_modules(tmp_path)
    with pytest.raises(UsageError, match=rf"the image is 6\.9\.4, and there are modules of {RELEASE} only"):
        read_tree(tmp_path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "holds no kernel; looked for Image, "),
        (b"text", "no kernel image for arm64"),
        (b"\x1f\x8bcut", "is damaged"),
        (zboot(b"cut", b"zstd"), "is damaged"),
        (zboot(b"", b"lz4"), "is packed with lz4; give its Image instead"),
        (image().replace(b"Linux version", b"Plan 9 version"), "does not tell its release"),
        (image("next"), "its release next does not begin with a version"),
    ],
)
def test_what_is_no_kernel_is_named(tmp_path: Path, data: bytes | None, told: str) -> None:
    if data is not None:
        put(tmp_path / "Image", data)
    with pytest.raises(UsageError, match=told) as caught:
        read_tree(tmp_path)
    assert str(tmp_path) in caught.value.message


def test_a_path_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file or directory"):
        kernel_of(f"{tmp_path}/nowhere")
    with pytest.raises(UsageError, match=r"unknown kernel '9\.9'"):
        kernel_of("9.9")
    if os.geteuid():
        put(tmp_path / "Image", image()).chmod(0)
        with pytest.raises(UsageError, match="cannot be read: Permission denied"):
            read_tree(tmp_path)
