"""From one machine to another: what CRIU does to keys there, and what the key module refuses or cures."""

import json
from pathlib import Path

import pytest

from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import KeyModule
from harness.pytest_plugin import RunScenario
from harness.scenario.result import ScenarioResult

NATIVE = ["4.2.1"]
TO_NO_PAC, TO_PAC = "neoverse-v1:neoverse-n1", "neoverse-n1:neoverse-v1"


def as_declared(result: ScenarioResult) -> None:
    broken = [one for one in result.premises if not one.holds]
    assert not broken, broken
    assert result.verdict in {Verdict.AS_PREDICTED, Verdict.KNOWN_ISSUE}, result.reason


def refused(result: ScenarioResult, *words: str) -> None:
    """Refused by the module, before anything was restored."""
    as_declared(result)
    assert result.outcome is Outcome.RESTORE_REFUSED, result.reason
    assert "pac-key-module: error: " in result.reason
    for word in words:
        assert word in result.reason
    assert result.signal is None
    assert result.ticks_after == result.ticks_before


@pytest.mark.machine(cpu=TO_NO_PAC, kernel="6.12", criu=NATIVE)
def test_keys_in_an_image_hang_criu_where_there_is_no_pac(run_scenario: RunScenario, tmp_path: Path) -> None:
    result = run_scenario()
    as_declared(result)
    assert result.outcome is Outcome.HUNG, result.reason
    assert result.known_issue == "criu-2824"
    seen = json.loads((tmp_path / str(result.evidence) / "observations.json").read_text())
    assert seen["hang_end"]["criu"], "CRIU was still there"
    assert seen["hang_end"]["orphan"].startswith("S futex"), "and left a task on a futex of its restorer"
    assert seen["hang_end"]["left"] is False
    stacks = (tmp_path / str(result.evidence) / "stacks.txt").read_text()
    assert "futex" in stacks


@pytest.mark.machine(cpu=TO_NO_PAC, kernel="6.12", criu=NATIVE)
def test_the_module_refuses_a_machine_without_pac_and_names_both_cpus(run_scenario: RunScenario) -> None:
    refused(run_scenario(KeyModule.PLUGIN), "Neoverse V1", "Neoverse N1")


@pytest.mark.machine(cpu=TO_PAC, kernel="6.12", criu=NATIVE)
def test_unsigned_return_addresses_die_on_a_machine_with_pac(run_scenario: RunScenario) -> None:
    result = run_scenario()
    as_declared(result)
    assert result.outcome is Outcome.SIGNED_PC_FAULT, result.reason
    assert result.signal == "SIGSEGV"


@pytest.mark.machine(cpu=TO_PAC, kernel="6.12", criu=NATIVE)
def test_the_module_refuses_unsigned_images_on_a_machine_with_pac(run_scenario: RunScenario) -> None:
    refused(run_scenario(KeyModule.PLUGIN), "Neoverse N1", "Neoverse V1")


@pytest.mark.machine(cpu=TO_PAC, kernel="6.12", criu=NATIVE)
@pytest.mark.parametrize("workload", ["python-sleeper", "c-frames"])
def test_with_authentication_disabled_unsigned_images_live(run_scenario: RunScenario, workload: str) -> None:
    result = run_scenario(KeyModule.PLUGIN_DISABLE_AUTH, workload=workload)
    as_declared(result)
    assert result.outcome is Outcome.SURVIVED, result.reason
    assert result.ticks_after >= result.ticks_before + 3


@pytest.mark.machine(cpu="max-qarma5:max", kernel="6.12", criu=NATIVE)
def test_another_algorithm_kills_and_the_module_refuses_it(run_scenario: RunScenario) -> None:
    result = run_scenario(workload="c-frames")
    as_declared(result)
    assert result.outcome is Outcome.FPAC_FAULT, result.reason
    refused(run_scenario(KeyModule.PLUGIN, workload="c-frames"), "algorithm")
