"""Arm64 machines that are hosts of their own, with this harness in them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.catalogue.bases import base as base_named
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.scenario.lab import Lab, MachineKind
from support import arm_host
from support.arm_host import Host


@pytest.fixture(scope="session")
def packages() -> Iterator[Provision]:
    """Give what provides the packages that only tests need."""
    with arm_host.packages_of_tests() as made:
        yield made


@pytest.fixture(scope="session")
def guest_python(packages: Provision) -> Path:
    """Return a directory with Python for arm64 machines and what the harness imports, compiled."""
    return arm_host.guest_python(packages)


@pytest.fixture(scope="session")
def harness_archive(packages: Provision, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return an archive of this checkout's harness, compiled."""
    return arm_host.harness_archive(packages, tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="session")
def host_disk(lab: Lab, provision: Provision, packages: Provision, guest_python: Path) -> Path:
    """Return the image of what a host has besides the harness."""
    bases = [prepare_base(base_named(name), provision) for name in arm_host.BASES]
    return arm_host.host_disk(lab, bases, guest_python, packages)


@pytest.fixture
def new_host(
    lab: Lab, machine_kind: MachineKind, host_disk: Path, harness_archive: bytes
) -> Iterator[Callable[[], Host]]:
    """Return what makes a host of the test's machine, any number of times."""
    made = []

    def make() -> Host:
        made.append(arm_host.make_host(lab, machine_kind, host_disk, harness_archive))
        return made[-1]

    yield make
    for one in made:
        lab.release(one.machine)


@pytest.fixture
def host(new_host: Callable[[], Host]) -> Host:
    """Return the test's machine as a host."""
    return new_host()
