"""Running one scenario: clone, hold, dump, restore, watch, collect, judge."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.catalogue.known_issues import known_issue
from harness.catalogue.outcome import Outcome
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import Driver, KeyModule, Scenario
from harness.catalogue.verdict import judge
from harness.catalogue.workloads import Workload
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, UsageError
from harness.guest.checkpoint import move_checkpoint
from harness.guest.container import Container
from harness.guest.criu import WITHOUT_RSEQ, Criu, CriuRun
from harness.guest.docker_checkpoint import DockerCheckpoint
from harness.guest.driver import CheckpointDriver, DirectCriu
from harness.guest.podman import Podman
from harness.guest.prepare import SCENARIO_IMAGE
from harness.guest.runc import Runc
from harness.guest.workload import RunningWorkload
from harness.provision.prepared_base import PreparedBase
from harness.scenario.death import observe_death
from harness.scenario.evidence import collect, collect_hang
from harness.scenario.hang import end_hang
from harness.scenario.lab import kinds_of
from harness.scenario.limits import PhaseLimits
from harness.scenario.observation import Observation, decide
from harness.scenario.options import RunOptions
from harness.scenario.premises import PremiseObserver, declare_criu, declare_keys_change
from harness.scenario.result import Registers, ScenarioResult
from harness.scenario.site import Laboratory, Prepared, Site

log = logging.getLogger(__name__)

_START_SECONDS = 60.0
# A code is zero by chance, and its frame looks unsigned: a sleeper of three frames needs other keys then.
_CLONES = 5
_OBSERVE_SECONDS = 30.0
_MOVE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 2.0


class ScenarioRun:
    """One scenario on its way; a test sabotages a run by overriding ``criu`` or ``between``."""

    def __init__(
        self, arm: str, scenario: Scenario, base: PreparedBase, lab: Laboratory, options: RunOptions
    ) -> None:
        self.arm = arm
        self.scenario = scenario
        self.base = base
        self.lab = lab
        self.options = options
        self.seen = Observation(
            carrier=scenario.module.loaded
            or (scenario.criu_dump.native_keys and scenario.criu_restore.native_keys),
            auth_off=scenario.module is KeyModule.PLUGIN_DISABLE_AUTH
            and scenario.target.cpu.pac
            and not scenario.source.cpu.pac,
        )
        self.phases: dict[str, float] = {}
        self._started = time.time()
        self._limit = Deadline.after(options.timeout, f"arm {arm}")  # set again when the clone is made
        self._limits = PhaseLimits()
        self._evidence = _unused(options.results / arm)

    def run(self) -> ScenarioResult:
        """Run to the end and judge; only UsageError and interrupts leave this method as exceptions."""
        started = time.monotonic()
        failure: HarnessError | None = None
        qemu = None
        with steps.step(self.arm):
            try:
                qemu = self.lab.qemu_version
                self._in_machine()
            except UsageError:
                raise
            except HarnessError as error:
                log.debug("%s", error, exc_info=True)
                console = self._evidence / "console.log"
                error.log = error.log or (console if console.exists() else None)
                failure = error
        return self._judge(failure, time.monotonic() - started, qemu)

    def criu(self, container: Container, *, restoring: bool) -> Criu:
        """Return the CRIU this scenario calls."""
        cell = self.scenario
        build, spec = (cell.criu_restore, cell.target) if restoring else (cell.criu_dump, cell.source)
        return Criu(container, build, cell.module, without_rseq=not spec.kernel.tells_rseq)

    def driver(self, site: Site) -> CheckpointDriver:
        """Return who calls CRIU in the machine of ``site``."""
        cell = self.scenario
        builds = (cell.criu_dump, cell.criu_restore)
        if cell.driver is Driver.RUNC:
            return Runc(site.machine, site.facts["container_root"], builds, cell.module)
        if cell.driver is Driver.PODMAN:
            return Podman(site.machine, site.facts["container_root"], builds, cell.module)
        if cell.driver is Driver.DOCKER:
            return DockerCheckpoint(site.machine, SCENARIO_IMAGE, builds, cell.module)
        return DirectCriu(site.container, self.criu)

    def before_dump(self, container: Container, running: RunningWorkload) -> None:
        """Do nothing to the workload before its first dump; a test does something to it here."""

    def after_dump(self, container: Container, running: RunningWorkload) -> None:
        """Do nothing after a dump that succeeded; a test that leaves the task running ends it here."""

    def after_failed_dump(self, container: Container, running: RunningWorkload) -> None:
        """Do nothing after a dump that failed; a test looks here at what is left of the task."""

    def between(self, container: Container, cycle: int) -> None:
        """Do nothing to the images between dump and restore; a test does something to them here."""

    def _in_machine(self) -> None:
        cell = self.scenario
        if cell.crosses_machines and (cell.cycles != 1 or cell.driver is not Driver.CRIU):
            raise UsageError("a scenario from one machine to another has one cycle and the driver criu")
        with self._phase("template"):
            self.lab.check_workload(cell.workload)
            source, target = (self.lab.template(kind) for kind in kinds_of(cell, self.base, self.options))
        self._limit = Deadline.after(self.options.timeout, f"arm {self.arm}")
        # The evidence of a restore elsewhere has the place of honour: it is what was judged.
        evidence = self._evidence / "source" if cell.crosses_machines else self._evidence
        for left in reversed(range(_CLONES)):
            with self._site(source, evidence) as site:
                if self._in_clone(site, target) or not left:
                    return

    @contextmanager
    def _site(self, template: Prepared, evidence: Path) -> Iterator[Site]:
        """Give a clone to work in; its evidence is collected before it goes."""
        with self._phase("clone"):
            machine = self.lab.clone(template)
        container = Container(machine, template.facts["container_pid"])
        try:
            yield Site(machine=machine, container=container, facts=template.facts)
        finally:
            try:
                with self._phase("evidence"):
                    collect(machine, self.seen, evidence, command=self.options.command)
            finally:
                if self.options.keep:
                    inside = " ".join([*container.prefix, "bash"])
                    steps.note(f"{self.arm}: kept; {machine.way_in}, then its container: {inside}")
                else:
                    self.lab.release(machine)

    def _in_clone(self, site: Site, target: Prepared) -> bool:
        """Run in one clone; False before the dump when all that is missing are signed frames."""
        self.seen.template = site.facts
        premises = PremiseObserver(self.scenario, self.seen)
        driver = self.driver(site)
        with self._phase("hold"):
            start = self._limit.within(_START_SECONDS, "start of the workload")
            running = driver.launch(_dumpable(self.scenario), start)
            with self._limits.calibration():
                premises.observe_source(site, self._observing("the machine"))
            if not self.scenario.crosses_machines:
                premises.observe_target(site, self._observing("the machine"))
            running.wait_ready(start)
            premises.observe_workload(running, site, self._observing("the premises"))
        broken = [one.name for one in self.seen.premises.values() if not one.holds]
        if broken:
            return broken != ["chance_excluded"]
        self.before_dump(site.container, running)
        if self.scenario.crosses_machines:
            self._cross(site, driver, running, target, premises)
            return True
        for cycle in range(1, self.scenario.cycles + 1):
            running, lives = self._cycle(driver, running, cycle)
            if not lives:
                break
        self._look_at_hang(site, running)
        return True

    def _cross(
        self,
        source: Site,
        driver: CheckpointDriver,
        running: RunningWorkload,
        template: Prepared,
        premises: PremiseObserver,
    ) -> None:
        """Dump here, restore in a clone of ``template``."""
        if not self._dump(driver, running, 1):
            self._look_at_hang(source, running)
            return
        with self._site(template, self._evidence) as target:
            with self._phase("move"):
                moving = self._limit.within(_MOVE_SECONDS, "moving the checkpoint")
                move_checkpoint(source.container, target.container, running.pid, moving)
                premises.observe_target(target, self._observing("the target machine"))
                declare_keys_change(self.scenario, self.seen)
            if self._premises_hold():
                moved = replace(running, container=target.container)
                self._restore(self.driver(target), moved, 1, exits_before=0)
                self._look_at_hang(target, moved)

    def _premises_hold(self) -> bool:
        return all(premise.holds for premise in self.seen.premises.values())

    def _observing(self, what: str) -> Deadline:
        return self._limit.within(_OBSERVE_SECONDS, f"observing {what}")

    def _look_at_hang(self, site: Site, running: RunningWorkload) -> None:
        """Collect what a hang shows, then end CRIU and what it would leave behind."""
        hung = next((call for call in (self.seen.dump, self.seen.restore) if call and call.hung), None)
        if hung is None:
            return
        collect_hang(site.machine, self._evidence)
        deadline = self._limit.within(_OBSERVE_SECONDS, "end of a hang")
        self.seen.hang_end = end_hang(running.container, hung.log_name, running.pid, deadline)

    def _cycle(
        self, driver: CheckpointDriver, running: RunningWorkload, cycle: int
    ) -> tuple[RunningWorkload, bool]:
        """One dump and restore; whether the workload lives on and another cycle makes sense."""
        if not self._dump(driver, running, cycle):
            return running, False
        # Every dump before ended a life, and each has its end on record.
        return self._restore(driver, running, cycle, exits_before=cycle)

    def _dump(self, driver: CheckpointDriver, running: RunningWorkload, cycle: int) -> bool:
        """Dump, and see the dumped task gone; True when there is something to restore."""
        seen = self.seen
        seen.restore = seen.restored = seen.core = seen.fault = seen.exit_status = None
        with self._phase("dump"):
            seen.dump = driver.dump(running, self._limit.within(self._limits.dump, "dump"), cycle=cycle)
        self._check_limit(seen.dump)
        if seen.dump.returncode != 0:
            if not seen.dump.hung:
                self.after_failed_dump(running.container, running)
            return False
        # CRIU kills the dumped task and does not wait; its end has to be on record before the
        # restored task, which has the same pid, can have one.
        self.after_dump(running.container, running)
        ending = self._observing("the end of the dumped task")
        running.wait_exit(ending, exits_before=cycle - 1)
        if running.nspid is None:  # else CRIU makes a pid namespace with all ids free
            running.wait_tree_exit(seen.held.processes if seen.held else (), ending, exits_before=cycle - 1)
        declare_criu("criu_dump", self.scenario.criu_dump, seen.dump, seen)
        before = running.progress(self._observing("ticks before the restore"))
        seen.ticks_before, seen.ticks_wanted = before.ticks, self.scenario.workload.watch_ticks
        self.between(running.container, cycle)
        return True

    def _restore(
        self, driver: CheckpointDriver, running: RunningWorkload, cycle: int, *, exits_before: int
    ) -> tuple[RunningWorkload, bool]:
        """Restore and watch; the workload in its new life, and whether it lives on."""
        seen, workload = self.seen, self.scenario.workload
        with self._phase("restore"):
            seen.restore, running = driver.restore(
                running, self._limit.within(self._limits.restore(seen.dump), "restore"), cycle=cycle
            )
        self._check_limit(seen.restore)
        declare_criu("criu_restore", self.scenario.criu_restore, seen.restore, seen)
        if seen.restore.hung:
            return running, False
        with self._phase("watch"):
            if seen.restore.returncode == 0:
                limit = self._limits.watch(workload)
                goal = seen.ticks_before + workload.watch_ticks
            else:
                # Nothing should run, but a task that died while it was let go is still being recorded.
                limit, goal = _LAST_WORDS_SECONDS, sys.maxsize
            progress = running.wait_progress(
                goal,
                self._limit.within(limit, "progress after the restore"),
                exits_before=exits_before,
            )
        seen.ticks_after = progress.ticks
        ends = progress.exits[exits_before:]
        seen.exit_status = ends[-1] if ends else None
        self._observe_restored(running)
        # The next cycle overwrites what this one observed: it has to have been in order.
        return running, decide(seen)[0] is Outcome.SURVIVED

    def _check_limit(self, call: CriuRun) -> None:
        """Raise DeadlineError for a call cut short by the time of the whole arm: it says nothing of CRIU."""
        if call.hung and self._limit.expired:
            raise self._limit.error(f"CRIU was running: {call.log.last_line}")

    def _observe_restored(self, running: RunningWorkload) -> None:
        seen = self.seen
        deadline = self._observing("the restored task")
        # The core of a task that dies while it is let go is complete before whoever waits for the task
        # hears of its end; engines tell of the end later, or not at all.
        died = seen.exit_status is not None or (seen.restore is not None and seen.restore.returncode != 0)
        if not died:
            if seen.progressed >= seen.ticks_wanted:  # else it does not answer
                seen.verified = running.verify(deadline)
            seen.restored = running.container.probe.threads(running.pid, deadline)
        if died or seen.missing:
            observe_death(running.container.machine, running.own_pid, seen, deadline)
        declare_keys_change(self.scenario, seen)

    def _judge(self, failure: HarnessError | None, seconds: float, qemu: str | None) -> ScenarioResult:
        seen, cell = self.seen, self.scenario
        prediction, issue = predict(cell), known_issue(cell)
        outcome, reason = (Outcome.INFRA_ERROR, str(failure)) if failure else decide(seen)
        return ScenarioResult(
            arm=self.arm,
            scenario=cell,
            outcome=outcome,
            prediction=prediction,
            verdict=judge(prediction.outcome, issue, outcome),
            known_issue=issue.id if issue else None,
            premises=tuple(seen.premises.values()),
            signal=seen.signal,
            registers=Registers() if failure else seen.registers(),
            frames=seen.frames,
            p_chance=seen.p_chance,
            ticks_before=seen.ticks_before,
            ticks_after=seen.ticks_after,
            keys_equal=seen.keys_equal(),
            started=self._started,
            seconds=seconds,
            phases=dict(self.phases),
            evidence=self._evidence.name if self._evidence.is_dir() else None,
            reason=reason,
            qemu=qemu,
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        with steps.step(name):
            try:
                yield
            finally:
                self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - started


def _dumpable(scenario: Scenario) -> Workload:
    """Return the workload, without rseq where CRIU could not dump it."""
    workload = scenario.workload
    if scenario.source.kernel.tells_rseq:
        return workload
    return replace(workload, argv=("env", WITHOUT_RSEQ, *workload.argv))


def _unused(path: Path) -> Path:
    """Return ``path``, or ``path-2`` and so on: earlier results keep the evidence they point at."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def run_scenario(
    arm: str, scenario: Scenario, base: PreparedBase, lab: Laboratory, options: RunOptions
) -> ScenarioResult:
    """Run one scenario; see ScenarioRun.run."""
    return ScenarioRun(arm, scenario, base, lab, options).run()
