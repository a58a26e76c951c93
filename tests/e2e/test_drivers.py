"""runc, docker and podman as callers of CRIU: the bug is the same, and the module is loaded by each."""

import pytest

from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import KeyModule
from harness.guest.docker_checkpoint import DockerCheckpoint
from harness.guest.driver import LOADED_FROM, CheckpointDriver
from harness.guest.prepare import SCENARIO_IMAGE
from harness.guest.runc import Runc
from harness.pytest_plugin import RunScenario
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun
from harness.scenario.site import Site


def loaded_from(place: str, *, user_namespace: bool = False) -> type[ScenarioRun]:
    """A run whose runc or dockerd finds the module in one of three ways."""

    class Loaded(ScenarioRun):
        def driver(self, site: Site) -> CheckpointDriver:
            cell = self.scenario
            builds = (cell.criu_dump, cell.criu_restore)
            if cell.driver.value == "docker":
                return DockerCheckpoint(site.machine, SCENARIO_IMAGE, builds, cell.module, loaded_from=place)
            return Runc(
                site.machine,
                site.facts["container_root"],
                builds,
                cell.module,
                loaded_from=place,
                user_namespace=user_namespace,
            )

    return Loaded


def as_predicted(result: ScenarioResult, outcome: Outcome) -> None:
    broken = [one for one in result.premises if not one.holds]
    assert not broken, broken
    assert result.outcome is outcome, result.reason
    assert result.verdict is Verdict.AS_PREDICTED


@pytest.mark.parametrize("driver", ["runc", "docker"])
def test_dies_without_the_module(run_scenario: RunScenario, driver: str) -> None:
    as_predicted(run_scenario(driver=driver), Outcome.SIGNED_PC_FAULT)


@pytest.mark.parametrize("place", LOADED_FROM)
@pytest.mark.parametrize("driver", ["runc", "docker"])
def test_lives_with_the_module_wherever_it_is_loaded_from(
    run_scenario: RunScenario, driver: str, place: str
) -> None:
    result = run_scenario(KeyModule.PLUGIN, driver=driver, runner=loaded_from(place))
    as_predicted(result, Outcome.SURVIVED)
    assert result.keys_equal is True


@pytest.mark.parametrize("module", [KeyModule.NONE, KeyModule.PLUGIN])
def test_threads_with_their_own_keys_in_a_user_namespace_under_seccomp(
    run_scenario: RunScenario, module: KeyModule
) -> None:
    run = loaded_from(LOADED_FROM[0], user_namespace=True)
    result = run_scenario(module, driver="runc", workload="c-threads-own-keys", runner=run)
    as_predicted(result, Outcome.SURVIVED if module.loaded else Outcome.SIGNED_PC_FAULT)


@pytest.mark.machine(driver="podman")
@pytest.mark.parametrize("module", [KeyModule.NONE, KeyModule.PLUGIN])
def test_podman(run_scenario: RunScenario, module: KeyModule) -> None:
    result = run_scenario(module)
    as_predicted(result, Outcome.SURVIVED if module.loaded else Outcome.SIGNED_PC_FAULT)


def test_three_cycles_under_runc(run_scenario: RunScenario) -> None:
    result = run_scenario(KeyModule.PLUGIN, driver="runc", workload="c-tree", cycles=3)
    as_predicted(result, Outcome.SURVIVED)
