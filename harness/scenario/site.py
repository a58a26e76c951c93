"""A site: one machine of a scenario with its container. Dump and restore have one each, mostly the same."""

from dataclasses import dataclass

from harness.guest.container import Container
from harness.machines.qemu import QemuMachine
from harness.machines.template import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """``facts`` are what the preparation of the machine's template observed."""

    machine: QemuMachine
    container: Container
    facts: Facts
