"""What can be done, of it what helps in the case at hand, with the price of each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness.catalogue.cpus import NOPAUTH_CPU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.scenario import KeyModule, MachineSpec
from harness.doctor.cells import command
from harness.doctor.diagnosis import Remedy
from harness.doctor.host import NO_PAUTH
from harness.doctor.setup import Setup, evaluate
from harness.parsing.criu_program import CriuProgram

_NOPAUTH_SINCE = (5, 12)
_MASK_REGSET_SINCE = (5, 13)  # Linux 201698626fbc; CRIU from 4.1 on needs it
# CRIU 4.2, whose restorer is built without branch protection (commit dcee5bd6f).
FIXED_CRIU = CriuProgram(
    version="4.2.1", native_keys=True, plugin_hooks=13, restorer_protected=False, reads_gnu_hash=True
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    what: str
    cost: str
    setup: Setup


def remedies(setup: Setup, *, dumped: bool = False) -> tuple[Remedy, ...]:
    """Return what makes a process of ``setup`` survive, the cheapest first.

    Each is tried against the rules, and offered only when the process then survives. Where
    the checkpoint is made already (``dumped``), what had to be done before is left out.
    """
    candidates = _afterwards(setup) if dumped else _beforehand(setup)
    return tuple(
        Remedy(what=one.what, cost=one.cost, cell=command(one.setup))
        for one in candidates
        if evaluate(one.setup).survives
    )


def _beforehand(setup: Setup) -> Iterator[_Candidate]:
    upgraded = replace(setup, dump=FIXED_CRIU, restore=FIXED_CRIU, module=KeyModule.NONE)
    installed = replace(setup, module=KeyModule.PLUGIN, late_amdgpu=False)
    yield _Candidate(
        "upgrade CRIU to 4.2 or later",
        "checkpoints made before it hold no keys; threads that have changed their own keys "
        "(PR_PAC_RESET_KEYS) still lose them",
        upgraded,
    )
    yield _Candidate(
        "install the PAC key module: criu-pac module install",
        "one more file per checkpoint, as secret as the keys in it; checkpoints made before it hold no keys; "
        "a restore under another algorithm or with other pointer bits is refused",
        installed,
    )
    if not any(evaluate(one).survives for one in (upgraded, installed)):
        yield _Candidate(
            "upgrade CRIU to 4.2 or later, and install the PAC key module: criu-pac module install",
            "one more file per checkpoint, as secret as the keys in it; checkpoints made before it lack keys",
            replace(upgraded, module=KeyModule.PLUGIN, late_amdgpu=False),
        )
    if setup.source.kernel.version < _MASK_REGSET_SINCE:
        machine = replace(setup.source, kernel=DEFAULT_KERNEL)
        with_module = ", and install the PAC key module" if setup.flags else ""
        yield _Candidate(
            f"upgrade the kernel to 5.13 or later and CRIU to 4.2 or later{with_module}",
            "a reboot; checkpoints made before it hold no keys",
            replace(
                installed if setup.flags else upgraded,
                dump=FIXED_CRIU,
                restore=FIXED_CRIU,
                source=machine,
                target=machine,
            ),
        )
    if setup.source.cpu.pac and setup.source.kernel.version >= _NOPAUTH_SINCE:
        yield _Candidate(
            f"boot with {NO_PAUTH}",
            "a reboot; every process of the host loses the protection; checkpoints made before it "
            "cannot be restored (Linux 5.12 and later)",
            replace(setup, source=_without(setup.source), target=_without(setup.target)),
        )
    if setup.signs:
        yield _Candidate(
            "rebuild the programs without -mbranch-protection, every library included",
            "own builds of all that runs in the process, libc too; these programs lose the protection",
            replace(setup, signs=False),
        )


def _afterwards(setup: Setup) -> Iterator[_Candidate]:
    yield _Candidate(
        "restore with CRIU 4.2 or later",
        "none for this checkpoint: it holds the keys",
        replace(setup, restore=FIXED_CRIU),
    )
    if setup.target.cpu.pac and not setup.source.cpu.pac:
        yield _Candidate(
            "restore with the PAC key module and CRIU_PAC_POLICY=disable-auth",
            "a security downgrade: authentication is off in all threads of the restored tasks "
            "(Linux 5.13 and later); the dump needs the module as well",
            replace(setup, module=KeyModule.PLUGIN_DISABLE_AUTH),
        )
    if setup.target != setup.source:
        yield _Candidate(
            "restore on a CPU of the model that the checkpoint comes from",
            "such a machine has to be there",
            replace(setup, target=setup.source),
        )


def _without(machine: MachineSpec) -> MachineSpec:
    """Return the machine with authentication left off by its kernel, as the catalogue names it."""
    return replace(machine, cpu=NOPAUTH_CPU)
