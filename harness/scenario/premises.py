"""Observing what a scenario rests on: nothing here is assumed from its declaration."""

import logging

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.outcome import Premise
from harness.catalogue.prediction import premises
from harness.catalogue.scenario import Scenario
from harness.core.deadline import Deadline
from harness.guest.container import Container
from harness.guest.criu import CriuRun
from harness.guest.prepare import libraries_of
from harness.guest.workload import RunningWorkload
from harness.machines.template import Facts
from harness.scenario.observation import Observation

log = logging.getLogger(__name__)


class PremiseObserver:
    """Observes the premises of one scenario into ``seen``; ``facts`` are the template's."""

    def __init__(self, scenario: Scenario, container: Container, facts: Facts, seen: Observation) -> None:
        self._scenario = scenario
        self._container = container
        self._facts = facts
        self._seen = seen

    def observe_machine(self, deadline: Deadline) -> None:
        """Observe what needs no workload: PAC on or off, keys of a fresh exec, the positive control."""
        machine = self._container.probe.machine(deadline)
        pac: bool | None = machine.paca
        if machine.paca != machine.signed_lr:
            log.warning("HWCAP_PACA is %s but signing changes a pointer: %s", machine.paca, machine.signed_lr)
            pac = None
        for name in ("source_pac", "target_pac"):  # one machine for both
            _declare(self._scenario, self._seen, name, observed=pac)
        self._seen.machine = machine
        kernel = self._scenario.source.kernel.name
        is_kernel = machine.release == kernel or machine.release.startswith((f"{kernel}.", f"{kernel}-"))
        _note(self._seen, "kernel", declared=True, observed=is_kernel)
        cpu = self._scenario.source.cpu
        _note(
            self._seen, "fpac", declared=cpu.fpac if cpu.pac else None, observed=machine.fpac if pac else None
        )
        self._seen.fresh = self._container.probe.fresh(deadline)
        self._declare_positive_control()

    def observe_workload(self, running: RunningWorkload, deadline: Deadline) -> None:
        """Observe the running workload: its keys, its code, and the frames it returns through."""
        seen, workload = self._seen, self._scenario.workload
        seen.held = self._container.probe.threads(running.pid, deadline, frames=True)
        program, libc = self._protection(running.pid, deadline)
        _declare(self._scenario, seen, "interpreter_protected", observed=program)
        _declare(self._scenario, seen, "libc_protected", observed=libc)
        limit = deadline.within(10 * workload.tick_seconds + 10, "a tick under observation")
        seen.rehearsal = self._container.probe.watch(running.pid, 1, limit)
        enough = seen.frames >= workload.min_frames
        # None: some, but fewer than the workload promises, fulfils neither declaration.
        live = enough if enough or not seen.frames else None
        _declare(self._scenario, seen, "signed_frames_live", observed=live)
        declare_keys_change(self._scenario, seen)

    def _protection(self, pid: int, deadline: Deadline) -> tuple[bool | None, bool | None]:
        """Look the running program and its libc up in what the template's preparation scanned."""
        libraries = libraries_of(self._container.read_proc(pid, "maps", deadline))
        # arm64 maps the program below its libraries, whether it is position independent or not.
        program = libraries[0] if libraries else ""
        libc = next((path for path in libraries if "/libc.so" in path or "/libc-" in path), "")
        return self._scanned(program), self._scanned(libc)

    def _scanned(self, path: str) -> bool | None:
        return {"True": True, "False": False}.get(self._facts.get(f"protected {path}", ""))

    def _declare_positive_control(self) -> None:
        """Fresh keys by ptrace must kill a sleeping process exactly where signed returns are live."""
        fresh, own = self._facts["control fresh keys"], self._facts["control own keys"]
        if not premises(self._scenario)["source_pac"]:
            observed = fresh == "no keys"
        else:
            # It is the base's Python: with FPAC it dies of SIGILL, without of SIGSEGV.
            fault = "signal 4" if self._scenario.source.cpu.fpac else "signal 11"
            wanted = fault if self._scenario.base.protected else "alive"
            observed = fresh == wanted and own == "alive"
        _note(self._seen, "positive_control", declared=True, observed=observed)


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
