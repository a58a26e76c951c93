"""Fixtures of a test that is run once for each cell of the matrix."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from harness.catalogue.bases import Base
from harness.catalogue.cpus import CpuModel
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import Driver, KeyModule, Scenario
from harness.catalogue.workloads import Workload
from harness.provision.bases import prepare_base
from harness.provision.context import Provision
from harness.pytest_plugin.dimensions import command
from harness.reporting import allure
from harness.scenario.lab import Lab
from harness.scenario.matrix import CELL_SECONDS
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Scenario:
    """Return the cell the test is run for; its test is parametrized with those of options and pins."""
    cell: Scenario = request.param
    return cell


@pytest.fixture
def cell_criu(scenario: Scenario) -> tuple[CriuBuild, CriuBuild]:
    """Return the builds of CRIU that dump and restore."""
    return scenario.criu_dump, scenario.criu_restore


@pytest.fixture
def cell_kernel(scenario: Scenario) -> tuple[Kernel, Kernel]:
    """Return the kernels of source and target."""
    return scenario.source.kernel, scenario.target.kernel


@pytest.fixture
def cell_cpu(scenario: Scenario) -> tuple[CpuModel, CpuModel]:
    """Return the CPU models of source and target."""
    return scenario.source.cpu, scenario.target.cpu


@pytest.fixture
def cell_module(scenario: Scenario) -> KeyModule:
    """Return the key module."""
    return scenario.module


@pytest.fixture
def cell_driver(scenario: Scenario) -> Driver:
    """Return who calls CRIU."""
    return scenario.driver


@pytest.fixture
def cell_base(scenario: Scenario) -> Base:
    """Return the userland of the container."""
    return scenario.base


@pytest.fixture
def cell_workload(scenario: Scenario) -> Workload:
    """Return what is dumped."""
    return scenario.workload


@pytest.fixture
def cell_cycles(scenario: Scenario) -> int:
    """Return the number of dumps and restores in a row."""
    return scenario.cycles


@pytest.fixture(scope="session")
def cell_options(request: pytest.FixtureRequest) -> RunOptions:
    """Return how the cells of this session are run: their machines hold what any of them needs.

    So that cells that differ in CRIU or workload share a template. The same in every xdist worker,
    since each has all items.
    """
    params = [getattr(item, "callspec", None) for item in request.session.items]
    found = [one.params.get("scenario") for one in params if one]
    cells = [one for one in found if isinstance(one, Scenario)]
    builds = {build.name: build for cell in cells for build in (cell.criu_dump, cell.criu_restore)}
    workloads = {cell.workload.name: cell.workload for cell in cells}
    return RunOptions(
        results=Path(),
        timeout=CELL_SECONDS,
        builds=tuple(builds.values()),
        workloads=tuple(workloads.values()),
    )


@pytest.fixture
def cell_result(
    scenario: Scenario,
    cell_options: RunOptions,
    lab: Lab,
    provision: Provision,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> ScenarioResult:
    """Run the cell of the test and return its result, evidence in ``tmp_path``.

    An infrastructure error is an ERROR of the test's setup; any other outcome is the test's to judge.
    """
    words = command(request.config, request.node.nodeid)
    options = replace(cell_options, results=tmp_path, command=shlex.join(words))
    base = prepare_base(scenario.base, provision)
    result = allure.reported(ScenarioRun(scenario.slug, scenario, base, lab, options))
    if result.outcome is Outcome.INFRA_ERROR:
        pytest.fail(result.reason, pytrace=False)
    return result
