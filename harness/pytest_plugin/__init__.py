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
from harness.catalogue.criu_builds import DEFAULT_CRIU, criu_build
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.kernels import kernel as kernel_named
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.core.rundir import sweep
from harness.guest.workload import load_workload
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.provision.criu_build import criu_of
from harness.reporting import allure
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

RunScenario = Callable[..., ScenarioResult]


_MARKER = (
    "machine(cpu=NAME, kernel=NAME, base=NAME, criu=[NAME, ...], driver=NAME): the machine the test runs in; "
    "SRC:DST for cpu or kernel restores on another one, criu lists the builds in it, driver what calls them"
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that chooses a test's machine."""
    config.addinivalue_line("markers", _MARKER)


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
def machine_kinds(
    lab: Lab, provision: Provision, request: pytest.FixtureRequest
) -> tuple[MachineKind, MachineKind]:
    """Return source and target of the test's ``machine`` marker, mostly the same, their templates made."""
    marker = request.node.get_closest_marker("machine")
    wanted = marker.kwargs if marker else {}
    base = prepare_base(base_named(wanted.get("base", "debian-13")), provision)
    builds = tuple(criu_build(name) for name in wanted.get("criu", [DEFAULT_CRIU.name]))
    cpus = wanted.get("cpu", DEFAULT_CPU.name).split(":")
    kernels = wanted.get("kernel", DEFAULT_KERNEL.name).split(":")
    source, target = (
        MachineKind(
            cpu=cpu_named(cpus[at]),
            kernel=kernel_named(kernels[at]),
            base=base,
            builds=builds,
            driver=Driver(wanted.get("driver", Driver.CRIU.value)),
        )
        for at in (0, -1)
    )
    for kind in (source, target):
        lab.template(kind)
    return source, target


@pytest.fixture
def machine_kind(machine_kinds: tuple[MachineKind, MachineKind]) -> MachineKind:
    """Return the machine of the test's ``machine`` marker (the source, of two), its template made."""
    return machine_kinds[0]


@pytest.fixture
def run_scenario(
    lab: Lab,
    machine_kinds: tuple[MachineKind, MachineKind],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> RunScenario:
    """Return a function that runs one scenario on the test's machines and gives its result.

    Its parameters: ``module`` (KeyModule), ``criu`` ("NAME" or "DUMP:RESTORE", names or directories
    of builds; default: the first of the machine's), ``workload`` (a name), ``cycles``, ``driver`` (a name),
    ``runner`` (a ScenarioRun class). An infrastructure error fails the test as such.
    """
    source, target = machine_kinds

    def run(
        module: KeyModule = KeyModule.NONE,
        *,
        criu: str = source.builds[0].name,
        workload: str = "python-sleeper",
        cycles: int = 1,
        driver: str | None = None,
        runner: type[ScenarioRun] = ScenarioRun,
    ) -> ScenarioResult:
        names = criu.split(":")
        scenario = Scenario(
            source=MachineSpec(cpu=source.cpu, kernel=source.kernel),
            target=MachineSpec(cpu=target.cpu, kernel=target.kernel),
            criu_dump=criu_of(names[0]),
            criu_restore=criu_of(names[-1]),
            module=module,
            workload=load_workload(workload),
            base=source.base.base,
            driver=Driver(driver) if driver else source.driver,
            cycles=cycles,
        )
        options = RunOptions(results=tmp_path, command=f"pytest {request.node.nodeid}", builds=source.builds)
        result = allure.reported(runner(scenario.slug, scenario, source.base, lab, options))
        assert result.outcome is not Outcome.INFRA_ERROR, result.reason
        return result

    return run
