"""pytest plugin: fixtures that run scenarios in real machines.

Provisioning, templates and clones are made in fixtures, so that their failures are ERRORs;
dump, restore and what they lead to happen in the test's own call, or are a result for it to judge,
so that theirs are FAILURES.
"""

import os
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
from harness.core.errors import HarnessError
from harness.core.rundir import sweep
from harness.guest.workload import load_workload
from harness.machines.capacity import machines_at_once
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.provision.criu_build import criu_of
from harness.pytest_plugin.dimensions import (
    METAVARS,
    PIN,
    WORKLOADS_INI,
    cells_of,
    option_limits,
    selection,
    within,
    workload_directories,
)
from harness.reporting import allure
from harness.scenario.choices import part
from harness.scenario.lab import Lab, MachineKind
from harness.scenario.matrix import SELECTIONS
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

RunScenario = Callable[..., ScenarioResult]


_MARKER = (
    "machine(cpu=NAME, kernel=NAME, base=NAME, criu=[NAME, ...], driver=NAME, workloads=[NAME, ...]): the "
    "machine the test runs in; SRC:DST for cpu or kernel restores on another one, criu lists the builds "
    "in it, driver what calls them, workloads what it holds besides those in every machine"
)


_CELLS = "harness.pytest_plugin.cells"  # by name: pytest imports it, and rewrites its assertions
pytest_plugins = [_CELLS]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the dimensions of the matrix, spelled as for `criu-pac matrix`, and where workloads are."""
    group = parser.getgroup("criu-pac", "cells of the matrix, for tests that ask for the fixture scenario")
    group.addoption(
        "--selection",
        dest="criu_pac_selection",
        metavar="|".join(SELECTIONS),
        help="The cells to start from; default: the upstream report, without and with the key module.",
    )
    for name, metavar in METAVARS.items():
        group.addoption(
            f"--{name}",
            dest=f"criu_pac_{name}",
            action="append",
            metavar=metavar,
            help=f"Replaces the {name} of the selection; may be repeated.",
        )
    group.addoption(
        "--shard", dest="criu_pac_shard", metavar="I/N", help="Only the I-th of N parts of all tests."
    )
    parser.addini(WORKLOADS_INI, "directories with workloads of this project", type="paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and refuse options that name what does not exist."""
    config.addinivalue_line("markers", _MARKER)
    for name in METAVARS:
        text = f"{PIN}{name}(VALUE, ...): hold a test's cells to these values, spelled as for --{name}"
        config.addinivalue_line("markers", text)
    try:
        within(option_limits(config), workload_directories(config))
        selection(config)
        part((), config.getoption("criu_pac_shard"))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for ``scenario``, directly or by another fixture, once for each of its cells."""
    fixtures = metafunc._arg2fixturedefs.get("scenario", ())  # noqa: SLF001 -- tells whose fixture it is
    if not fixtures or fixtures[-1].func.__module__ != _CELLS:
        return
    definition = metafunc.definition
    try:
        chosen, excluded = cells_of(metafunc.config, definition.iter_markers())
    except HarnessError as error:
        pytest.fail(f"{definition.nodeid}: {error}", pytrace=False)
    params = [pytest.param(cell, id=cell.id) for cell in chosen]
    if not params:
        reason = "; ".join(sorted({one.reason for one in excluded}))
        params = [pytest.param(None, id="left-out", marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize("scenario", params, indirect=True)


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this shard's tests."""
    kept = part(items, config.getoption("criu_pac_shard"))
    if len(kept) < len(items):
        ours = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in ours])
        items[:] = kept


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Return the workers of ``-n auto``: as many as machines fit; xdist's own variable goes first."""
    return None if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else machines_at_once()


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
            workloads=tuple(load_workload(name) for name in wanted.get("workloads", ())),
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
            workload=load_workload(workload, *workload_directories(request.config)),
            base=source.base.base,
            driver=Driver(driver) if driver else source.driver,
            cycles=cycles,
        )
        options = RunOptions(
            results=tmp_path,
            command=f"pytest {request.node.nodeid}",
            builds=source.builds,
            workloads=source.workloads,
        )
        result = allure.reported(runner(scenario.slug, scenario, source.base, lab, options))
        assert result.outcome is not Outcome.INFRA_ERROR, result.reason
        return result

    return run
