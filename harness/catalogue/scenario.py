"""Scenario: one cell of the matrix, everything a run depends on, as data."""

from dataclasses import dataclass
from enum import Enum

from harness.catalogue.bases import Base
from harness.catalogue.cpus import CpuModel
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.workloads import Workload

_VA_BITS_WITHOUT_LVA = 48


class KeyModule(Enum):
    """What carries PAC keys when CRIU does not: the plugin, under the policy that its name adds."""

    NONE = "none"
    PLUGIN = "plugin"
    PLUGIN_DISABLE_AUTH = "plugin-disable-auth"

    @property
    def loaded(self) -> bool:
        """Whether CRIU loads the plugin."""
        return self is not KeyModule.NONE

    @property
    def policy(self) -> str | None:
        """What CRIU_PAC_POLICY is set to for a restore; None where it is left unset."""
        return "disable-auth" if self is KeyModule.PLUGIN_DISABLE_AUTH else None


class Driver(Enum):
    """Who calls CRIU."""

    CRIU = "criu"
    RUNC = "runc"
    DOCKER = "docker"
    PODMAN = "podman"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """What a machine is made of, as far as it decides an outcome."""

    cpu: CpuModel
    kernel: Kernel

    @property
    def va_bits(self) -> int:
        """Bits of a user address: a code has the ones from there to bit 54 (Arm ARM, PACField)."""
        return self.kernel.va_bits if self.cpu.lva else min(self.kernel.va_bits, _VA_BITS_WITHOUT_LVA)

    def same_codes(self, other: "MachineSpec") -> bool:
        """Whether one key gives the same code for the same pointer on both."""
        return self.cpu.algorithm is other.cpu.algorithm and self.va_bits == other.va_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``cycles`` times: ``criu_dump`` dumps on ``source``, ``criu_restore`` restores on ``target``."""

    source: MachineSpec
    target: MachineSpec
    criu_dump: CriuBuild
    criu_restore: CriuBuild
    module: KeyModule
    workload: Workload
    base: Base
    driver: Driver
    cycles: int = 1

    @property
    def id(self) -> str:
        """Stable readable name; SRC:DST where source and target (or dump and restore) differ."""
        parts = [
            _pair(self.criu_dump.name, self.criu_restore.name),
            "k" + _pair(self.source.kernel.name, self.target.kernel.name),
            _pair(self.source.cpu.name, self.target.cpu.name),
            self.base.name,
            self.workload.name,
            self.driver.value,
            self.module.value,
        ]
        if self.cycles != 1:
            parts.append(f"x{self.cycles}")
        return "-".join(parts)

    @property
    def slug(self) -> str:
        """The id as a directory name: artifact stores and volume options take no colon."""
        return self.id.replace(":", "_to_")

    @property
    def lacking(self) -> str | None:
        """The packages that the workload needs and the base does not have; None if there are none."""
        packages = self.workload.packages
        return None if packages in self.base.packages else packages

    @property
    def crosses_machines(self) -> bool:
        """Whether the images go to a machine of another kind."""
        return self.source != self.target


def _pair(source: str, target: str) -> str:
    return source if source == target else f"{source}:{target}"
