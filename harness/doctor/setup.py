"""What a dump and a restore will end in: the project's own rules, applied to what was seen."""

import re
from dataclasses import dataclass

from harness.catalogue.bases import BASES, CONTROL_BASE
from harness.catalogue.cpus import CpuModel
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.known_issues import KnownIssue, known_issue
from harness.catalogue.outcome import Outcome
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.catalogue.workloads import BRANCH_PROTECTION, UNPROTECTED, Workload
from harness.doctor.host import Host
from harness.parsing.criu_program import CriuProgram

PROTECTED_BASE = BASES["debian-13"]
_LATE_HOOK = 10  # hooks: CRIU 3.17; what is older cannot serve the module
_NOTHING = re.compile("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A dump on ``source`` by ``dump`` and a restore on ``target`` by ``restore``.

    ``signs``: there is branch protection in the process; ``flags``: what is special about it, as
    in a workload.toml. ``vdso_tags``: of the vDSO that CRIU has to read, None where not seen.
    """

    source: MachineSpec
    target: MachineSpec
    dump: CriuProgram
    restore: CriuProgram
    module: KeyModule = KeyModule.NONE
    signs: bool = True
    flags: tuple[str, ...] = ()
    vdso_tags: frozenset[str] | None = None
    checkpoint_restore: bool | None = None
    late_amdgpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a setup ends in and why; ``issue`` is the known one that decides it."""

    outcome: Outcome
    why: str
    issue: KnownIssue | None = None

    @property
    def survives(self) -> bool:
        """Whether a process goes on as if nothing had happened."""
        return self.outcome is Outcome.SURVIVED


def machine_of(host: Host) -> MachineSpec:
    """Return an arm64 host as a machine of the rules; what was not seen of authentication is off."""
    fpac = bool(host.registers and host.registers.fpac)
    cpu = CpuModel(
        name=host.cpu,
        qemu="",
        pac=bool(host.address_auth),
        fpac=fpac,
        algorithm=host.algorithm,
        lva=True,
    )
    name = ".".join(map(str, host.kernel))
    kernel = Kernel(name=name, suite="", package_group="", modules=(), va_bits=host.va_bits or 48)
    return MachineSpec(cpu=cpu, kernel=kernel)


def evaluate(setup: Setup) -> Finding:
    """Return what ``setup`` ends in."""
    if obstacle := _obstacle(setup):
        return obstacle
    scenario = _scenario(setup)
    if issue := known_issue(scenario):
        return Finding(outcome=issue.outcome, why=issue.title, issue=issue)
    prediction = predict(scenario)
    return Finding(outcome=prediction.outcome, why=prediction.why)


def _obstacle(setup: Setup) -> Finding | None:
    """Return what stands in the way of any checkpoint, whatever becomes of keys."""
    if setup.checkpoint_restore is False:
        why = "the kernel was built without CONFIG_CHECKPOINT_RESTORE"
        return Finding(outcome=Outcome.DUMP_FAILED, why=why)
    tags = setup.vdso_tags
    if tags is not None and "DT_HASH" not in tags and not setup.restore.reads_gnu_hash:
        why = "this CRIU cannot read a vDSO without DT_HASH (Linux 6.11 and later): every dump fails"
        return Finding(outcome=Outcome.DUMP_FAILED, why=why)
    if setup.module.loaded and setup.restore.plugin_hooks < _LATE_HOOK:
        why = "the key module is installed and needs CRIU 3.17: it refuses to load, and so fails every dump"
        return Finding(outcome=Outcome.DUMP_FAILED, why=why)
    if setup.module.loaded and setup.late_amdgpu and setup.restore.plugin_hooks == _LATE_HOOK:
        why = "amdgpu_plugin.so stands beside the key module and keeps this CRIU from calling it"
        return Finding(outcome=Outcome.RESTORE_REFUSED, why=why)
    return None


def _scenario(setup: Setup) -> Scenario:
    workload = Workload(
        name="process",
        argv=("process",),
        ready=_NOTHING,
        progress=_NOTHING,
        tick_seconds=1.0,
        watch_ticks=1,
        verify=None,
        language="c",
        branch_protection=BRANCH_PROTECTION[0] if setup.signs else UNPROTECTED,
        min_frames=1,
        # What threads do with their keys decides nothing where nothing is signed with them.
        flags=setup.flags if setup.signs else (),
    )
    return Scenario(
        source=setup.source,
        target=setup.target,
        criu_dump=_build(setup.dump),
        criu_restore=_build(setup.restore),
        module=setup.module,
        workload=workload,
        base=PROTECTED_BASE if setup.signs else CONTROL_BASE,
        driver=Driver.CRIU,
    )


def _build(program: CriuProgram) -> CriuBuild:
    version = program.version or "unknown"
    return CriuBuild(
        name=version,
        version=version,
        package_group="",
        native_keys=program.native_keys,
        restorer_protected=program.restorer_protected,
        plugin_hooks=program.plugin_hooks,
        label=f"CRIU {version}",
    )
