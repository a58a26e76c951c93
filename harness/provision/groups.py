"""Which packages the harness is made of, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite to look in; ``preferred`` are name patterns for which it goes before the others."""

    name: str
    components: tuple[str, ...] = ("main",)
    preferred: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageGroup:
    """A closure of ``roots``, less what ``exclude`` names with a reason and the group ``beyond``."""

    name: str
    distribution: str
    suites: tuple[Suite, ...]
    architecture: str
    roots: tuple[str, ...]
    exclude: Mapping[str, str] = field(default_factory=dict)
    beyond: str | None = None
    locked: bool = True


def group(name: str, known: Mapping[str, PackageGroup] | None = None) -> PackageGroup:
    """Return the group ``name`` of ``known`` (default: the harness's own).

    Raises UsageError listing the known ones.
    """
    groups = GROUPS if known is None else known
    try:
        return groups[name]
    except KeyError:
        raise UsageError(f"no package group {name}; there are {', '.join(sorted(groups))}") from None


def _excluded(reason: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, reason)


_TRIXIE = (Suite(name="trixie"),)
_BOOKWORM = (Suite(name="bookworm"),)
_BULLSEYE = (Suite(name="bullseye"),)
_FORKY = (Suite(name="forky"),)
_HOST_SUITES = (
    Suite(name="trixie"),
    Suite(name="trixie-backports", preferred=("qemu-*",)),
)
_SCRIPTS = "used by maintainer scripts only, and none is run"

_HOST_EXCLUDE = {
    **_excluded("firmware: the guest kernel is loaded directly", "ipxe-qemu", "seabios", "qemu-efi-aarch64"),
    **_excluded(_SCRIPTS, "adduser", "debconf", "dpkg", "init-system-helpers", "passwd", "sensible-utils"),
}
_KERNEL_EXCLUDE = _excluded(
    "only vmlinuz and the modules are used", "initramfs-tools", "linux-initramfs-tool", "linux-base", "kmod"
)
_GUEST_EXCLUDE = {
    **_excluded(_SCRIPTS, "adduser", "awk", "debconf", "debianutils", "dpkg", "perl-base"),
    **_excluded(_SCRIPTS, "init-system-helpers", "libcap2-bin", "sysvinit-utils"),
    **_excluded("nobody logs in", "libpam-modules", "libpam-runtime", "passwd"),
}
_BASE_ROOTS = (
    "base-files", "base-passwd", "bash", "coreutils", "dash", "libc-bin", "libc6", "sed", "grep",
)  # fmt: skip
_BASE_EXCLUDE = _excluded(_SCRIPTS, "awk", "debconf", "debianutils", "dpkg", "perl-base")


def _base(
    distribution: str, release: str, suites: tuple[Suite, ...], *, locked: bool = True
) -> list[PackageGroup]:
    base = PackageGroup(
        name=f"base-{release}",
        distribution=distribution,
        suites=suites,
        architecture="arm64",
        roots=_BASE_ROOTS,
        exclude=_BASE_EXCLUDE,
        locked=locked,
    )
    python = PackageGroup(
        name=f"python-{release}",
        distribution=distribution,
        suites=suites,
        architecture="arm64",
        roots=("python3-minimal",),
        exclude=_BASE_EXCLUDE,
        beyond=base.name,
        locked=locked,
    )
    return [base, python]


def _for_workloads(release: str, suites: tuple[Suite, ...], name: str, *roots: str) -> PackageGroup:
    """Return what the workloads that want the packages ``name`` need beyond the Python of a base."""
    return PackageGroup(
        name=f"{name}-{release}",
        distribution="debian",
        suites=suites,
        architecture="arm64",
        roots=roots,
        exclude={
            **_BASE_EXCLUDE,
            **_excluded(_SCRIPTS, "adduser", "init-system-helpers", "lsb-base", "sysvinit-utils"),
        },
        beyond=f"python-{release}",
    )


def _kernel(name: str, suites: tuple[Suite, ...]) -> PackageGroup:
    return PackageGroup(
        name=f"kernel-{name}",
        distribution="debian",
        suites=suites,
        architecture="arm64",
        roots=("linux-image-cloud-arm64",),
        exclude=_KERNEL_EXCLUDE,
    )


def _guest(name: str, *more: str) -> PackageGroup:
    return PackageGroup(
        name=name,
        distribution="debian",
        suites=_TRIXIE,
        architecture="arm64",
        # CRIU calls tar for the content of a tmpfs, tar calls /bin/sh, and that calls gzip.
        roots=(
            "base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "docker.io", "gzip",
            "iproute2", "kmod", "libc-bin", "mount", "procps", "qemu-guest-agent", "tar", "tini",
            "util-linux", *more,
        ),
        exclude=_GUEST_EXCLUDE,
    )  # fmt: skip


def _criu(version: str, suites: tuple[Suite, ...]) -> PackageGroup:
    return PackageGroup(
        name=f"criu-{version}",
        distribution="debian",
        suites=suites,
        architecture="arm64",
        roots=("criu",),
        exclude={
            **_excluded("the crit tool is not used", "python3", "python3-protobuf", "python3-pycriu"),
            **_excluded(_SCRIPTS, "dpkg", "sgml-base"),
        },
    )


def _build_tools(architecture: str, *compiler: str) -> PackageGroup:
    return PackageGroup(
        name=f"build-tools-{architecture}",
        distribution="debian",
        suites=_TRIXIE,
        architecture=architecture,
        roots=(*compiler, "make", "pkgconf-bin", "protobuf-c-compiler", "protobuf-compiler"),
        exclude=_excluded(_SCRIPTS, "dpkg", "debconf"),
    )


def _host_tools(architecture: str) -> PackageGroup:
    return PackageGroup(
        name=f"host-tools-{architecture}",
        distribution="debian",
        suites=_HOST_SUITES,
        architecture=architecture,
        roots=("qemu-system-arm", "erofs-utils", "kmod"),
        exclude=_HOST_EXCLUDE,
    )


_ALL = [
    _host_tools("amd64"),
    _host_tools("arm64"),
    _kernel("5.10", _BULLSEYE),
    _kernel("6.1", _BOOKWORM),
    _kernel("6.12", _TRIXIE),
    _kernel("7.2", _FORKY),
    _guest("guest-root"),
    _guest("guest-podman", "podman", "crun", "libcriu2"),
    _build_tools("amd64", "binutils-aarch64-linux-gnu", "gcc-aarch64-linux-gnu"),
    _build_tools("arm64", "binutils", "gcc"),
    PackageGroup(  # what CRIU is compiled against
        name="criu-dev",
        distribution="debian",
        suites=_TRIXIE,
        architecture="arm64",
        roots=(
            "libbsd-dev", "libc6-dev", "libcap-dev", "libgnutls28-dev", "libnet1-dev", "libnftables-dev",
            "libnl-3-dev", "libprotobuf-c-dev", "libprotobuf-dev", "uuid-dev",
        ),
        exclude=_excluded(_SCRIPTS, "dpkg", "debconf"),
    ),
    _criu("3.17.1", _BOOKWORM),
    _criu("4.1.1", _TRIXIE),
    _criu("4.2.1", _FORKY),
    *_base("debian", "debian-13", _TRIXIE),
    PackageGroup(  # for the harness itself inside a machine
        name="python-stdlib-debian-13",
        distribution="debian",
        suites=_TRIXIE,
        architecture="arm64",
        roots=("python3",),
        exclude=_BASE_EXCLUDE,
        beyond="base-debian-13",
    ),
    *_base("debian", "debian-12", _BOOKWORM),
    _for_workloads("debian-13", _TRIXIE, "redis", "redis-server"),
    _for_workloads("debian-12", _BOOKWORM, "redis", "redis-server"),
    # Ubuntu's archive could not be reached where the lock was made: resolved at run time.
    *_base("ubuntu", "ubuntu-20.04", (Suite(name="focal"),), locked=False),
    *_base("ubuntu", "ubuntu-24.04", (Suite(name="noble"),), locked=False),
    PackageGroup(
        name="ubuntu-keyring",
        distribution="debian",
        suites=_TRIXIE,
        architecture="arm64",
        roots=("ubuntu-archive-keyring",),
    ),
]  # fmt: skip

GROUPS: Mapping[str, PackageGroup] = {one.name: one for one in sorted(_ALL, key=lambda one: one.name)}
