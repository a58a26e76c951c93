"""Whether programs of this project outlive a checkpoint on arm64 with pointer authentication."""

import pytest

from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import Scenario
from harness.scenario.result import ScenarioResult


@pytest.mark.pin_workload("job-queue", "ledger")
@pytest.mark.pin_module("plugin")
def test_with_the_key_module_work_goes_on(checked: ScenarioResult, scenario: Scenario) -> None:
    assert checked.outcome is Outcome.SURVIVED, checked.reason
    assert checked.ticks_after >= checked.ticks_before + scenario.workload.watch_ticks


@pytest.mark.pin_workload("job-queue")
@pytest.mark.pin_module("none")
@pytest.mark.pin_criu("3.17.1")
def test_without_it_a_job_dies_on_its_way_back(checked: ScenarioResult) -> None:
    assert checked.outcome.is_pac_fault, checked.reason
