"""Running one scenario: clone, hold, dump, restore, watch, collect, judge."""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.catalogue.known_issues import known_issue
from harness.catalogue.outcome import Outcome, Premise
from harness.catalogue.prediction import predict, premises
from harness.catalogue.scenario import KeyModule, Scenario
from harness.catalogue.verdict import judge
from harness.core import steps
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, UsageError
from harness.guest.container import CORES, Container
from harness.guest.criu import Criu
from harness.guest.prepare import libraries_of
from harness.guest.probe import SALT
from harness.guest.probe_results import CoreReport, parse
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check
from harness.machines.qemu import QemuMachine
from harness.machines.template import Facts
from harness.parsing.kernel_fault import parse_faults
from harness.parsing.pac import chance, width
from harness.provision.prepared_base import PreparedBase
from harness.scenario.evidence import collect, collect_hang, read_kernel_log
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.observation import Observation, decide
from harness.scenario.options import RunOptions
from harness.scenario.result import Registers, ScenarioResult

log = logging.getLogger(__name__)

_START_SECONDS = 60.0
_DUMP_SECONDS = 45.0
_RESTORE_SECONDS = 45.0
_OBSERVE_SECONDS = 30.0
# A tick under emulation on a busy host: its sleep, plus this much for being scheduled late.
_TICK_GRACE_SECONDS = 4.0


class ScenarioRun:
    """One scenario on its way; ``criu`` may be overridden to sabotage a run in a test."""

    def __init__(
        self, arm: str, scenario: Scenario, base: PreparedBase, lab: Lab, options: RunOptions
    ) -> None:
        self.arm = arm
        self.scenario = scenario
        self.base = base
        self.lab = lab
        self.options = options
        self.seen = Observation(
            carrier=scenario.module is not KeyModule.NONE
            or (scenario.criu_dump.native_keys and scenario.criu_restore.native_keys)
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
                failure = error
        return self._judge(failure, time.monotonic() - started, qemu)

    def criu(self, container: Container, *, restoring: bool) -> Criu:
        """Return the CRIU this scenario calls."""
        build = self.scenario.criu_restore if restoring else self.scenario.criu_dump
        return Criu(container, build, self.scenario.module)

    def _in_machine(self) -> None:
        cell = self.scenario
        if cell.crosses_machines:
            raise UsageError(
                "restore on another machine is not built yet", hint="use the same machine for both"
            )
        builds = tuple({build.name: build for build in (cell.criu_dump, cell.criu_restore)}.values())
        with steps.step("template"):
            kind = MachineKind(cpu=cell.source.cpu, kernel=cell.source.kernel, base=self.base, builds=builds)
            template = self.lab.template(kind)
        self._limit = Deadline.after(self.options.timeout, f"arm {self.arm}")
        with self._phase("clone"):
            machine = self.lab.clone(template)
        try:
            self._in_clone(machine, template.facts)
        finally:
            try:
                with self._phase("evidence"):
                    collect(machine, self.seen, self._evidence)
            finally:
                if self.options.keep:
                    steps.note(
                        f"{self.arm}: kept; engine: DOCKER_HOST={machine.docker_url}, "
                        f"console: socat - UNIX-CONNECT:{machine.directory}/console.sock"
                    )
                else:
                    self.lab.release(machine)

    def _in_clone(self, machine: QemuMachine, facts: Facts) -> None:
        container = Container(machine, facts["container_pid"])
        salt = self._limit.within(_OBSERVE_SECONDS, "salt of the fingerprints")
        check(machine, ["bash", "-c", f"cat > {SALT}"], salt, stdin=secrets.token_bytes(32))
        with self._phase("hold"):
            running = RunningWorkload.start(
                container, self.scenario.workload, self._limit.within(_START_SECONDS, "start of the workload")
            )
            self._observe_premises(container, running, facts)
        if not all(premise.holds for premise in self.seen.premises.values()):
            return
        for cycle in range(1, self.scenario.cycles + 1):
            if not self._cycle(container, running, cycle):
                break
        if not self.seen.dump or self.seen.dump.hung or (self.seen.restore and self.seen.restore.hung):
            collect_hang(machine, self._evidence)

    def _observe_premises(self, container: Container, running: RunningWorkload, facts: Facts) -> None:
        deadline = self._limit.within(_OBSERVE_SECONDS, "observing the premises")
        seen = self.seen
        machine = container.probe.machine(deadline)
        pac = machine.paca and machine.signed_lr
        if machine.paca != machine.signed_lr:
            log.warning("HWCAP_PACA is %s but signing changes a pointer: %s", machine.paca, machine.signed_lr)
        self._declare("source_pac", observed=pac if machine.paca == machine.signed_lr else None)
        self._declare("target_pac", observed=pac if machine.paca == machine.signed_lr else None)
        seen.held = container.probe.threads(running.pid, deadline, frames=True)
        program, libc = self._protection(container, running.pid, facts, deadline)
        self._declare("interpreter_protected", observed=program)
        self._declare("libc_protected", observed=libc)
        limit = self._limit.within(10 * self.scenario.workload.tick_seconds + 10, "a tick under observation")
        seen.rehearsal = container.probe.watch(running.pid, 1, limit)
        enough = seen.frames >= self.scenario.workload.min_frames
        # None: some, but fewer than the workload promises, fulfils neither declaration.
        self._declare("signed_frames_live", observed=enough if enough or not seen.frames else None)
        seen.fresh = container.probe.fresh(deadline)
        self._declare_positive_control(facts)
        self._declare_keys_change()

    def _protection(
        self, container: Container, pid: int, facts: Facts, deadline: Deadline
    ) -> tuple[bool | None, bool | None]:
        """Look the running program and its libc up in what the template's preparation scanned."""
        look = ["bash", "-c", f"readlink /proc/{pid}/exe; cat /proc/{pid}/maps"]
        program, _, maps = container.run(look, deadline).text.partition("\n")
        libc = next((path for path in libraries_of(maps) if "/libc.so" in path or "/libc-" in path), "")
        return _scanned(facts, program), _scanned(facts, libc)

    def _declare(self, name: str, *, observed: bool | None) -> None:
        declared = premises(self.scenario)[name]
        self.seen.premises[name] = Premise(name=name, declared=declared, observed=observed)

    def _declare_positive_control(self, facts: Facts) -> None:
        """Fresh keys by ptrace must kill a sleeping process exactly where signed returns are live."""
        declared = premises(self.scenario)
        if not declared["source_pac"]:
            observed = facts["control fresh keys"] == "no keys"
        else:
            dies = facts["control fresh keys"] in {"signal 11", "signal 4"}
            expected = bool(self.base.base.protected)  # the control is the base's Python
            observed = dies is expected and facts["control own keys"] == "alive"
        self.seen.premises["positive_control"] = Premise(
            name="positive_control", declared=True, observed=observed
        )

    def _declare_keys_change(self) -> None:
        """Nothing carries keys to a fresh exec; in an arm without a carrier, to the restored task neither."""
        before = [keys for keys in self.seen.keys_before().values() if keys]
        fresh = self.seen.fresh
        observed: bool | None = None
        if before and fresh:
            observed = all(fresh.fingerprint != keys.fingerprint for keys in before)
        restored = self.seen.core or self.seen.restored
        if observed and restored and not self.seen.carrier:
            equal = self.seen.keys_equal()
            observed = None if equal is None else not equal
        self._declare("keys_change", observed=observed)

    def _cycle(self, container: Container, running: RunningWorkload, cycle: int) -> bool:
        """One dump and restore; True when the task lives on and another cycle makes sense."""
        seen, wanted = self.seen, self.scenario.workload.watch_ticks
        seen.restore = None
        with self._phase("dump"):
            seen.dump = self.criu(container, restoring=False).dump(
                running.pid, self._limit.within(_DUMP_SECONDS, "dump"), cycle=cycle
            )
        if seen.dump.returncode != 0:
            return False
        seen.ticks_before = running.ticks(self._limit.within(_OBSERVE_SECONDS, "ticks before the restore"))
        seen.ticks_wanted = wanted
        self._forget_exits(container)
        with self._phase("restore"):
            seen.restore = self.criu(container, restoring=True).restore(
                self._limit.within(_RESTORE_SECONDS, "restore"), cycle=cycle
            )
        if seen.restore.hung:
            return False
        with self._phase("watch"):
            limit = wanted * (self.scenario.workload.tick_seconds + _TICK_GRACE_SECONDS)
            progress = running.wait_progress(
                seen.ticks_before + wanted if seen.restore.returncode == 0 else 0,
                self._limit.within(limit, "progress after the restore"),
            )
        seen.ticks_after, seen.exit_status = progress.ticks, progress.exit_status
        self._observe_restored(container, running)
        return seen.exit_status is None and seen.restore.returncode == 0

    def _forget_exits(self, container: Container) -> None:
        # The dumped task was killed by CRIU and reaped; its record is not the restored task's.
        deadline = self._limit.within(_OBSERVE_SECONDS, "exit records")
        check(container.machine, ["bash", "-c", ": > /run/criu-pac/exits"], deadline)

    def _observe_restored(self, container: Container, running: RunningWorkload) -> None:
        seen = self.seen
        deadline = self._limit.within(_OBSERVE_SECONDS, "observing the restored task")
        if seen.exit_status is not None:
            self._observe_death(container.machine, running.pid, deadline)
        elif seen.restore and seen.restore.returncode == 0:
            seen.verified = running.verify(deadline)
            seen.restored = container.probe.threads(running.pid, deadline)
        seen.fresh = container.probe.fresh(deadline)
        self._declare_keys_change()

    def _observe_death(self, machine: Machine, pid: int, deadline: Deadline) -> None:
        names = check(machine, ["bash", "-c", f"cd {CORES} && echo *.json"], deadline).text.split()
        for name in names:
            if name != "*.json":
                report = parse(CoreReport, "core", machine.read_file(f"{CORES}/{name}", deadline).decode())
                if report.nspid == pid:
                    self.seen.core = report
        if self.seen.core:
            faults = parse_faults(read_kernel_log(machine))
            self.seen.fault = next((one for one in faults if one.pid == self.seen.core.pid), None)

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


def _scanned(facts: Facts, path: str) -> bool | None:
    return {"True": True, "False": False}.get(facts.get(f"protected {path}", ""))


def run_scenario(
    arm: str, scenario: Scenario, base: PreparedBase, lab: Lab, options: RunOptions
) -> ScenarioResult:
    """Run one scenario; see ScenarioRun.run."""
    return ScenarioRun(arm, scenario, base, lab, options).run()
