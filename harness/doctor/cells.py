"""The cell of the matrix that is nearest to what was seen, as a command a person can run."""

import shlex

from harness.catalogue.bases import CONTROL_BASE
from harness.catalogue.cpus import CPUS, CpuModel, PacAlgorithm
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS, Kernel
from harness.catalogue.scenario import MachineSpec
from harness.doctor.setup import PROTECTED_BASE, Setup
from harness.parsing.criu_program import CriuProgram

_NO_DT_HASH = (6, 11)  # Linux 48f6430505c0
_KEYS_ITSELF, _SIGNED_RESTORER, _OLD = "4.2.1", "4.1.1", "3.17.1"
_4_0_STAND_IN, _LATE_STAND_IN = "4.1.1-nopac", "4.2.1-nopac"
_HOOKS_OF_4_0 = 12
_WIDE_ADDRESSES = 52
_MASKS = (5, 13)  # PR_PAC_SET_ENABLED_KEYS


def command(setup: Setup) -> str:
    """Return the `criu-pac matrix` command for the catalogue's cell nearest to ``setup``."""
    words = ["criu-pac", "matrix"]
    words += [
        "--criu",
        _pair(*(nearest_criu(one, setup.source.kernel) for one in (setup.dump, setup.restore))),
    ]
    machines = (setup.source, setup.target)
    words += ["--kernel", _pair(*(nearest_kernel(one.kernel) for one in machines))]
    words += ["--cpu", _pair(*(nearest_cpu(one) for one in machines))]
    words += ["--module", setup.module.value, "--driver", "criu"]
    words += ["--base", (PROTECTED_BASE if setup.signs else CONTROL_BASE).name]
    words += ["--workload", _workload(setup)]
    return shlex.join(words)


def nearest_criu(program: CriuProgram, kernel: Kernel) -> str:
    """Return the build of the catalogue that does with keys what ``program`` does."""
    exact = CRIU_BUILDS.get(program.version or "")
    if exact and (exact.native_keys, exact.restorer_protected) == (
        program.native_keys,
        program.restorer_protected,
    ):
        return exact.name
    if program.native_keys:
        return _SIGNED_RESTORER if program.restorer_protected else _KEYS_ITSELF
    if program.plugin_hooks == _HOOKS_OF_4_0:
        return _4_0_STAND_IN
    return _LATE_STAND_IN if program.reads_gnu_hash and kernel.version >= _NO_DT_HASH else _OLD


def nearest_kernel(kernel: Kernel) -> str:
    """Return the newest kernel of the catalogue that is not newer."""
    usable = sorted(KERNELS.values(), key=lambda one: one.version)
    # What matters between two of them is the vDSO of 6.11.
    version = (6, 12) if _NO_DT_HASH <= kernel.version < (6, 12) else kernel.version
    older = [one for one in usable if one.version <= version]
    return max(older or usable[:1], key=lambda one: one.version).name


def nearest_cpu(machine: MachineSpec) -> str:
    """Return the model of the catalogue with this core, or one that authenticates alike."""
    cpu = machine.cpu
    if cpu.name in CPUS:
        return cpu.name
    alike = [one for one in CPUS.values() if (one.pac, one.fpac) == (cpu.pac, cpu.fpac)]
    named = [one for one in alike if _plain(one.qemu) == _plain(cpu.name)]
    wanted = cpu.algorithm or PacAlgorithm.IMPDEF
    same = [one for one in alike if one.algorithm is wanted and not one.lva]
    return (named or same or _of_algorithm(alike, wanted) or alike)[-1].name


def _of_algorithm(models: list[CpuModel], wanted: PacAlgorithm) -> list[CpuModel]:
    return [one for one in models if one.algorithm is wanted]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "-")


def _workload(setup: Setup) -> str:
    if setup.signs and "thread-masks" in setup.flags and setup.source.kernel.version >= _MASKS:
        return "c-enabled-mask"
    if setup.signs and setup.flags:
        return "c-threads-own-keys"
    # Codes of three bits prove nothing with the few frames of a Python program.
    wide = setup.source.cpu.pac and setup.source.va_bits == _WIDE_ADDRESSES
    return "c-frames" if setup.signs and wide else "python-sleeper"


def _pair(first: str, second: str) -> str:
    return first if first == second else f"{first}:{second}"
