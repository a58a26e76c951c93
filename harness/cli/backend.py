"""The door to what runs scenarios, opened when a command needs it: help and cache start without it."""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalogue.bases import Base
from harness.catalogue.cpus import CpuModel, UnseenCpu
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.scenario import MachineSpec
from harness.catalogue.workloads import Workload
from harness.provision.context import Provision
from harness.scenario.arms import Arm
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult

if TYPE_CHECKING:
    from harness.provision.prepared_base import PreparedBase
    from harness.scenario.lab import Lab
    from harness.scenario.native_lab import NativeLab
    from harness.scenario.site import Laboratory


def open_lab(provision: Provision, qemu: Path | None) -> "Lab":
    """Return the lab to run in; ``qemu`` replaces the provided program."""
    from harness.scenario.lab import Lab  # noqa: PLC0415 -- see the module's docstring

    return Lab(provision, qemu=qemu)


def machine_of(lab: "Lab", cpu: CpuModel | UnseenCpu, kernel: Kernel) -> MachineSpec:
    """Return the machine of a CPU and a kernel; raises as ``observed_machine.machine_of``."""
    from harness.scenario.observed_machine import machine_of as observed  # noqa: PLC0415 -- see above

    return observed(lab, cpu, kernel)


def kvm_has_pac(lab: "Lab") -> bool:
    """Return whether KVM gives pointer authentication to guests on this host; HostError without KVM."""
    from harness.scenario.qemu_program import kvm_has_pac as asked  # noqa: PLC0415 -- see above

    return asked(lab.qemu)


def open_native_lab(provision: Provision) -> "NativeLab":
    """Return the host as the lab; raises HostError and NoPacError."""
    from harness.scenario.native_lab import NativeLab  # noqa: PLC0415 -- see the module's docstring

    return NativeLab(provision)


def builds_that_show(lab: "NativeLab") -> tuple[CriuBuild, CriuBuild | None, str]:
    """Return the CRIU that shows the bug on the host, one to compare with (or None), and why."""
    from harness.scenario.native_lab import builds_that_show as chosen  # noqa: PLC0415 -- as above

    return chosen(lab.spec)


def put_back(directory: Path) -> None:
    """Undo what a killed command changed on the host; raises HostError."""
    from harness.guest.native import put_back as undo  # noqa: PLC0415 -- see the module's docstring

    undo(directory)


def run_arm(arm: Arm, base: "PreparedBase", lab: "Laboratory", options: RunOptions) -> ScenarioResult:
    """Run one arm to its end; raises UsageError only."""
    from harness.scenario.run import run_scenario  # noqa: PLC0415 -- see the module's docstring

    return run_scenario(arm.name, arm.scenario, base, lab, options)


def workload(name: str) -> Workload:
    """Return the workload of this name; raises UsageError and WorkloadError."""
    from harness.guest.workload import load_workload  # noqa: PLC0415 -- see the module's docstring

    return load_workload(name)


def choose_base(name: str, provision: Provision) -> tuple["PreparedBase", str]:
    """Return the base for ``--base name`` and the note, already told, that says which and why.

    Raises as ``harness.provision.bases.choose_base``.
    """
    from harness.provision.bases import choose_base as choose  # noqa: PLC0415 -- see the module's docstring

    return choose(name, provision)


def prepare_base(base: Base, provision: Provision) -> "PreparedBase":
    """Return ``base``; raises as ``harness.provision.bases.prepare_base``."""
    from harness.provision.bases import prepare_base as prepare  # noqa: PLC0415 -- see the module's docstring

    return prepare(base, provision)
