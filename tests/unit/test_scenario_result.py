"""The record of a result, key by key, and how a run is judged without any machine."""

import dataclasses
import json
from pathlib import Path
from typing import cast

import pytest

from harness.catalogue.outcome import Outcome, Premise, Verdict
from harness.catalogue.scenario import KeyModule, MachineSpec
from harness.core.errors import HarnessError, MachineDiedError, UsageError
from harness.guest.probe_results import Frame, KeyFingerprints, ThreadsReport, ThreadState, WatchReport
from harness.provision.prepared_base import PreparedBase
from harness.scenario.arms import Arm
from harness.scenario.fake_results import DIRTY, arms, result
from harness.scenario.lab import Lab
from harness.scenario.options import RunOptions
from harness.scenario.result import SCHEMA, Registers
from harness.scenario.run import ScenarioRun, run_scenario

# Every key a reader of results.jsonl may rely on.
PROMISED = {
    *("schema", "id", "cpu", "kernel", "target_cpu", "target_kernel", "qemu", "base", "workload", "driver"),
    *("criu_dump", "criu_restore", "module", "outcome", "predicted", "verdict", "known_issue", "premises"),
    *("signal", "pc", "lr", "pac_mask", "pac_register", "pac_bits", "frames", "p_chance", "ticks_before"),
    *("ticks_after", "keys_equal", "seconds", "evidence"),
}
EXTRA = {"arm", "reason", "phases", "started"}
MASK = 0x007F000000000000
PC = 0x0000FFFFB754E4DC


def test_the_record_has_the_promised_keys_and_the_known_extra_ones() -> None:
    for arm in arms(control=True):
        assert set(result(arm).record()) == PROMISED | EXTRA


def test_a_record_of_the_bug() -> None:
    stock, module = (result(arm).record() for arm in arms())
    expected = {
        "schema": SCHEMA,
        "arm": "stock",
        "cpu": "neoverse-v1",
        "target_cpu": "neoverse-v1",
        "qemu": "11.1.3",
        "base": "debian-13",
        "workload": "python-sleeper",
        "driver": "criu",
        "criu_dump": "3.17.1",
        "criu_restore": "3.17.1",
        "module": "none",
        "outcome": "signed_pc_fault",
        "predicted": "signed_pc_fault",
        "verdict": "as_predicted",
        "known_issue": None,
        "signal": "SIGSEGV",
        "pc": "0x003effffa159e4dc",
        "lr": "0x003effffa159e4dc",
        "pac_mask": "0x007f000000000000",
        "pac_register": "pc",
        "pac_bits": "0x003e000000000000",
        "keys_equal": False,
        "seconds": 3.142,
        "phases": {"dump": 0.612},
    }
    assert {name: stock[name] for name in expected} == expected
    assert stock["kernel"] == stock["target_kernel"]
    assert type(stock["schema"]) is int
    assert stock["id"] != module["id"]
    assert (module["module"], module["outcome"], module["signal"]) == ("plugin", "survived", None)


def test_what_was_not_read_is_null() -> None:
    record = result(
        arms()[0], Outcome.INFRA_ERROR, registers=Registers(), p_chance=None, keys_equal=None, evidence=None
    ).record()
    for name in ("pc", "lr", "pac_mask", "pac_register", "pac_bits", "p_chance", "keys_equal", "evidence"):
        assert record[name] is None


def test_small_values_keep_their_sixteen_digits_and_zero_is_not_null() -> None:
    record = result(arms()[0], registers=Registers(pc=0, lr=0x10)).record()
    assert (record["pc"], record["lr"]) == ("0x0000000000000000", "0x0000000000000010")


def test_premises_are_declared_and_observed() -> None:
    premises = (
        Premise(name="source_pac", declared=True, observed=None),
        Premise(name="keys_change", declared=None),
    )
    assert result(arms()[0], premises=premises).record()["premises"] == {
        "source_pac": {"declared": True, "observed": None},
        "keys_change": {"declared": None, "observed": None},
    }


def test_a_record_is_json_of_names_not_of_objects() -> None:
    record = result(arms()[0]).record()
    assert json.loads(json.dumps(record)) == record


class BrokenLab:
    """A lab in which nothing can be made."""

    qemu_version = "11.1.3"

    def __init__(self, error: HarnessError) -> None:
        self._error = error

    def check_workload(self, workload: object) -> None:
        pass

    def template(self, kind: object) -> object:
        raise self._error


def _run(arm: Arm, error: HarnessError, tmp_path: Path) -> ScenarioRun:
    lab = cast("Lab", BrokenLab(error))
    return ScenarioRun(arm.name, arm.scenario, cast("PreparedBase", None), lab, RunOptions(results=tmp_path))


def test_a_machine_that_fails_is_an_infrastructure_error_and_no_exception(tmp_path: Path) -> None:
    found = _run(arms()[0], MachineDiedError("QEMU was killed"), tmp_path).run()
    assert (found.outcome, found.verdict) == (Outcome.INFRA_ERROR, Verdict.ERROR)
    assert found.reason == "QEMU was killed"
    assert found.registers == Registers()
    assert (found.p_chance, found.keys_equal, found.evidence) == (None, None, None)
    assert set(found.record()) == PROMISED | EXTRA


def test_a_mistake_of_the_user_is_an_exception(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such base"):
        _run(arms()[0], UsageError("no such base"), tmp_path).run()


def _watch(frames: int) -> WatchReport:
    returned = tuple(Frame(address=16 * at, lr=PC | MASK, stripped=PC, signed=True) for at in range(frames))
    return WatchReport(
        insn_mask=MASK,
        data_mask=MASK,
        enabled_keys=0xF,
        keys=None,
        pid=35,
        start=returned,
        returned=returned,
        stops=9,
        writes=1,
        ended="ticks",
    )


def _held(mask: int | None) -> ThreadsReport:
    keys = KeyFingerprints(fingerprint="a", ia="a", ib="a", da="a", db="a", ga=None)
    thread = ThreadState(
        insn_mask=mask,
        data_mask=mask,
        enabled_keys=0xF,
        keys=keys if mask else None,
        tid=435,
        nstid=35,
        nspid=35,
        state="S",
        pc=PC,
        lr=PC,
        sp=0,
        pstate=0,
        fp=0,
        frames=None,
        records=None,
        unsigned_returns=None,
    )
    return ThreadsReport(pid=35, threads=(thread,))


@pytest.mark.parametrize(
    ("mask", "frames", "chance"),
    [
        (MASK, 1, 2.0**-7),
        (MASK, 3, 2.0**-21),
        (0x0070000000000000, 2, 2.0**-6),
        (MASK, 0, None),  # nothing signed was returned through: there is no chance to speak of
        (None, 3, None),
        (0, 3, None),
    ],
)
def test_the_chance_of_a_false_pass(
    tmp_path: Path, mask: int | None, frames: int, chance: float | None
) -> None:
    run = _run(arms()[0], MachineDiedError("unused"), tmp_path)
    run.seen.held, run.seen.rehearsal = _held(mask), _watch(frames)
    found = run._judge(None, 1.0, "11.1.3")
    assert (found.frames, found.p_chance) == (frames, chance)


def test_an_error_stands_above_everything_that_was_seen(tmp_path: Path) -> None:
    run = _run(arms()[0], MachineDiedError("unused"), tmp_path)
    run.seen.premises["source_pac"] = Premise(name="source_pac", declared=True, observed=False)
    run.seen.held = _held(MASK)
    assert run._judge(None, 1.0, None).outcome is Outcome.INVALID
    failed = run._judge(MachineDiedError("QEMU ended"), 1.0, None)
    assert failed.outcome is Outcome.INFRA_ERROR
    assert failed.registers == Registers()


def test_only_the_module_is_a_carrier_for_a_criu_without_native_keys(tmp_path: Path) -> None:
    stock, module = arms()
    assert stock.scenario.module is KeyModule.NONE
    assert not _run(stock, MachineDiedError("unused"), tmp_path).seen.carrier
    assert _run(module, MachineDiedError("unused"), tmp_path).seen.carrier


def test_evidence_is_named_where_there_is_some(tmp_path: Path) -> None:
    run = _run(arms()[0], MachineDiedError("unused"), tmp_path)
    assert run._judge(None, 1.0, None).evidence is None
    (tmp_path / "stock").mkdir()
    assert run._judge(None, 1.0, None).evidence == "stock"


def test_the_dirty_bits_are_those_of_the_named_register() -> None:
    assert DIRTY.pc is not None
    assert DIRTY.pac_mask is not None
    assert DIRTY.pac_bits == DIRTY.pc & DIRTY.pac_mask


def test_a_scenario_between_machines_has_one_cycle(tmp_path: Path) -> None:
    stock = arms()[0]
    target = MachineSpec(cpu=arms("neoverse-n2")[0].scenario.source.cpu, kernel=stock.scenario.source.kernel)
    scenario = dataclasses.replace(stock.scenario, target=target, cycles=2)
    lab = cast("Lab", BrokenLab(MachineDiedError("never asked")))
    with pytest.raises(UsageError, match="one cycle"):
        run_scenario("x", scenario, cast("PreparedBase", None), lab, RunOptions(results=tmp_path))
