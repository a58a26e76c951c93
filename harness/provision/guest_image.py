"""The images a machine boots from, and the archives container bases are made of.

Each is a cache artifact keyed by the digests of all that goes in, so a machine never boots
from something older than its parts.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.process import check
from harness.provision.bundle import host_tools
from harness.provision.context import Provision
from harness.provision.initramfs import busybox_from, load_order, read_kernel, write_initramfs
from harness.provision.packages import ObtainedGroup, obtain
from harness.provision.rootfs import RootTar

GUEST_GROUP = "guest-root"
PODMAN_GROUP = "guest-podman"  # the same with podman and crun
# CRIU locks a container's network with these; Debian links them by a maintainer script.
_IPTABLES = ("iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save")
_FORMAT = "1"  # raise when the way an image is built changes without its scripts changing


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """Kernel image and initial RAM disk of one kernel; ``release`` as in uname -r."""

    kernel: Path
    initramfs: Path
    release: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file or directory at ``place`` (relative) of the tools image; ``digest`` of its content."""

    place: str
    path: Path
    digest: str


def content_key(*parts: str) -> str:
    """Return a short key for a combination of digests and names."""
    return hashlib.sha256("\0".join((_FORMAT, *parts)).encode()).hexdigest()[:32]


def root_image(provision: Provision, group_name: str = GUEST_GROUP) -> Path:
    """Return the guest's read-only root file system (erofs); raises as ``obtain``."""
    init = _script("criu-pac-init")

    def build(group: ObtainedGroup, work: Path) -> None:
        with steps.step("guest root image"):
            tar = work / "root.tar"
            with RootTar(tar) as root:
                root.add_file("usr/sbin/criu-pac-init", init, mode=0o755)
                root.add_directory("opt/criu-pac")
                for name in _IPTABLES:
                    root.add_symlink(f"usr/sbin/{name}", "xtables-nft-multi")
                root.add_packages(path for _, path in group.packages)
            _make_erofs(provision, tar, work / "root.erofs")

    recipe = init + "\n".join(_IPTABLES).encode()
    return _from_group(provision, "root-image", group_name, recipe, build) / "root.erofs"


def boot_files(provision: Provision, group_name: str, modules: Iterable[str]) -> BootFiles:
    """Return kernel and initial RAM disk for a kernel's package group.

    ``modules`` are loaded, with what they depend on, before the guest's init runs.
    Raises NotInArchiveError for a module that the kernel does not have, else as ``obtain``.
    """
    init = init_script()
    wanted = tuple(modules)
    recipe = init + "\n".join((GUEST_GROUP, provision.locked_digest(GUEST_GROUP) or "", *wanted)).encode()

    def build(group: ObtainedGroup, work: Path) -> None:
        guest = {package.name: path for package, path in obtain(GUEST_GROUP, provision).packages}
        busybox = busybox_from(guest["busybox-static"])
        with steps.step(f"kernel {group_name}"):
            kernel = read_kernel([path for _, path in group.packages])
            order = load_order(kernel, wanted)
            (work / "Image").write_bytes(kernel.image)
            (work / "initramfs").write_bytes(write_initramfs(kernel, order, busybox=busybox, init=init))
            (work / "release").write_text(kernel.release)

    path = _from_group(provision, "kernel", group_name, recipe, build)
    return BootFiles(
        kernel=path / "Image", initramfs=path / "initramfs", release=(path / "release").read_text()
    )


def tools_image(provision: Provision, parts: Iterable[Part]) -> Path:
    """Return the read-only image mounted at /opt/criu-pac in the guest, holding ``parts``."""
    ordered = sorted(parts, key=lambda part: part.place)
    key = content_key(*(word for part in ordered for word in (part.place, part.digest)))

    def build(work: Path) -> None:
        tar = work / "tools.tar"
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
            for part in ordered:
                archive.add(part.path, part.place, filter=_owned_by_root)
        _make_erofs(provision, tar, work / "tools.erofs")

    return provision.cache.artifact("tools-image", key, build) / "tools.erofs"


def userland_archive(provision: Provision, group_name: str, *, whole: bool) -> Path:
    """Return a package group as an archive: a ``whole`` root file system, or a layer to put on one."""

    def build(group: ObtainedGroup, work: Path) -> None:
        with steps.step(f"userland {group_name}"), RootTar(work / "userland.tar", whole=whole) as root:
            root.add_packages(path for _, path in group.packages)

    recipe = b"whole" if whole else b"layer"
    return _from_group(provision, "userland", group_name, recipe, build) / "userland.tar"


def _from_group(
    provision: Provision,
    kind: str,
    group_name: str,
    recipe: bytes,
    build: Callable[[ObtainedGroup, Path], None],
) -> Path:
    """Return the artifact made from a package group; needs no package once it is built."""
    salt = hashlib.sha256(recipe).hexdigest()
    locked = provision.locked_digest(group_name)
    if locked and (path := provision.cache.existing_artifact(kind, content_key(salt, locked))):
        provision.record_use(group_name, provision.lock[group_name].packages)
        return path
    group = obtain(group_name, provision)
    return provision.cache.artifact(kind, content_key(salt, group.digest), lambda work: build(group, work))


def _make_erofs(provision: Provision, tar: Path, image: Path) -> None:
    command = host_tools(provision).command("mkfs.erofs")
    # Fixed time and UUID: the same content gives the same image.
    check(
        [*command, "--quiet", "-T0", "-U00000000-0000-0000-0000-000000000001", "--tar=f", image, tar],
        Deadline.after(180, f"mkfs.erofs of {image.name}"),
    )
    tar.unlink()


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if member.name.endswith("/.manifest.json"):  # the cache's own, at the top of an artifact
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def init_script() -> bytes:
    """Return the first program of a guest."""
    return _script("init")


def _script(name: str) -> bytes:
    return (resources.files("harness.provision") / "image" / name).read_bytes()
