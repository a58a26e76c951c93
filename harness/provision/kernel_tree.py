"""A kernel of the user: an Image and its modules, in a directory as a build or a package leaves them."""

import gzip
import hashlib
import lzma
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from harness.catalogue.kernels import BOOT_MODULES, Kernel, kernel, user_kernel
from harness.core import steps
from harness.core.errors import StorageError, UsageError
from harness.provision.context import Provision
from harness.provision.guest_image import GUEST_GROUP, BootFiles, content_key, init_script
from harness.provision.initramfs import KernelFiles, busybox_from, load_order, module_name, write_initramfs
from harness.provision.packages import obtain

# The first pattern that matches anything decides.
_IMAGES = (
    *("Image", "Image.gz", "vmlinuz", "vmlinuz-*", "boot/Image", "boot/Image.gz", "boot/vmlinuz"),
    *("boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz", "arch/arm64/boot/Image"),
)
_MODULE_DIRECTORIES = ("lib/modules", "usr/lib/modules")
# erofs.ko, erofs.ko.xz
_MODULE = re.compile(r"(?P<name>[^/]+)\.ko(?P<packed>\.(xz|gz|zst))?")
# Linux version 6.1.0-50-cloud-arm64 (debian-kernel@lists.debian.org) (gcc-12 ...
_BANNER = re.compile(rb"Linux version (?P<release>\S+) \(")
# The magic of arch/arm64/kernel/head.S; the header of drivers/firmware/efi/libstub/zboot-header.S.
_RAW_MAGIC, _RAW_AT = b"ARM\x64", 56
_ZBOOT = struct.Struct("<4s4sII8x8s")  # "MZ", "zimg", offset and size of the payload, how it is packed
_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


class _Modules(Mapping[str, bytes]):
    """Modules by name, each read when it is asked for: there are thousands."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> bytes:
        path = self._paths[name]
        found = _MODULE.fullmatch(path.name)
        assert found, "only modules are listed"
        return _unpacked(path, path.read_bytes(), found["packed"] or "")

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTree:
    """What boots: the kernel's files, the modules to load in ``order``, those it does not have."""

    files: KernelFiles
    order: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A digest of the image and of the modules that are loaded."""
        digest = hashlib.sha256(self.files.image)
        for name in self.order:
            digest.update(hashlib.sha256(self.files.modules[name]).digest())
        return digest.hexdigest()


def kernel_of(text: str) -> Kernel:
    """Return the kernel of a name of the catalogue or of a path ("./linux"); raises UsageError."""
    if "/" not in text:
        return kernel(text)
    path = Path(text).expanduser().resolve()
    tree = read_tree(path)
    return user_kernel(tree.files.release, str(path), tree.digest)


def read_tree(path: Path) -> KernelTree:
    """Return the kernel in the directory ``path``, or the image ``path`` with the modules beside it.

    The release is the one the image tells of itself. Without lib/modules everything has to be built
    in. Raises UsageError for what is no such kernel, or lacks a module without which nothing boots.
    """
    try:
        image_path = _image_path(path)
        image = _image(image_path)
    except OSError as error:
        raise UsageError(f"--kernel {path} cannot be read: {error.strerror}") from error
    banner = _BANNER.search(image)
    if banner is None:
        raise UsageError(f"--kernel {image_path}: the image does not tell its release (Linux version ...)")
    release = banner["release"].decode("ascii", "replace")
    if not re.match(r"\d+\.\d+", release):
        raise UsageError(f"--kernel {image_path}: its release {release} does not begin with a version")
    roots = (path,) if path.is_dir() else (path.parent, path.parent.parent)
    directory = _modules_directory(roots, release)
    files = KernelFiles(
        release=release,
        image=image,
        modules=_Modules(dict(_modules(directory)) if directory else {}),
        builtin=_builtin(directory) if directory else frozenset(),
    )
    if directory is None:
        return KernelTree(files=files, order=(), absent=())
    wanted = user_kernel(release, str(path), "").modules
    absent = tuple(name for name in wanted if name not in files.modules and name not in files.builtin)
    if needed := [name for name in absent if name in BOOT_MODULES]:
        raise UsageError(
            f"--kernel {path}: {release} has no {', '.join(needed)}, neither built in nor in {directory}",
            hint="the machine boots from virtio disks with erofs and overlay; configure the kernel for it",
        )
    order = load_order(files, [name for name in wanted if name not in absent])
    return KernelTree(files=files, order=order, absent=absent)


def tree_boot_files(provision: Provision, of: Kernel) -> BootFiles:
    """Return boot image and initial RAM disk of a user's kernel; raises as ``read_tree`` and ``obtain``."""
    assert of.path, "a kernel of the user"
    init = init_script()
    guest = provision.locked_digest(GUEST_GROUP) or ""

    def build(work: Path) -> None:
        tree = read_tree(Path(of.path or ""))
        if user_kernel(tree.files.release, str(of.path), tree.digest) != of:
            raise UsageError(f"--kernel {of.path} was changed while it was in use")
        if tree.absent:
            steps.note(f"kernel {of.release} has no {', '.join(tree.absent)}: CRIU may need them")
        packages = {package.name: file for package, file in obtain(GUEST_GROUP, provision).packages}
        busybox = busybox_from(packages["busybox-static"])
        (work / "Image").write_bytes(tree.files.image)
        disk = write_initramfs(tree.files, tree.order, busybox=busybox, init=init)
        (work / "initramfs").write_bytes(disk)

    key = content_key("tree", of.package_group, guest, hashlib.sha256(init).hexdigest())
    path = provision.cache.artifact("kernel", key, build)
    return BootFiles(kernel=path / "Image", initramfs=path / "initramfs", release=of.release or "")


def _image_path(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"--kernel {path}: no such file or directory")
    for pattern in _IMAGES:
        found = sorted(one for one in path.glob(pattern) if one.is_file())
        if len(found) > 1:
            raise UsageError(
                f"--kernel {path} holds several kernels: {', '.join(one.name for one in found)}",
                hint=f"name one of them, as in --kernel {found[-1]}",
            )
        if found:
            return found[0]
    raise UsageError(f"--kernel {path} holds no kernel; looked for {', '.join(_IMAGES)}")


def _image(path: Path) -> bytes:
    """Return an image unpacked; raises UsageError when it is none for arm64."""
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = _unpacked(path, data, ".gz")
    elif len(data) > _ZBOOT.size and data[4:8] == b"zimg":
        _, _, offset, size, kind = _ZBOOT.unpack_from(data)
        name = kind.rstrip(b"\0").decode("ascii", "replace")
        suffix = {"gzip": ".gz", "zstd": ".zst", "zstd22": ".zst", "xzkern": ".xz"}.get(name)
        if suffix is None:
            raise UsageError(f"--kernel {path} is packed with {name}", hint="give its Image instead")
        data = _unpacked(path, data[offset : offset + size], suffix)
    if data[_RAW_AT : _RAW_AT + len(_RAW_MAGIC)] != _RAW_MAGIC:
        raise UsageError(f"--kernel {path} is no kernel image for arm64 (Image, Image.gz or vmlinuz)")
    return data


def _unpacked(path: Path, data: bytes, suffix: str) -> bytes:
    try:
        return _UNPACK[suffix](data)
    except (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error


def _modules_directory(roots: tuple[Path, ...], release: str) -> Path | None:
    others: list[str] = []
    for root in roots:
        for place in _MODULE_DIRECTORIES:
            if (root / place / release).is_dir():
                return root / place / release
            others += [one.name for one in (root / place).glob("*") if one.is_dir()]
    if others:
        raise UsageError(
            f"--kernel {roots[0]}: the image is {release}, and there are modules of {', '.join(others)} only",
            hint="give an image with everything built in a directory of its own",
        )
    return None


def _modules(directory: Path) -> Iterator[tuple[str, Path]]:
    for parent, _, names in os.walk(directory):  # "build" and "source" are links to elsewhere
        for name in names:
            if found := _MODULE.fullmatch(name):
                yield module_name(found["name"]), Path(parent, name)


def _builtin(directory: Path) -> frozenset[str]:
    try:
        text = (directory / "modules.builtin").read_text("utf-8")
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise StorageError(f"cannot read {directory / 'modules.builtin'}: {error.strerror}") from error
    return frozenset(module_name(Path(line).name.split(".ko")[0]) for line in text.split())
