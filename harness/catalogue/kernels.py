"""The guest kernels."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.catalogue.names import named


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One guest kernel.

    ``suite`` is the Debian suite it comes from, ``package_group`` its group in the package
    lock, ``modules`` what the guest loads before anything else, in this order. A module
    that is not in the package because it is built in is no error.
    """

    name: str
    suite: str
    package_group: str
    modules: tuple[str, ...]

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of the name: (6, 1)."""
        return tuple(int(part) for part in self.name.split("."))


# Disks, console, random numbers and the root image come first: the rest is read from that root.
_BOOT = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "virtio_net", "erofs", "overlay")
# CRIU asks nf_tables to hold network traffic and the *_diag modules for every kind of socket.
_CRIU = (
    "nfnetlink",
    "nf_tables",
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

# The suite each series comes from. The last is the newest that Debian has in a suite of its own.
_SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "7.2": "forky"}

KERNELS: Mapping[str, Kernel] = MappingProxyType(
    {
        name: Kernel(name=name, suite=suite, package_group=f"kernel-{name}", modules=_BOOT + _CRIU)
        for name, suite in _SUITES.items()
    }
)

DEFAULT_KERNEL = KERNELS["6.1"]


def kernel(name: str) -> Kernel:
    """Return the kernel ``name``; raise UsageError listing near names otherwise."""
    return named(KERNELS, "kernel", name)
