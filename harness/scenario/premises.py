"""Observing what a scenario rests on: nothing here is assumed from its declaration."""

import logging

from harness.catalogue.bases import Base
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.outcome import Premise
from harness.catalogue.prediction import premises
from harness.catalogue.scenario import MachineSpec, Scenario
from harness.core.deadline import Deadline
from harness.guest.criu import CriuRun
from harness.guest.prepare import libraries_of
from harness.guest.probe_results import MachineFacts
from harness.guest.workload import RunningWorkload
from harness.machines.template import Facts
from harness.scenario.observation import Observation
from harness.scenario.site import Site

log = logging.getLogger(__name__)

CHANCE_LIMIT = 1e-6  # of a false pass: wrong keys that happen to give the codes that are there
_CODE_END = 55  # the first bit above a code: it selects the half of the address space


class PremiseObserver:
    """Observes the premises of one scenario into ``seen``."""

    def __init__(self, scenario: Scenario, seen: Observation) -> None:
        self._scenario = scenario
        self._seen = seen

    def observe_source(self, site: Site, deadline: Deadline) -> None:
        """Observe what the dumping machine is, apart from any workload."""
        self._seen.machine = site.container.probe.machine(deadline)
        self._machine("source", self._scenario.source, self._seen.machine, site.facts)

    def observe_target(self, site: Site, deadline: Deadline) -> None:
        """Observe what the restoring machine is, the same or another, and the keys of a fresh exec in it."""
        machine = self._seen.machine
        if machine is None or self._scenario.crosses_machines:
            machine = site.container.probe.machine(deadline)
        self._machine("target", self._scenario.target, machine, site.facts)
        self._seen.fresh = site.container.probe.fresh(deadline)

    def _machine(self, side: str, spec: MachineSpec, machine: MachineFacts, facts: Facts) -> None:
        pac: bool | None = machine.paca
        if machine.paca != machine.signed_lr:
            log.warning("HWCAP_PACA is %s but signing changes a pointer: %s", machine.paca, machine.signed_lr)
            pac = None
        _declare(self._scenario, self._seen, f"{side}_pac", observed=pac)
        _note(self._seen, f"{side}_kernel", declared=True, observed=is_kernel(machine.release, spec.kernel))
        _note(self._seen, f"{side}_cpu", declared=True, observed=is_cpu(machine, spec))
        _note(
            self._seen,
            f"{side}_control",
            declared=True,
            observed=control_as_expected(facts, spec, self._scenario.base),
        )

    def observe_workload(self, running: RunningWorkload, site: Site, deadline: Deadline) -> None:
        """Observe the running workload: its keys, its code, and the frames it returns through."""
        seen, workload, probe = self._seen, self._scenario.workload, running.container.probe
        seen.held = probe.threads(running.pid, deadline, frames=True)
        program, libc = _protection(running, site.facts, deadline)
        _declare(self._scenario, seen, "interpreter_protected", observed=program)
        _declare(self._scenario, seen, "libc_protected", observed=libc)
        limit = deadline.within(10 * workload.tick_seconds + 10, "a tick under observation")
        seen.rehearsal = probe.watch(running.pid, 1, limit)
        enough, others = seen.frames >= workload.min_frames, seen.others_sign
        # None: some, but fewer than the workload promises or not in all, fulfils neither declaration.
        live = True if enough and all(others) else (False if not seen.frames and not any(others) else None)
        _declare(self._scenario, seen, "signed_frames_live", observed=live)
        if "signed_data_live" in premises(self._scenario):
            seen.signed_values = running.signed_values(deadline)
            _declare(self._scenario, seen, "signed_data_live", observed=seen.signed_values > 0)
        excluded = None
        if premises(self._scenario)["chance_excluded"] and seen.p_chance is not None:
            excluded = seen.p_chance <= CHANCE_LIMIT
        _declare(self._scenario, seen, "chance_excluded", observed=excluded)
        declare_differences(self._scenario, seen)
        if not self._scenario.crosses_machines:  # else when the target has been seen
            declare_keys_change(self._scenario, seen)


def _protection(
    running: RunningWorkload, facts: Facts, deadline: Deadline
) -> tuple[bool | None, bool | None]:
    """Look the running program and its libc up in what the template's preparation scanned."""
    libraries = libraries_of(running.container.read_proc(running.pid, "maps", deadline))
    # arm64 maps the program below its libraries, whether it is position independent or not.
    program = libraries[0] if libraries else ""
    libc = next((path for path in libraries if "/libc.so" in path or "/libc-" in path), "")
    scanned = {"True": True, "False": False}
    return (
        scanned.get(facts.get(f"protected {program}", "")),
        scanned.get(facts.get(f"protected {libc}", "")),
    )


def is_kernel(release: str, kernel: Kernel) -> bool:
    """Whether uname's release is that of the user's kernel, or one of the kernel's series."""
    if kernel.release is not None:
        return release == kernel.release
    return release == kernel.name or release.startswith((f"{kernel.name}.", f"{kernel.name}-"))


def is_cpu(machine: MachineFacts, spec: MachineSpec) -> bool | None:
    """Whether the CPU signs as its model is said to: algorithm, FPAC, bits of a code; None if not visible."""
    if machine.algorithm is None:
        return None
    mask = ((1 << _CODE_END) - (1 << spec.va_bits)) if spec.cpu.pac else None
    declared = (spec.cpu.algorithm.value if spec.cpu.algorithm else "none", spec.cpu.fpac, mask)
    found = (machine.algorithm, machine.fpac, machine.insn_mask)
    if found != declared:
        log.warning("CPU %s: algorithm, FPAC and mask are %s, declared %s", spec.cpu.name, found, declared)
    return found == declared


def control_as_expected(facts: Facts, spec: MachineSpec, base: Base) -> bool:
    """Whether fresh keys by ptrace killed a sleeping process exactly where signed returns are live."""
    fresh, own = facts["control fresh keys"], facts["control own keys"]
    if not spec.cpu.pac:
        return fresh == "no keys"
    # It is the base's Python: with FPAC it dies of SIGILL, without of SIGSEGV.
    fault = "signal 4" if spec.cpu.fpac else "signal 11"
    return fresh == (fault if base.protected else "alive") and own == "alive"


def declare_differences(scenario: Scenario, seen: Observation) -> None:
    """Declare what a workload is for: that its threads differ in their keys, or in their enabled keys."""
    wanted, threads = premises(scenario), seen.held.threads if seen.held else ()
    if "keys_differ" in wanted:
        prints = [thread.keys.fingerprint for thread in threads if thread.keys]
        differ = len(set(prints)) == len(threads) > 1 if prints else None
        _declare(scenario, seen, "keys_differ", observed=differ)
    if "masks_differ" in wanted:
        masks = {thread.enabled_keys for thread in threads}
        _declare(scenario, seen, "masks_differ", observed=None if None in masks else len(masks) > 1)


def declare_keys_change(scenario: Scenario, seen: Observation) -> None:
    """Nothing carries keys to a fresh exec; in an arm without a carrier, to the restored task neither."""
    before = [keys for keys in seen.keys_before().values() if keys]
    observed: bool | None = None
    if before and seen.fresh:
        observed = all(seen.fresh.fingerprint != keys.fingerprint for keys in before)
    if observed and (seen.core or seen.restored) and not seen.carrier:
        equal = seen.keys_equal()
        observed = None if equal is None else not equal
    _declare(scenario, seen, "keys_change", observed=observed)


def declare_criu(name: str, build: CriuBuild, run: CriuRun, seen: Observation) -> None:
    """Declare that the CRIU that ran is the one named, by its log, unless it ended before it had one."""
    if (version := run.log.version) is not None:
        _note(seen, name, declared=True, observed=version == build.version)


def _note(seen: Observation, name: str, *, declared: bool | None, observed: bool | None) -> None:
    seen.premises[name] = Premise(name=name, declared=declared, observed=observed)


def _declare(scenario: Scenario, seen: Observation, name: str, *, observed: bool | None) -> None:
    _note(seen, name, declared=premises(scenario)[name], observed=observed)
