"""One cycle of a scenario on a machine of scripted answers: whose end is seen, and what stops a cycle."""

import dataclasses
import json
import re
from pathlib import Path
from typing import cast

import pytest

from harness.catalogue.outcome import Outcome
from harness.catalogue.workloads import VerifyRequest
from harness.core.deadline import Deadline
from harness.core.errors import DeadlineError
from harness.guest.container import CORES, EXITS, IMAGES, OUTPUT, Container
from harness.guest.driver import DirectCriu
from harness.guest.probe import PROBE
from harness.guest.probe_results import ThreadsReport, parse
from harness.guest.workload import RunningWorkload
from harness.machines.fake import Answer, FakeMachine
from harness.provision.prepared_base import PreparedBase
from harness.scenario import limits
from harness.scenario import run as scenario_run
from harness.scenario.fake_results import arms
from harness.scenario.lab import Lab
from harness.scenario.options import RunOptions
from harness.scenario.run import ScenarioRun

DATA = Path(__file__).parents[1] / "data"
NSENTER = ("nsenter", "-t", "412", "-a", "--")
CORE = (DATA / "core-segv-neoverse-v1.json").read_bytes()
KERNEL_LOG = (DATA / "dmesg-segv-neoverse-v1.txt").read_text("utf-8")
DUMPED = "35 9\n"  # CRIU ends what it has dumped
STOCK = arms()[0]
Look = dict[str, bytes]


def shown(ticks: int, exits: str = DUMPED) -> Look:
    return {EXITS: exits.encode(), OUTPUT: b"p\n" * ticks}


class Guest(FakeMachine):
    """Shows one look at the workload after another, the last one for good; CRIU ends as told."""

    def __init__(self, *looks: Look, criu: tuple[Answer, ...] = (Answer(),)) -> None:
        super().__init__()
        self._looks = list(looks)
        self.answer(NSENTER, *criu)
        self.answer((*NSENTER, PROBE, "threads"), '{"pid":35,"threads":[],"zombies":[]}')
        self.answer(["bash", "-c", f"cd {CORES} && echo *.json"], "*.json\n")
        self.answer(["dmesg"], KERNEL_LOG)
        for action in ("dump", "restore"):
            self.files[f"{IMAGES}/{action}-1.log"] = f"(00.1) {action}\n".encode()

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        if path == EXITS:
            self.files |= self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return super().read_file(path, deadline)

    def called_criu(self) -> list[str]:
        """Return what CRIU was called for so far: "dump", "restore"."""
        return [word for call in self.calls for word in call.argv if word in {"dump", "restore"}]


def threads(*processes: int) -> str:
    """Return the probe's report of one thread in each of ``processes``."""
    names = ("insn_mask", "data_mask", "enabled_keys", "keys", "frames", "records", "unsigned_returns")
    state = dict.fromkeys(names) | dict.fromkeys(("pc", "lr", "sp", "pstate", "fp"), f"0x{0:016x}")
    found = [{**state, "state": "S", "tid": 400 + pid, "nstid": pid, "nspid": pid} for pid in processes]
    return json.dumps({"pid": 35, "threads": found, "zombies": []})


def new(results: Path) -> ScenarioRun:
    lab, base = cast("Lab", None), cast("PreparedBase", None)
    return ScenarioRun(STOCK.name, STOCK.scenario, base, lab, RunOptions(results=results))


def cycle(machine: Guest, run: ScenarioRun) -> bool:
    container = Container(machine, "412")
    running = RunningWorkload(container=container, workload=run.scenario.workload, pid=35)
    _, lives = run._cycle(DirectCriu(container, run.criu), running, 1)
    return lives


def test_the_end_of_the_dumped_task_is_not_the_restored_ones(tmp_path: Path) -> None:
    """Both have one process id; taken for each other, every survivor would be dead."""
    # The end of the dumped task comes late: nothing is restored before it is on record.
    machine, run = Guest(shown(4, ""), shown(4), shown(4), shown(7)), new(tmp_path)
    cycle(machine, run)
    seen = run.seen
    assert (seen.exit_status, seen.signal) == (None, None)
    assert (seen.ticks_before, seen.ticks_after, seen.ticks_wanted) == (4, 7, 3)
    assert seen.restored is not None
    assert machine.called_criu() == ["dump", "restore"]


def test_the_death_of_the_restored_task_is_seen_with_its_core_and_its_fault(tmp_path: Path) -> None:
    machine, run = Guest(shown(4), shown(4), shown(4, f"{DUMPED}35 139\n")), new(tmp_path)
    machine.answer(["bash", "-c", f"cd {CORES} && echo *.json"], "core.7.json core.495.json\n")
    machine.files[f"{CORES}/core.495.json"] = CORE
    machine.files[f"{CORES}/core.7.json"] = CORE.replace(b'"nspid":35', b'"nspid":36')
    assert not cycle(machine, run)
    seen = run.seen
    assert (seen.exit_status, seen.signal, seen.restored) == (139, "SIGSEGV", None)
    assert seen.core is not None
    assert seen.fault is not None
    assert (seen.core.nspid, seen.fault.pid) == (35, 495)


@pytest.mark.parametrize(
    ("outcome", "goes_on"),
    [(Outcome.SURVIVED, True), (Outcome.STATE_LOST, False), (Outcome.HUNG, False), (Outcome.INVALID, False)],
)
def test_only_a_cycle_in_order_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, *, goes_on: bool
) -> None:
    """The next cycle overwrites what this one saw: a lost state must not be forgotten."""
    monkeypatch.setattr(scenario_run, "decide", lambda _: (outcome, "as told"))
    assert cycle(Guest(shown(4), shown(4), shown(7)), new(tmp_path)) is goes_on


def test_another_process_core_is_not_the_restored_tasks(tmp_path: Path) -> None:
    machine, run = Guest(shown(4), shown(4, f"{DUMPED}35 139\n")), new(tmp_path)
    machine.answer(["bash", "-c", f"cd {CORES} && echo *.json"], "core.7.json\n")
    machine.files[f"{CORES}/core.7.json"] = CORE.replace(b'"nspid":35', b'"nspid":36')
    cycle(machine, run)
    assert (run.seen.exit_status, run.seen.core, run.seen.fault) == (139, None, None)


def test_too_few_ticks_are_kept_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_TICK_GRACE_SECONDS", -0.25)  # no time at all
    machine, run = Guest(shown(4), shown(4), shown(5)), new(tmp_path)
    cycle(machine, run)
    assert (run.seen.ticks_before, run.seen.ticks_after, run.seen.exit_status) == (4, 5, None)


def test_a_workload_that_came_to_a_halt_is_not_asked_about_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would not answer, and a hang is no failure of the harness."""
    monkeypatch.setattr(limits, "_TICK_GRACE_SECONDS", -0.25)  # no time at all
    request = VerifyRequest(signal="SIGUSR1", passed=re.compile("PASS"), failed=re.compile("FAIL"))
    workload = dataclasses.replace(STOCK.scenario.workload, verify=request)
    machine, run = Guest(shown(4), shown(4), shown(5)), new(tmp_path)
    run.scenario = dataclasses.replace(STOCK.scenario, workload=workload)
    cycle(machine, run)
    assert run.seen.verified is None
    assert not [call for call in machine.calls if "kill -USR1 35" in call.argv]


def test_a_child_that_is_missing_is_looked_for_among_the_cores(tmp_path: Path) -> None:
    machine, run = Guest(shown(4, f"{DUMPED}36 9\n"), shown(7, f"{DUMPED}36 9\n")), new(tmp_path)
    run.seen.held = parse(ThreadsReport, "threads", threads(35, 36))
    machine.answer((*NSENTER, PROBE, "threads"), threads(35))
    machine.answer(["bash", "-c", f"cd {CORES} && echo *.json"], "core.495.json\n")
    machine.files[f"{CORES}/core.495.json"] = CORE.replace(b'"nspid":35', b'"nspid":36')
    assert not cycle(machine, run)
    seen = run.seen
    assert seen.exit_status is None
    assert seen.missing == {36}
    assert seen.core is not None
    assert (seen.core.nspid, seen.signal) == (36, "SIGSEGV")


def test_a_dump_that_failed_is_not_restored(tmp_path: Path) -> None:
    machine, run = Guest(shown(4, ""), criu=(Answer(returncode=1),)), new(tmp_path)
    assert not cycle(machine, run)
    assert (run.seen.restore, machine.called_criu()) == (None, ["dump"])


def test_a_refused_restore_leaves_no_task_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_run, "_LAST_WORDS_SECONDS", 0.0)
    machine, run = Guest(shown(4), criu=(Answer(), Answer(returncode=1))), new(tmp_path)
    assert not cycle(machine, run)
    assert run.seen.restore is not None
    assert (run.seen.restore.returncode, run.seen.exit_status, run.seen.restored) == (1, None, None)
    assert machine.called(*NSENTER, PROBE, "threads") == []


def test_a_task_that_died_in_a_refused_restore_is_seen(tmp_path: Path) -> None:
    looks = shown(4), shown(4, f"{DUMPED}35 139\n")
    machine, run = Guest(*looks, criu=(Answer(), Answer(returncode=1))), new(tmp_path)
    assert not cycle(machine, run)
    assert run.seen.exit_status == 139


@pytest.mark.parametrize("answers", [(Answer(hangs=True),), (Answer(), Answer(hangs=True))])
def test_a_hang_within_the_time_of_the_arm_is_an_observation(
    tmp_path: Path, answers: tuple[Answer, ...]
) -> None:
    machine, run = Guest(shown(4), criu=answers), new(tmp_path)
    assert not cycle(machine, run)
    last = run.seen.restore or run.seen.dump
    assert last is not None
    assert last.hung
    assert run.seen.exit_status is None


def test_a_call_cut_short_by_the_time_of_the_arm_says_nothing_of_criu(tmp_path: Path) -> None:
    machine, run = Guest(shown(4), criu=(Answer(hangs=True),)), new(tmp_path)
    run._limit = Deadline.after(0, "arm stock")
    with pytest.raises(DeadlineError, match=r"arm stock took .*CRIU was running: .* dump$") as error:
        cycle(machine, run)
    assert run._judge(error.value, 1.0, None).outcome is Outcome.INFRA_ERROR


def test_images_are_touched_between_dump_and_restore_and_only_there(tmp_path: Path) -> None:
    machine = Guest(shown(4), shown(4), shown(7))
    called: list[list[str]] = []

    class Sabotage(ScenarioRun):
        def between(self, container: Container, cycle: int) -> None:
            assert (container.machine, cycle) == (machine, 1)
            called.append(machine.called_criu())

    options = RunOptions(results=tmp_path)
    lab, base = cast("Lab", None), cast("PreparedBase", None)
    cycle(machine, Sabotage(STOCK.name, STOCK.scenario, base, lab, options))
    assert called == [["dump"]]


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ([], "stock"),
        (["stock"], "stock-2"),
        (["stock", "stock-2"], "stock-3"),
        (["stock-2"], "stock"),
        (["stock", "stock-3"], "stock-2"),
        (["pac-key-module"], "stock"),
    ],
)
def test_evidence_of_earlier_runs_is_kept(tmp_path: Path, there: list[str], name: str) -> None:
    for one in there:
        (tmp_path / one).mkdir()
    run = new(tmp_path)
    assert run._evidence == tmp_path / name
    assert run._judge(None, 1.0, None).evidence is None  # nothing was collected yet
    run._evidence.mkdir()
    assert run._judge(None, 1.0, None).evidence == name
    assert json.loads(json.dumps(run._judge(None, 1.0, None).record()))["evidence"] == name


def test_a_file_of_the_arms_name_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "stock").write_text("mine")
    assert new(tmp_path)._evidence == tmp_path / "stock-2"


def test_results_that_are_not_there_yet_are_no_earlier_ones(tmp_path: Path) -> None:
    assert new(tmp_path / "a" / "b")._evidence == tmp_path / "a" / "b" / "stock"
