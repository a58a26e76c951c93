"""A site: one machine of a scenario with its container. Dump and restore have one each, mostly the same."""

from dataclasses import dataclass
from typing import Any, Protocol

from harness.catalogue.workloads import Workload
from harness.guest.container import Container
from harness.machines.protocol import Machine
from harness.machines.template import Facts
from harness.scenario.lab import MachineKind


class Prepared(Protocol):
    """What is ready to give machines: a template, or the host itself."""

    @property
    def facts(self) -> Facts:
        """What its preparation observed."""


class Laboratory(Protocol):
    """Where scenarios run: the lab of emulated machines, or the host. ``made`` is its own Prepared."""

    @property
    def qemu_version(self) -> str | None:
        """Version of QEMU; None where nothing is emulated."""

    def check_workload(self, workload: Workload) -> None:
        """Raise the WorkloadError of a workload that cannot be had."""

    def template(self, kind: MachineKind) -> Prepared:
        """Return what is ready to give machines of ``kind``."""

    def clone(self, made: Any) -> Machine:
        """Return a machine for one scenario."""

    def release(self, machine: Any) -> None:
        """Give it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """``facts`` are what the preparation of the machine's template observed."""

    machine: Machine
    container: Container
    facts: Facts
