"""Whether a checkpoint can be restored on this host or on a named CPU."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalogue.cpus import CpuModel, PacAlgorithm
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.scenario import KeyModule, MachineSpec
from harness.core.errors import HarnessError
from harness.core.process import CommandResult
from harness.doctor.checkpoint import Checkpoint, look_at_checkpoint
from harness.doctor.diagnosis import Conclusion, Diagnosis
from harness.doctor.examine import Examined, Judged, expected, setup_of
from harness.doctor.host import ARM64
from harness.doctor.remedies import FIXED_CRIU, remedies
from harness.doctor.setup import Setup, evaluate
from harness.key_module.cpu_names import cpu_name
from harness.parsing.criu_program import CriuProgram

Verify = Callable[[Path], CommandResult]

_FIRST_WITH_KEYS = "4.1"
_ANY_OTHER = {
    None: PacAlgorithm.QARMA5,
    PacAlgorithm.IMPDEF: PacAlgorithm.QARMA5,
    PacAlgorithm.QARMA5: PacAlgorithm.QARMA3,
    PacAlgorithm.QARMA3: PacAlgorithm.IMPDEF,
}
_SIGNS_UNKNOWN = "whether the checkpoint's programs sign return addresses: taken to be so"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where the restore is to be: the machine, its CRIU and module, and how that is told."""

    setup: Setup
    name: str
    algorithm: PacAlgorithm | None


def diagnose_checkpoint(
    images: Path, cpu: CpuModel | None, examined: Examined, verify: Verify | None, not_seen: list[str]
) -> Diagnosis:
    """Return whether the checkpoint in ``images`` can be restored on ``cpu``, None: on this host.

    ``verify`` asks the key module itself about images on this host. Raises as ``look_at_checkpoint``.
    """
    checkpoint = look_at_checkpoint(images)
    judged = _judge(checkpoint, images, cpu, examined, verify, not_seen)
    return Diagnosis(
        conclusion=judged.conclusion,
        reasons=judged.reasons,
        remedies=judged.remedies,
        not_seen=tuple(not_seen),
        facts={**examined.facts(), "checkpoint": checkpoint.facts(), "for": cpu.name if cpu else "this host"},
    )


def _judge(
    checkpoint: Checkpoint,
    images: Path,
    cpu: CpuModel | None,
    examined: Examined,
    verify: Verify | None,
    not_seen: list[str],
) -> Judged:
    if settled := _without_rules(checkpoint, cpu, examined.host.architecture):
        return settled
    target = _named(cpu, checkpoint) if cpu else _this_host(examined, checkpoint)
    if target is None:
        why = "no criu that is known was found on this host: what would restore the checkpoint is not known"
        return Judged(conclusion=Conclusion.CANNOT_TELL, reasons=(why,))
    not_seen.append(_SIGNS_UNKNOWN)
    known, there = checkpoint.algorithm, target.algorithm
    same = None if known is None or there is None else known is there
    if target.setup.module.loaded:
        if checkpoint.refusal:
            why = f"the key module refuses it: {checkpoint.refusal}"
            return Judged(conclusion=Conclusion.AFFECTED, reasons=(why,))
        answer = _verified(verify, images, not_seen) if verify and cpu is None else None
        if answer and answer.returncode:
            return Judged(conclusion=Conclusion.AFFECTED, reasons=(answer.text.strip(),))
        same = True if answer else same
    return _hypotheses(checkpoint, target, same=same)


def _without_rules(checkpoint: Checkpoint, cpu: CpuModel | None, here: str) -> Judged | None:
    """Return what needs no look at keys, or None."""
    if checkpoint.architecture != ARM64:
        why = f"a checkpoint of {checkpoint.architecture} processes: pointer authentication has no part in it"
        return Judged(conclusion=Conclusion.SAFE, reasons=(why,))
    if cpu is None and here != ARM64:
        why = f"a checkpoint of {ARM64} processes cannot be restored on {here}; name a CPU with --for"
        return Judged(conclusion=Conclusion.AFFECTED, reasons=(why,))
    if checkpoint.pac is None:
        why = "its images do not say whether the CPU they come from authenticated pointers"
        return Judged(conclusion=Conclusion.CANNOT_TELL, reasons=(why,))
    return None


def _hypotheses(checkpoint: Checkpoint, target: _Target, *, same: bool | None) -> Judged:
    """Judge under what is known of the algorithm; where that is nothing, both ways have to agree."""
    if same is not None:
        return _judged(_between(checkpoint, target, same=same), checkpoint, target)
    alike, different = (_between(checkpoint, target, same=one) for one in (True, False))
    judged = _judged(alike, checkpoint, target)
    if evaluate(alike).survives is evaluate(different).survives:
        return judged
    why = (
        "the algorithm that its pointers were signed under, or the target's, is not known: it can be "
        "restored where that is the same, as on a CPU of the same model, and its processes die elsewhere"
    )
    return Judged(conclusion=Conclusion.CANNOT_TELL, reasons=(*judged.reasons, why))


def _judged(setup: Setup, checkpoint: Checkpoint, target: _Target) -> Judged:
    finding = evaluate(setup)
    reason = f"on {target.name}: {_holds(checkpoint)}: {expected(finding)}: {finding.why}"
    if finding.survives:
        return Judged(conclusion=Conclusion.SAFE, reasons=(reason,))
    return Judged(conclusion=Conclusion.AFFECTED, reasons=(reason,), remedies=remedies(setup, dumped=True))


def _between(checkpoint: Checkpoint, target: _Target, *, same: bool) -> Setup:
    """Return the setup with the machine that the checkpoint comes from as its source."""
    there = target.setup.target
    pac, va_bits = bool(checkpoint.pac), checkpoint.va_bits or there.va_bits
    algorithm = there.cpu.algorithm if same else _other_than(there.cpu.algorithm, checkpoint.algorithm)
    cpu = replace(there.cpu, pac=pac, fpac=pac and there.cpu.fpac, algorithm=algorithm if pac else None)
    if va_bits != there.va_bits:
        cpu = replace(cpu, lva=True)
    if checkpoint.key_file:
        cpu = replace(cpu, name=cpu_name(checkpoint.key_file.midr))
    elif cpu != there.cpu:
        cpu = replace(cpu, name="")
    # Nothing of the source's kernel counts any more but the bits it left to a code.
    return replace(target.setup, source=MachineSpec(cpu=cpu, kernel=replace(there.kernel, va_bits=va_bits)))


def _other_than(there: PacAlgorithm | None, known: PacAlgorithm | None) -> PacAlgorithm:
    """Return the algorithm of a checkpoint that was signed under another one than ``there``."""
    return known if known and known is not there else _ANY_OTHER[there]


def _this_host(examined: Examined, checkpoint: Checkpoint) -> _Target | None:
    setups = [setup_of(examined.host, one, checkpoint.flags) for one in examined.routes]
    setup = next((one for one in setups if one), None)
    if setup is None:
        return None
    module = setup.module if checkpoint.key_file or checkpoint.refusal else KeyModule.NONE
    setup = replace(setup, dump=_dumped_by(checkpoint, setup.restore), module=module)
    return _Target(setup=setup, name="this host", algorithm=examined.host.algorithm)


def _named(cpu: CpuModel, checkpoint: Checkpoint) -> _Target:
    """Return a machine of the catalogue with a CRIU that does what the checkpoint needs."""
    # The kernel decides whether such a CPU has 52-bit addresses: taken to be as where it was dumped.
    kernel = replace(DEFAULT_KERNEL, va_bits=checkpoint.va_bits or DEFAULT_KERNEL.va_bits)
    machine = MachineSpec(cpu=cpu, kernel=kernel)
    setup = Setup(
        source=machine,
        target=machine,
        dump=_dumped_by(checkpoint, FIXED_CRIU),
        restore=FIXED_CRIU,
        module=KeyModule.PLUGIN if checkpoint.key_file or checkpoint.refusal else KeyModule.NONE,
        flags=checkpoint.flags,
    )
    with_module = " with the key module" if setup.module.loaded else ""
    return _Target(setup=setup, name=f"{cpu.name}, CRIU 4.2{with_module}", algorithm=cpu.algorithm)


def _dumped_by(checkpoint: Checkpoint, restore: CriuProgram) -> CriuProgram:
    """Return a CRIU that would have written these images, as far as they say which it was."""
    if checkpoint.native_keys and not restore.native_keys:
        return replace(restore, native_keys=True, version=_FIRST_WITH_KEYS)
    return replace(restore, native_keys=checkpoint.native_keys)


def _verified(verify: Verify, images: Path, not_seen: list[str]) -> CommandResult | None:
    try:
        return verify(images)
    except HarnessError as error:
        not_seen.append(f"what the key module says to these images: {error}")
        return None


def _holds(checkpoint: Checkpoint) -> str:
    """Return in words what of keys the checkpoint holds."""
    if not checkpoint.pac:
        return "the checkpoint is of a machine without pointer authentication"
    places = ["CRIU's images"] * checkpoint.native_keys + ["the key module's file"] * bool(
        checkpoint.key_file
    )
    return (
        f"the checkpoint's keys are in {' and '.join(places)}" if places else "the checkpoint holds no keys"
    )
