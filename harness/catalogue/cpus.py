"""The CPU models a machine can have, and what each does with a wrongly signed return address."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from harness.catalogue.names import named


class PacAlgorithm(Enum):
    """How a CPU computes authentication codes (Arm ARM, ID_AA64ISAR1_EL1.APA/API, ID_AA64ISAR2_EL1.APA3)."""

    QARMA5 = "qarma5"
    QARMA3 = "qarma3"
    IMPDEF = "impdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuModel:
    """One CPU model.

    What is said is of the model as QEMU 11 emulates it, observed by its ID registers; silicon of
    that name may use another algorithm. ``qemu`` is the argument of ``-cpu``; ``pac`` says whether
    the CPU authenticates pointers, ``fpac`` whether a failed authentication faults at once
    (SIGILL) instead of leaving a broken pointer (SIGSEGV); ``lva`` whether it has 52-bit
    virtual addresses (FEAT_LVA), which leaves three bits to a code instead of seven where the
    kernel uses them; ``core_of`` names a product with this core; ``boot`` is added to the kernel's
    command line.
    """

    name: str
    qemu: str
    pac: bool
    fpac: bool
    algorithm: PacAlgorithm | None
    lva: bool = False
    core_of: str = ""
    note: str = ""
    boot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenCpu:
    """A CPU that is not in the catalogue: one of QEMU's models, with properties or without ("max,sve=off").

    Nothing is known of it: what it does is observed in a machine, which gives a CpuModel.
    """

    name: str

    @property
    def qemu(self) -> str:
        """The argument of -cpu."""
        return self.name

    @property
    def boot(self) -> str:
        """Nothing is added to the kernel's command line."""
        return ""


def _catalogue(*models: CpuModel) -> Mapping[str, CpuModel]:
    return MappingProxyType({model.name: model for model in sorted(models, key=lambda model: model.name)})


CPUS: Mapping[str, CpuModel] = _catalogue(
    CpuModel(
        name="neoverse-v1",
        qemu="neoverse-v1",
        pac=True,
        fpac=False,
        algorithm=PacAlgorithm.IMPDEF,
        core_of="Graviton3",
        note="the core of the machine in the upstream report",
    ),
    CpuModel(
        name="neoverse-v1-nopauth",
        qemu="neoverse-v1",
        pac=False,
        fpac=False,
        algorithm=None,
        boot="arm64.nopauth",
        note="control: a kernel that leaves PAC off (Linux 5.12); stands in for one built without it",
    ),
    CpuModel(name="neoverse-n2", qemu="neoverse-n2", pac=True, fpac=True, algorithm=PacAlgorithm.IMPDEF),
    CpuModel(name="cortex-a710", qemu="cortex-a710", pac=True, fpac=True, algorithm=PacAlgorithm.IMPDEF),
    CpuModel(
        name="max",
        qemu="max",
        pac=True,
        fpac=True,
        algorithm=PacAlgorithm.IMPDEF,
        lva=True,
        note="IMPDEF is QEMU's default algorithm since 10.0; its result is not that of any silicon",
    ),
    CpuModel(
        name="max-qarma3",
        qemu="max,pauth-qarma3=on",
        pac=True,
        fpac=True,
        algorithm=PacAlgorithm.QARMA3,
        lva=True,
        note="slow to emulate",
    ),
    CpuModel(
        name="max-qarma5",
        qemu="max,pauth-qarma5=on",
        pac=True,
        fpac=True,
        algorithm=PacAlgorithm.QARMA5,
        lva=True,
        note="slow to emulate",
    ),
    CpuModel(
        name="max-nopauth",
        qemu="max,pauth=off",
        pac=False,
        fpac=False,
        algorithm=None,
        lva=True,
        note="control: every other feature of max",
    ),
    CpuModel(
        name="neoverse-n1", qemu="neoverse-n1", pac=False, fpac=False, algorithm=None, core_of="Graviton2"
    ),
    CpuModel(name="cortex-a57", qemu="cortex-a57", pac=False, fpac=False, algorithm=None),
)

DEFAULT_CPU = CPUS["neoverse-v1"]
NOPAUTH_CPU = CPUS["neoverse-v1-nopauth"]
CONTROL_CPU = CPUS["neoverse-n1"]  # the control arm without pointer authentication
HOST_CPU = "host"  # QEMU's name for the CPU it runs on, by KVM


# As in: cortex-a76, or: max,pauth=off,sve=off
_QEMU_CPU = re.compile(r"[\w.-]+(,[\w.-]+=[\w.-]+)*")


def cpu_wanted(text: str) -> CpuModel | UnseenCpu:
    """Return the model of the catalogue, else one for QEMU to know; UsageError for what cannot be either."""
    if text in CPUS or not _QEMU_CPU.fullmatch(text):
        return cpu(text)
    return UnseenCpu(name=text)


def cpu(name: str) -> CpuModel:
    """Return the model ``name``; raise UsageError listing near names otherwise."""
    return named(CPUS, "CPU", name)
