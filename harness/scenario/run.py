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
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, MachineError, UsageError
from harness.guest.checkpoint import move_checkpoint
from harness.guest.container import CORES, Container
from harness.guest.criu import Criu, CriuRun
from harness.guest.docker_checkpoint import DockerCheckpoint
from harness.guest.driver import CheckpointDriver, DirectCriu
from harness.guest.podman import Podman
from harness.guest.prepare import SCENARIO_IMAGE
from harness.guest.probe_results import CoreReport, parse
from harness.guest.runc import Runc
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check
from harness.parsing.kernel_fault import KernelFault, parse_faults
from harness.parsing.pac import chance, pac_bits, width
from harness.provision.prepared_base import PreparedBase
from harness.scenario.evidence import collect, collect_hang, read_kernel_log
from harness.scenario.hang import end_hang
from harness.scenario.lab import MachineKind
from harness.scenario.observation import Observation, decide
from harness.scenario.options import RunOptions
from harness.scenario.premises import PremiseObserver, declare_criu, declare_keys_change
from harness.scenario.result import Registers, ScenarioResult
from harness.scenario.site import Laboratory, Prepared, Site

log = logging.getLogger(__name__)

_START_SECONDS = 60.0
_DUMP_SECONDS = 45.0
# A restore takes less time than its dump; the dump tells how fast the machine is at the moment.
_RESTORE_PER_DUMP = 20
_RESTORE_LEAST_SECONDS = 15.0
_OBSERVE_SECONDS = 30.0
_MOVE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 2.0
# A tick under emulation on a busy host: its sleep, plus this much for being scheduled late.
_TICK_GRACE_SECONDS = 4.0


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
        self._limit = Deadline.after(options.timeout, f"arm {arm}")  # set again when the clone is made
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
        build = self.scenario.criu_restore if restoring else self.scenario.criu_dump
        return Criu(container, build, self.scenario.module)

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
        wanted = (cell.criu_dump, cell.criu_restore, *self.options.builds)
        builds = tuple({build.name: build for build in wanted}.values())
        with self._phase("template"):
            source, target = (
                self.lab.template(
                    MachineKind(
                        cpu=spec.cpu, kernel=spec.kernel, base=self.base, builds=builds, driver=cell.driver
                    )
                )
                for spec in (cell.source, cell.target)
            )
        self._limit = Deadline.after(self.options.timeout, f"arm {self.arm}")
        # The evidence of a restore elsewhere has the place of honour: it is what was judged.
        with self._site(
            source, self._evidence / "source" if cell.crosses_machines else self._evidence
        ) as site:
            self._in_clone(site, target)

    @contextmanager
    def _site(self, template: Prepared, evidence: Path) -> Iterator[Site]:
        """Give a clone to work in; its evidence is collected before it goes."""
        with self._phase("clone"):
            machine = self.lab.clone(template)
        try:
            container = Container(machine, template.facts["container_pid"])
            yield Site(machine=machine, container=container, facts=template.facts)
        finally:
            try:
                with self._phase("evidence"):
                    collect(machine, self.seen, evidence, command=self.options.command)
            finally:
                if self.options.keep:
                    steps.note(
                        f"{self.arm}: kept; engine: DOCKER_HOST={machine.docker_url}, "
                        f"console: socat - UNIX-CONNECT:{machine.directory}/console.sock"
                    )
                else:
                    self.lab.release(machine)

    def _in_clone(self, site: Site, target: Prepared) -> None:
        self.seen.template = site.facts
        premises = PremiseObserver(self.scenario, self.seen)
        driver = self.driver(site)
        with self._phase("hold"):
            start = self._limit.within(_START_SECONDS, "start of the workload")
            running = driver.launch(self.scenario.workload, start)
            premises.observe_source(site, self._observing("the machine"))
            if not self.scenario.crosses_machines:
                premises.observe_target(site, self._observing("the machine"))
            running.wait_ready(start)
            premises.observe_workload(running, site, self._observing("the premises"))
        if not self._premises_hold():
            return
        self.before_dump(site.container, running)
        if self.scenario.crosses_machines:
            self._cross(site, driver, running, target, premises)
            return
        for cycle in range(1, self.scenario.cycles + 1):
            running, lives = self._cycle(driver, running, cycle)
            if not lives:
                break
        self._look_at_hang(site, running)

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
            seen.dump = driver.dump(running, self._limit.within(_DUMP_SECONDS, "dump"), cycle=cycle)
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
                running, self._limit.within(self._restore_seconds(), "restore"), cycle=cycle
            )
        self._check_limit(seen.restore)
        declare_criu("criu_restore", self.scenario.criu_restore, seen.restore, seen)
        if seen.restore.hung:
            return running, False
        with self._phase("watch"):
            if seen.restore.returncode == 0:
                limit = workload.watch_ticks * (workload.tick_seconds + _TICK_GRACE_SECONDS)
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

    def _restore_seconds(self) -> float:
        dump = self.seen.dump.seconds if self.seen.dump else 0.0
        return max(_RESTORE_LEAST_SECONDS, _RESTORE_PER_DUMP * dump)

    def _check_limit(self, call: CriuRun) -> None:
        """Raise DeadlineError for a call cut short by the time of the whole arm: it says nothing of CRIU."""
        if call.hung and self._limit.expired:
            raise self._limit.error(f"CRIU was running: {call.log.last_line}")

    def _observe_restored(self, running: RunningWorkload) -> None:
        seen = self.seen
        deadline = self._observing("the restored task")
        # The core of a task that dies while it is let go is complete before whoever waits for the task
        # hears of its end; engines tell of the end later, or not at all.
        if seen.exit_status is not None or (seen.restore and seen.restore.returncode != 0):
            self._observe_death(running.container.machine, running.own_pid, deadline)
        elif seen.restore and seen.restore.returncode == 0:
            seen.verified = running.verify(deadline)
            seen.restored = running.container.probe.threads(running.pid, deadline)
        declare_keys_change(self.scenario, seen)

    def _observe_death(self, machine: Machine, pid: int, deadline: Deadline) -> None:
        given_up = self.seen.restore is not None and bool(self.seen.restore.returncode)
        names = check(machine, ["bash", "-c", f"cd {CORES} && echo *.json"], deadline).text.split()
        for name in names:
            if name != "*.json":
                text = machine.read_file(f"{CORES}/{name}", deadline).decode()
                try:
                    report = parse(CoreReport, "core", text)
                except MachineError:
                    if not given_up:
                        raise
                    continue  # CRIU's SIGKILL came while the kernel was writing it
                if report.nspid == pid:
                    self.seen.core = report
        faults = parse_faults(read_kernel_log(machine))
        if self.seen.core is None:
            # CRIU kills what it gives up, and a task that is dying then leaves no core. The kernel
            # has logged its registers; nothing else has faulted in this clone.
            # Of several threads any may be first; the log of some may be torn by the others'.
            logged = [one for one in faults if one.pc is not None] if given_up else []
            self.seen.fault = max(logged, key=self._pac_bits_in_pc, default=None)
        else:
            dead = self.seen.core.threads[0]
            ids = {dead.tid, self.seen.core.pid}  # the kernel logs the thread's
            own = [one for one in faults if one.pid in ids and one.pc == dead.pc]
            self.seen.fault = own[-1] if own else None

    def _pac_bits_in_pc(self, fault: KernelFault) -> int:
        mask = self.seen.insn_mask
        return width(pac_bits(fault.pc, mask)) if mask and fault.pc is not None else 0

    def _judge(self, failure: HarnessError | None, seconds: float, qemu: str | None) -> ScenarioResult:
        seen, cell = self.seen, self.scenario
        prediction, issue = predict(cell), known_issue(cell)
        outcome, reason = (Outcome.INFRA_ERROR, str(failure)) if failure else decide(seen)
        mask = seen.insn_mask
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
            p_chance=chance(width(mask), seen.frames) if mask and seen.frames else None,
            ticks_before=seen.ticks_before,
            ticks_after=seen.ticks_after,
            keys_equal=seen.keys_equal(),
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
