"""A real service with its client, dumped as one tree: redis-server, every key checked after the restore."""

import pytest

from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import KeyModule
from harness.core.deadline import Deadline
from harness.guest.container import WORK, Container
from harness.guest.criu import CriuRun
from harness.guest.driver import CheckpointDriver, DirectCriu
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import check
from harness.pytest_plugin import RunScenario
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun
from harness.scenario.site import Site

OLD = pytest.mark.machine(kernel="6.1", criu=["3.17.1"], workloads=["redis"])
NATIVE = pytest.mark.machine(kernel="6.12", criu=["4.2.1"], workloads=["redis"])


def premises_hold(result: ScenarioResult) -> ScenarioResult:
    broken = [one for one in result.premises if not one.holds]
    assert not broken, broken
    return result


class Looked(ScenarioRun):
    """Looks, beside everything else, at what was dumped and what the client said in the end."""

    def before_dump(self, container: Container, running: RunningWorkload) -> None:
        held = self.seen.held
        assert held is not None
        client, server = held.processes
        assert client == running.own_pid
        threads = [thread for thread in held.threads if thread.nspid == server]
        assert len(threads) > 1, "redis-server has threads of its own"
        assert all(thread.frames for thread in threads)
        assert len({thread.keys for thread in held.threads}) == 2, "one set of keys for each process"


class Verified(Looked):
    """Reads the client's own words: PASS for the whole number of keys."""

    def _observe_restored(self, running: RunningWorkload) -> None:
        super()._observe_restored(running)
        said = running.progress(Deadline.after(20, "what the client said")).lines
        assert [line for line in said if line.startswith(("PASS", "FAIL"))] == ["PASS 4000 keys"]


@OLD
def test_both_die_without_the_module(run_scenario: RunScenario) -> None:
    result = premises_hold(run_scenario(workload="redis", runner=Looked))
    assert result.outcome is Outcome.SIGNED_PC_FAULT, result.reason
    assert result.verdict is Verdict.AS_PREDICTED
    assert result.p_chance is not None
    assert result.p_chance < 1e-6


@OLD
def test_every_key_is_there_with_the_module(run_scenario: RunScenario) -> None:
    result = premises_hold(run_scenario(KeyModule.PLUGIN, workload="redis", runner=Verified))
    assert result.outcome is Outcome.SURVIVED, result.reason
    assert result.verdict is Verdict.AS_PREDICTED
    assert result.keys_equal is True


@NATIVE
def test_every_key_is_there_with_criu_that_knows_them(run_scenario: RunScenario) -> None:
    result = premises_hold(run_scenario(workload="redis", runner=Verified))
    assert result.outcome is Outcome.SURVIVED, result.reason
    assert result.verdict is Verdict.AS_PREDICTED
    assert result.keys_equal is True


class OneKeyLess(ScenarioRun):
    """Takes the last key away behind the client's back."""

    def before_dump(self, container: Container, running: RunningWorkload) -> None:
        words = ["redis-cli", "-s", "/tmp/redis-workload.sock", "DEL", "key:3999"]
        done = check(container.machine, [*container.prefix, *words], Deadline.after(30, "a key less"))
        assert done.text.strip() == "1"


@OLD
def test_a_key_that_is_gone_is_a_lost_state(run_scenario: RunScenario) -> None:
    result = premises_hold(run_scenario(KeyModule.PLUGIN, workload="redis", runner=OneKeyLess))
    assert result.outcome is Outcome.STATE_LOST, result.reason


class OtherKeysInTheServer(ScenarioRun):
    """Gives the restored server new keys, as if CRIU had carried those of the client alone."""

    def driver(self, site: Site) -> CheckpointDriver:
        run = self

        class Restorer(DirectCriu):
            def restore(
                self, running: RunningWorkload, deadline: Deadline, *, cycle: int
            ) -> tuple[CriuRun, RunningWorkload]:
                done = super().restore(running, deadline, cycle=cycle)
                assert run.seen.held is not None
                _, server = run.seen.held.processes
                change = running.container.probe.new_keys(server, f"{WORK}/server-keys", deadline)
                assert change.changed
                return done

        return Restorer(site.container, self.criu)


@OLD
def test_the_death_of_the_server_is_told_from_the_end_of_its_client(run_scenario: RunScenario) -> None:
    result = premises_hold(run_scenario(KeyModule.PLUGIN, workload="redis", runner=OtherKeysInTheServer))
    assert result.outcome is Outcome.SIGNED_PC_FAULT, result.reason
    assert "(redis-server)" in result.reason
    assert result.signal == "SIGSEGV"
    assert result.keys_equal is False
