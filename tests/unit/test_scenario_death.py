"""The death of a restored task, found among the cores of its whole tree: the first one is judged."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.outcome import Outcome, Premise
from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.guest.container import CORES
from harness.guest.criu import CriuRun
from harness.guest.probe_results import CoreReport, ThreadsReport, parse
from harness.machines.fake import FakeMachine
from harness.parsing.criu_log import parse_criu_log
from harness.scenario.death import observe_death
from harness.scenario.observation import Observation, decide

DATA = Path(__file__).parents[1] / "data"
CORE = (DATA / "core-segv-neoverse-v1.json").read_text("utf-8")  # of 495, which is 35 in its namespace
LOG = (DATA / "dmesg-segv-neoverse-v1.txt").read_text("utf-8")
REPORT = parse(CoreReport, "core", CORE)
CHILDS_CORE = CORE.replace('"nspid":35', '"nspid":36').replace("495", "507").replace("python3", "server")
CHILDS_LOG = LOG.replace("495", "507").replace("python3", "server")
assert REPORT.nspid == 35
assert parse(CoreReport, "core", CHILDS_CORE).pid == 507


def observed(
    cores: dict[int, str], log: str, *, restore: int = 0, tree: tuple[int, ...] = (35, 36)
) -> Observation:
    """Return what is seen of the death of process 35, dumped with ``tree``."""
    machine = FakeMachine()
    names = " ".join(f"core.{pid}.json" for pid in cores) or "*.json"
    machine.answer(["bash", "-c", f"cd {CORES} && echo *.json"], f"{names}\n")
    machine.answer(["dmesg"], log)
    machine.files |= {f"{CORES}/core.{pid}.json": text.encode() for pid, text in cores.items()}
    call = CriuRun(
        argv=("criu",), returncode=restore, log=parse_criu_log(""), log_name="r", said="", seconds=1.0
    )
    seen = Observation(restore=call, held=ThreadsReport(pid=35, threads=(), zombies=tree))
    observe_death(machine, 35, seen, Deadline.after(10, "the death"))
    return seen


@pytest.mark.parametrize(
    ("cores", "log", "first"),
    [
        ({495: CORE}, LOG, 495),
        ({507: CHILDS_CORE}, CHILDS_LOG, 507),
        ({495: CORE, 507: CHILDS_CORE}, LOG + CHILDS_LOG, 495),
        ({495: CORE, 507: CHILDS_CORE}, CHILDS_LOG + LOG, 507),
        # What the log does not tell of, like an abort, comes after what it does.
        ({495: CORE, 507: CHILDS_CORE}, CHILDS_LOG, 507),
    ],
)
def test_the_first_death_of_the_tree_is_taken(cores: dict[int, str], log: str, first: int) -> None:
    seen = observed(cores, log)
    assert seen.core is not None
    assert seen.fault is not None
    assert (seen.core.pid, seen.fault.pid) == (first, first)


def test_without_a_log_the_started_process_comes_first() -> None:
    seen = observed({507: CHILDS_CORE, 495: CORE}, "")
    assert seen.core == REPORT
    assert seen.fault is None


def test_a_process_that_was_not_dumped_is_none_of_the_tree() -> None:
    seen = observed({507: CHILDS_CORE}, CHILDS_LOG, tree=(35,))
    assert (seen.core, seen.fault) == (None, None)


def test_nothing_dead_is_nothing_seen() -> None:
    seen = observed({}, LOG)
    assert (seen.core, seen.fault) == (None, None)


def test_what_criu_gave_up_may_be_in_the_log_alone() -> None:
    torn = observed({495: "", 507: '{"error": "cut off"}'}, LOG, restore=1)
    assert torn.core is None
    assert torn.fault is not None
    assert torn.fault.pid == 495


def test_a_core_that_was_cut_off_does_not_hide_a_whole_one() -> None:
    """The first process of a pid namespace takes the others with it, whatever the kernel is doing to them."""
    seen = observed({495: CORE, 507: '{"error": "cut off"}'}, CHILDS_LOG + LOG)
    assert seen.core == REPORT
    assert seen.fault is not None
    assert seen.fault.pid == 495
    with pytest.raises(MachineError, match="cut off"):
        observed({507: '{"error": "cut off"}'}, CHILDS_LOG)


def tree(*processes: int) -> ThreadsReport:
    """Return one thread for each process, all of them with keys of their own."""
    names = ("insn_mask", "data_mask", "enabled_keys", "frames", "records", "unsigned_returns")
    state = dict.fromkeys(names) | dict.fromkeys(("pc", "lr", "sp", "pstate", "fp"), f"0x{0:016x}")
    threads = []
    for pid in processes:
        keys = dict.fromkeys(("fingerprint", "ia", "ib", "da", "db"), f"keys of {pid}") | {"ga": None}
        threads.append({**state, "keys": keys, "state": "S", "tid": 400 + pid, "nstid": pid, "nspid": pid})
    return parse(ThreadsReport, "threads", json.dumps({"pid": 35, "threads": threads, "zombies": []}))


def restored(**changes: Any) -> Observation:
    """Return what is seen of a client, 35, and its server, 36, after a restore that both survived."""
    call = CriuRun(argv=(), returncode=0, log=parse_criu_log(""), log_name="r", said="", seconds=1.0)
    seen: dict[str, Any] = {
        "premises": {"source_pac": Premise(name="source_pac", declared=True, observed=True)},
        "carrier": True,
        "dump": call,
        "restore": call,
        "held": tree(35, 36),
        "restored": tree(35, 36),
        "ticks_before": 4,
        "ticks_after": 7,
        "ticks_wanted": 3,
        "verified": True,
    }
    return Observation(**{**seen, **changes})


SERVERS_CORE = parse(CoreReport, "core", CHILDS_CORE)
STARTED_ALONE = tree(35)
SIGPIPE = 13


@pytest.mark.parametrize(
    "client",
    [
        {"exit_status": 256, "restored": None},  # it ends by itself
        {"exit_status": SIGPIPE, "restored": None},
        {"ticks_after": 4, "restored": STARTED_ALONE, "verified": None},  # it waits
        {"restored": STARTED_ALONE},  # it does not notice
    ],
)
def test_the_fault_of_a_server_is_judged_whatever_its_client_does(client: dict[str, Any]) -> None:
    seen = restored(core=SERVERS_CORE, **client)
    outcome, reason = decide(seen)
    assert outcome is Outcome.SIGNED_PC_FAULT
    assert reason.endswith("in its process 36 (server)")
    assert seen.signal == "SIGSEGV"

    without_core, _ = decide(restored(**client))
    assert without_core is Outcome.CRASHED_OTHER


def test_a_process_less_is_no_survival_even_where_no_keys_are_compared() -> None:
    outcome, reason = decide(restored(carrier=False, restored=STARTED_ALONE))
    assert outcome is Outcome.CRASHED_OTHER
    assert reason.endswith("these of its processes do not: 36")
    assert decide(restored())[0] is Outcome.SURVIVED
