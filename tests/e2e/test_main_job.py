"""The main job on real machines: the bug appears, is gone with the module, and both controls survive."""

import json
from pathlib import Path

import pytest

from harness.catalogue.bases import CONTROL_BASE
from harness.catalogue.cpus import CONTROL_CPU
from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import KeyModule, Scenario
from harness.guest.container import Container
from harness.guest.criu import Criu
from harness.pytest_plugin import RunScenario
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

WORKLOADS = ["python-sleeper", "c-frames"]


def premises(result: ScenarioResult) -> dict[str, tuple[bool | None, bool | None]]:
    return {one.name: (one.declared, one.observed) for one in result.premises}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_without_the_module_the_process_dies_with_a_signed_pc(
    run_scenario: RunScenario, workload: str, tmp_path: Path
) -> None:
    result = run_scenario(KeyModule.NONE, workload=workload)

    assert result.outcome is Outcome.SIGNED_PC_FAULT, result.reason
    assert result.verdict is Verdict.AS_PREDICTED
    assert result.signal == "SIGSEGV"
    registers = result.registers
    assert registers.pac_mask == 0x007F_0000_0000_0000, "48-bit addresses: seven bits"
    assert registers.pac_register == "pc"
    assert registers.pc is not None
    assert registers.pc & registers.pac_mask == registers.pac_bits != 0
    assert result.keys_equal is False
    assert result.ticks_after == result.ticks_before
    assert all(one.holds for one in result.premises), premises(result)
    evidence = tmp_path / str(result.evidence)
    assert f"pc : {registers.pc:016x}" in (evidence / "kernel.log").read_text()
    state = json.loads((evidence / "registers.json").read_text())
    assert state["threads"][0]["pc"] == f"0x{registers.pc:016x}"
    assert state["general"]["x29"].startswith("0x0000ffff"), "a frame pointer is not signed"
    assert "Dumping finished successfully" in (evidence / "dump-1.log").read_text()
    assert "Restore finished successfully" in (evidence / "restore-1.log").read_text()


@pytest.mark.parametrize("workload", WORKLOADS)
def test_with_the_module_the_process_lives(run_scenario: RunScenario, workload: str) -> None:
    result = run_scenario(KeyModule.PLUGIN, workload=workload)

    assert result.outcome is Outcome.SURVIVED, result.reason
    assert result.verdict is Verdict.AS_PREDICTED
    assert result.signal is None
    assert result.keys_equal is True
    assert result.ticks_after >= result.ticks_before + 3
    assert result.p_chance is not None
    assert result.p_chance < 1e-6
    if workload == "c-frames":
        assert result.frames >= 300


def test_two_cycles_with_the_module(run_scenario: RunScenario) -> None:
    assert run_scenario(KeyModule.PLUGIN, workload="c-frames", cycles=2).outcome is Outcome.SURVIVED


@pytest.mark.machine(cpu="neoverse-n2")
def test_a_core_with_fpac_traps_instead(run_scenario: RunScenario) -> None:
    result = run_scenario(KeyModule.NONE)

    assert result.outcome is Outcome.FPAC_FAULT, result.reason
    assert result.signal == "SIGILL"
    assert result.registers.pac_register == "lr", "with FPAC the PC stays clean"


@pytest.mark.machine(cpu=CONTROL_CPU.name)
def test_control_a_cpu_without_pac_survives(run_scenario: RunScenario) -> None:
    result = run_scenario(KeyModule.NONE)

    assert result.outcome is Outcome.SURVIVED, result.reason
    assert premises(result)["source_pac"] == (False, False)
    assert premises(result)["signed_frames_live"] == (False, False)
    assert result.frames == 0
    assert result.registers.pac_mask is None


@pytest.mark.machine(base=CONTROL_BASE.name)
def test_control_an_unprotected_userland_survives(run_scenario: RunScenario) -> None:
    result = run_scenario(KeyModule.NONE)

    assert result.outcome is Outcome.SURVIVED, result.reason
    assert premises(result)["source_pac"] == (True, True)
    assert premises(result)["interpreter_protected"] == (False, False)
    assert premises(result)["libc_protected"] == (False, False)
    assert result.keys_equal is False, "the keys were lost here too; nothing depended on them"


class PlantedKeys(ScenarioRun):
    """A run that says it has no key module while CRIU has one: keys that should change do not."""

    def criu(self, container: Container, *, restoring: bool) -> Criu:
        scenario: Scenario = self.scenario
        build = scenario.criu_restore if restoring else scenario.criu_dump
        return Criu(container, build, KeyModule.PLUGIN)


def test_equal_keys_in_the_stock_arm_are_invalid_not_survived(run_scenario: RunScenario) -> None:
    result = run_scenario(KeyModule.NONE, runner=PlantedKeys)

    assert result.outcome is Outcome.INVALID, result.reason
    assert result.verdict is Verdict.INVALID
    assert premises(result)["keys_change"] == (True, False)


def test_the_record_is_json_with_the_documented_fields(run_scenario: RunScenario) -> None:
    record = json.loads(json.dumps(run_scenario(KeyModule.NONE).record()))

    assert record["schema"] == 1
    assert record["predicted"] == "signed_pc_fault"
    assert record["pc"].startswith("0x")
    assert int(record["pc"], 16) & int(record["pac_mask"], 16) == int(record["pac_bits"], 16)
    assert set(record["premises"]["source_pac"]) == {"declared", "observed"}
