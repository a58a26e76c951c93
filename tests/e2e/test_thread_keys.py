"""Keys and enabled keys of every thread of every process: what CRIU loses and the key module keeps."""

import pytest

from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import Container
from harness.guest.criu import Criu
from harness.guest.workload import RunningWorkload
from harness.pytest_plugin import RunScenario
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

OLD = pytest.mark.machine(kernel="6.1", criu=["3.17.1"])
STAND_IN_FOR_4_0 = pytest.mark.machine(kernel="6.12", criu=["4.1.1-nopac", "4.2.1", "4.2.1-nopac"])
NATIVE = STAND_IN_FOR_4_0  # one machine for all of them

BUILDS = [
    pytest.param("3.17.1", marks=OLD),
    pytest.param("4.1.1-nopac", marks=STAND_IN_FOR_4_0),
]
WORKLOADS = ["python-sleeper", "python-threads", "c-threads-own-keys", "c-enabled-mask", "c-tree"]


def as_expected(result: ScenarioResult) -> ScenarioResult:
    broken = [one for one in result.premises if not one.holds]
    assert not broken, broken
    assert result.verdict in {Verdict.AS_PREDICTED, Verdict.KNOWN_ISSUE}, result.reason
    return result


@pytest.mark.parametrize("criu", BUILDS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_dies_without_the_module_and_lives_with_it(
    run_scenario: RunScenario, workload: str, criu: str
) -> None:
    stock = as_expected(run_scenario(criu=criu, workload=workload))
    assert stock.outcome is Outcome.SIGNED_PC_FAULT, stock.reason

    cured = as_expected(run_scenario(KeyModule.PLUGIN, criu=criu, workload=workload))
    assert cured.outcome is Outcome.SURVIVED, cured.reason
    assert cured.keys_equal is True


@pytest.mark.parametrize("criu", BUILDS)
@pytest.mark.parametrize("workload", ["c-threads-own-keys", "c-tree"])
def test_five_cycles_in_a_row(run_scenario: RunScenario, workload: str, criu: str) -> None:
    result = as_expected(run_scenario(KeyModule.PLUGIN, criu=criu, workload=workload, cycles=5))
    assert result.outcome is Outcome.SURVIVED, result.reason


@NATIVE
@pytest.mark.parametrize("workload", ["c-threads-own-keys", "c-leader-own-keys", "c-enabled-mask"])
def test_native_support_loses_what_is_not_the_leaders_and_the_module_keeps_it(
    run_scenario: RunScenario, workload: str
) -> None:
    stock = as_expected(run_scenario(criu="4.2.1", workload=workload))
    assert stock.known_issue == "per-thread-keys"
    assert stock.outcome is Outcome.SIGNED_PC_FAULT, stock.reason

    cured = as_expected(run_scenario(KeyModule.PLUGIN, criu="4.2.1", workload=workload))
    assert cured.outcome is Outcome.SURVIVED, cured.reason


@NATIVE
@pytest.mark.parametrize("workload", ["python-threads", "c-tree"])
def test_native_support_alone_keeps_what_is_the_leaders(run_scenario: RunScenario, workload: str) -> None:
    result = as_expected(run_scenario(criu="4.2.1", workload=workload))
    assert result.outcome is Outcome.SURVIVED, result.reason


class LeaveRunning(ScenarioRun):
    """Dumps and lets the task run on; it is killed when it has shown that it runs."""

    def criu(self, container: Container, *, restoring: bool) -> Criu:
        return Criu(
            container, self.scenario.criu_dump, self.scenario.module, dump_options=("--leave-running",)
        )

    def after_dump(self, container: Container, running: RunningWorkload) -> None:
        seen = running.progress(Deadline.after(20, "ticks after the dump"))
        assert not seen.exits, "it was left running"
        went_on = running.wait_progress(seen.ticks + 3, Deadline.after(30, "three ticks after the dump"))
        assert went_on.ticks >= seen.ticks + 3
        assert not went_on.exits
        running.end(Deadline.after(20, "end of the task that was left running"))


@pytest.mark.parametrize("criu", [*BUILDS, pytest.param("4.2.1", marks=NATIVE)])
def test_a_task_left_running_keeps_running_and_its_images_are_good(
    run_scenario: RunScenario, criu: str
) -> None:
    result = run_scenario(KeyModule.PLUGIN, criu=criu, workload="c-threads-own-keys", runner=LeaveRunning)
    assert as_expected(result).outcome is Outcome.SURVIVED, result.reason
