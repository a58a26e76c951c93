"""Diagnoses of programs, of a container image and of a process."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.catalogue.cpus import DEFAULT_CPU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.scenario import MachineSpec
from harness.doctor.diagnosis import Conclusion, Diagnosis, worst
from harness.doctor.examine import Examined, Judged, judge
from harness.doctor.files import Subject, look_at_files, look_at_image
from harness.doctor.process import look_at_process
from harness.doctor.remedies import remedies
from harness.doctor.setup import Setup
from harness.parsing.criu_program import CriuProgram

# The case of the upstream report, to show a remedy where the host itself is none.
_REPORTED = MachineSpec(cpu=DEFAULT_CPU, kernel=DEFAULT_KERNEL)
_OLD_CRIU = CriuProgram(
    version="3.17.1", native_keys=False, plugin_hooks=10, restorer_protected=False, reads_gnu_hash=False
)


def diagnose_files(paths: Sequence[Path], examined: Examined, not_seen: list[str]) -> Diagnosis:
    """Return whether programs depend on keys; raises as ``look_at_files``."""
    return _sensitive(look_at_files(paths), "files", examined, not_seen)


def diagnose_image(name: str, examined: Examined, not_seen: list[str]) -> Diagnosis:
    """Return whether programs of a container image depend on keys; raises as ``look_at_image``."""
    subject = look_at_image(name, examined.engines, not_seen)
    return _sensitive(subject, "image", examined, not_seen)


def _sensitive(subject: Subject, what: str, examined: Examined, not_seen: list[str]) -> Diagnosis:
    here = judge(examined)
    reasons = [*subject.reasons]
    if subject.signs:
        reasons.append(
            "its processes die wherever a checkpoint loses keys: on a CPU with pointer authentication, "
            "by a CRIU that does not keep them"
        )
        reasons.append(f"on this host: {here.conclusion.value}: {here.reasons[0]}")
    reported = Setup(source=_REPORTED, target=_REPORTED, dump=_OLD_CRIU, restore=_OLD_CRIU)
    return Diagnosis(
        conclusion=subject.conclusion,
        reasons=tuple(reasons),
        remedies=remedies(reported) if subject.signs else (),
        not_seen=tuple(not_seen),
        facts={**examined.facts(), what: subject.facts},
    )


def diagnose_process(pid: int, examined: Examined, not_seen: list[str]) -> Diagnosis:
    """Return what a running process has to expect of a checkpoint here; raises as ``look_at_process``."""
    pac = bool(examined.host.address_auth)
    process = look_at_process(pid, keys=pac, not_seen=not_seen)
    subject = process.subject
    judged = judge(examined, process.flags)
    if subject.signs is False:
        judged = Judged(conclusion=Conclusion.SAFE, reasons=())
    elif judged.conclusion is Conclusion.SAFE and pac and not process.keys_seen:
        own = [judge(examined, (flag,)).conclusion for flag in ("thread-keys", "thread-masks")]
        if worst(own) is not Conclusion.SAFE:
            why = "whether its threads have keys of their own was not seen; such a process would be lost"
            judged = Judged(conclusion=Conclusion.CANNOT_TELL, reasons=(*judged.reasons, why))
    elif judged.conclusion is Conclusion.AFFECTED and subject.signs is None:
        judged = replace(judged, conclusion=Conclusion.CANNOT_TELL)
    return Diagnosis(
        conclusion=judged.conclusion,
        reasons=(*subject.reasons, *judged.reasons),
        remedies=judged.remedies,
        not_seen=tuple(not_seen),
        facts={**examined.facts(), "process": subject.facts},
    )
