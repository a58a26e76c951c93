"""The guest kernels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.catalogue.names import named

_RSEQ_CONFIGURATION = (5, 13)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One guest kernel.

    ``suite`` is the Debian suite it comes from, ``package_group`` its group in the package
    lock, ``modules`` what the guest loads before anything else, in this order. A module
    that is not in the package because it is built in is no error. ``va_bits``: bits of a user
    address (CONFIG_ARM64_VA_BITS) on a CPU with FEAT_LVA; at most 48 on any other. A kernel of the
    user has a ``path`` and the ``release`` that its image tells; what a machine with it does is
    observed before anything is predicted.
    """

    name: str
    suite: str
    package_group: str
    modules: tuple[str, ...]
    va_bits: int
    release: str | None = None
    path: str | None = None

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of the release, or of the name that says its series: (6, 1)."""
        found = re.match(r"\d+(\.\d+)+", self.release or self.name)
        assert found, "a series, or checked when the kernel was read"
        return tuple(int(part) for part in found[0].split("."))

    @property
    def spelled(self) -> str:
        """What a person writes in --kernel for it."""
        return self.path or self.name

    @property
    def tells_rseq(self) -> bool:
        """Whether it has PTRACE_GET_RSEQ_CONFIGURATION, without which CRIU cannot serve rseq."""
        return self.version >= _RSEQ_CONFIGURATION


# Disks, console, random numbers and the root image come first: the rest is read from that root.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "virtio_net", "erofs", "overlay")
# CRIU asks nf_tables to hold network traffic, nf_conntrack_netlink for what a network namespace tracks,
# and the *_diag modules for every kind of socket.
_CRIU = (
    "nf_tables",
    "nf_conntrack_netlink",
    "af_packet",
    "tun",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "netlink_diag",
    "af_packet_diag",
)

# The suite each series comes from, and its configured address size. The last is the newest that
# Debian has in a suite of its own.
_SERIES = {"5.10": ("bullseye", 48), "6.1": ("bookworm", 48), "6.12": ("trixie", 52), "7.2": ("forky", 52)}

KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        name: Kernel(
            name=name,
            suite=suite,
            package_group=f"kernel-{name}",
            modules=BOOT_MODULES + _CRIU,
            va_bits=va_bits,
        )
        for name, (suite, va_bits) in _SERIES.items()
    }
)

DEFAULT_KERNEL = KERNELS["6.1"]


def kernel(name: str) -> Kernel:
    """Return the kernel ``name``; raise UsageError listing near names otherwise."""
    return named(KERNELS, "kernel", name)


def user_kernel(release: str, path: str, digest: str) -> Kernel:
    """Return the kernel of the user at ``path``; ``digest`` is of its content.

    Its addresses are taken to have 48 bits until the codes in a machine's pointers are seen.
    """
    return Kernel(
        # Two builds of one release are two kernels.
        name=f"{release}+{digest[:8]}",
        suite="",
        package_group=f"tree-{digest[:32]}",
        modules=BOOT_MODULES + _CRIU,
        va_bits=48,
        release=release,
        path=path,
    )
