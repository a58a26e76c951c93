"""pytest plugin: fixtures that run scenarios in real machines.

Provisioning, templates and clones are made in fixtures, so that their failures are ERRORs;
dump, restore and what they lead to happen in the test's own call, so that theirs are FAILURES.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.catalogue.bases import base as base_named
from harness.catalogue.cpus import DEFAULT_CPU
from harness.catalogue.cpus import cpu as cpu_named
from harness.catalogue.criu_builds import DEFAULT_CRIU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.core.rundir import sweep
from harness.guest.workload import load_workload
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

RunScenario = Callable[..., ScenarioResult]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that chooses a test's machine."""
    config.addinivalue_line("markers", "machine(cpu=NAME, base=NAME): the machine the test runs in")


@pytest.fixture(scope="session")
def provision() -> Iterator[Provision]:
    """Give settings, cache and downloads of this test process."""
    sweep()
    with Provision.from_environment() as made:
        yield made


@pytest.fixture(scope="session")
def lab(provision: Provision) -> Iterator[Lab]:
    """Give programs, images, templates and machines of this test process."""
    with Lab(provision) as made:
        yield made


@pytest.fixture
def machine_kind(lab: Lab, provision: Provision, request: pytest.FixtureRequest) -> MachineKind:
    """Return the machine of the test's ``machine(cpu=..., base=...)`` marker, its template made."""
    marker = request.node.get_closest_marker("machine")
    wanted = marker.kwargs if marker else {}
    kind = MachineKind(
        cpu=cpu_named(wanted.get("cpu", DEFAULT_CPU.name)),
        kernel=DEFAULT_KERNEL,
        base=prepare_base(base_named(wanted.get("base", "debian-13")), provision),
        builds=(DEFAULT_CRIU,),
    )
    lab.template(kind)
    return kind


@pytest.fixture
def run_scenario(
    lab: Lab, machine_kind: MachineKind, tmp_path: Path, request: pytest.FixtureRequest
) -> RunScenario:
    """Return a function that runs one scenario on the test's machine and gives its result.

    Its parameters: ``module`` (KeyModule), ``workload`` (a name), ``cycles``, ``runner`` (a
    ScenarioRun class). An infrastructure error fails the test as such.
    """

    def run(
        module: KeyModule = KeyModule.NONE,
        *,
        workload: str = "python-sleeper",
        cycles: int = 1,
        runner: type[ScenarioRun] = ScenarioRun,
    ) -> ScenarioResult:
        spec = MachineSpec(cpu=machine_kind.cpu, kernel=machine_kind.kernel)
        scenario = Scenario(
            source=spec,
            target=spec,
            criu_dump=DEFAULT_CRIU,
            criu_restore=DEFAULT_CRIU,
            module=module,
            workload=load_workload(workload),
            base=machine_kind.base.base,
            driver=Driver.CRIU,
            cycles=cycles,
        )
        options = RunOptions(results=tmp_path, command=f"pytest {request.node.nodeid}")
        result = runner(scenario.slug, scenario, machine_kind.base, lab, options).run()
        assert result.outcome is not Outcome.INFRA_ERROR, result.reason
        return result

    return run
