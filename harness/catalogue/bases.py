"""The container bases: which userland the workload runs in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType

from harness.catalogue.names import named


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """One container base.

    ``protected`` says whether its interpreter and its libc are built with branch protection,
    ``droppable_random`` whether its libc keeps the state of getrandom in memory that the kernel may
    drop (glibc 2.41); ``image`` is its reference in a registry; ``base_group`` and ``python_group``
    are its groups in the package lock, and ``packages`` what workloads can ask for besides;
    ``interpreter`` is a path inside it. A base brought by the user has ``tar`` and neither image
    nor groups.
    """

    name: str
    distribution: str
    release: str
    protected: bool
    image: str | None
    base_group: str | None
    python_group: str | None
    droppable_random: bool = False
    packages: tuple[str, ...] = ()
    interpreter: str = "/usr/bin/python3"
    tar: PurePath | None = None

    def group_of(self, packages: str) -> str:
        """Return the package group that brings one of ``packages`` into the base."""
        return f"{packages}-{self.name}"


BASES: Mapping[str, Base] = MappingProxyType(
    {
        "debian-12": Base(
            name="debian-12",
            distribution="debian",
            release="bookworm",
            protected=False,  # Debian builds arm64 with branch protection since trixie
            image="debian:12",
            base_group="base-debian-12",
            python_group="python-debian-12",
            packages=("redis",),
        ),
        "debian-13": Base(
            name="debian-13",
            distribution="debian",
            release="trixie",
            protected=True,
            image="debian:13",
            base_group="base-debian-13",
            python_group="python-debian-13",
            droppable_random=True,
            packages=("redis",),
        ),
        "ubuntu-20.04": Base(
            name="ubuntu-20.04",
            distribution="ubuntu",
            release="focal",
            protected=False,  # the userland that the upstream report saw survive
            image="ubuntu:20.04",
            base_group="base-ubuntu-20.04",
            python_group="python-ubuntu-20.04",
        ),
        "ubuntu-24.04": Base(
            name="ubuntu-24.04",
            distribution="ubuntu",
            release="noble",
            protected=True,
            image="ubuntu:24.04",
            base_group="base-ubuntu-24.04",
            python_group="python-ubuntu-24.04",
        ),
    }
)

# What workloads can ask for: whatever some base has.
PACKAGES = tuple(sorted({name for one in BASES.values() for name in one.packages}))

CONTROL_BASE = BASES["debian-12"]  # the control arm with an unprotected userland


def base(name: str) -> Base:
    """Return the base ``name``; raise UsageError listing near names otherwise."""
    return named(BASES, "base", name)


def user_base(tar: PurePath) -> Base:
    """Return the base for a root file system archive of the user.

    It is taken to be protected, as a base for the stock arm must be; the premises observe
    whether that is so.
    """
    return Base(
        name=f"tar-{tar.name.split('.')[0]}",
        distribution="user",
        release="",
        protected=True,
        image=None,
        base_group=None,
        python_group=None,
        tar=tar,
    )
