"""Which cells a selection has, and which are left out."""

import dataclasses
from collections import Counter

import pytest

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS, NOPAUTH_CPU
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.known_issues import known_issue
from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import Driver, KeyModule, Scenario
from harness.core.errors import ExitCode, UsageError
from harness.guest.workload import load_workload
from harness.scenario.matrix import SELECTIONS, Dimensions, arms_of, matrix, matrix_exit, shard

BASE = BASES["debian-13"]
NOTHING = Dimensions()


def cells(selection: str | None, wanted: Dimensions = NOTHING) -> list[Scenario]:
    return matrix(selection, wanted, BASE)[0]


def expected(cell: Scenario) -> Outcome:
    issue = known_issue(cell)
    return issue.outcome if issue else predict(cell).outcome


def test_sizes_of_the_selections() -> None:
    sizes = {name: len(cells(name)) for name in SELECTIONS}
    assert 10 <= sizes["smoke"] <= 16
    assert 50 <= sizes["standard"] <= 90
    assert sizes["full"] > 1000
    assert len(cells(None)) == 2


@pytest.mark.parametrize("selection", [*SELECTIONS, None])
def test_every_cell_is_there_once_and_has_an_expectation(selection: str | None) -> None:
    found = cells(selection)
    assert [one for one, count in Counter(cell.id for cell in found).items() if count > 1] == []
    assert len({arm.name for arm in arms_of(found)}) == len(found)
    for cell in found:
        assert expected(cell) is not Outcome.INVALID
    assert [cell.id for cell in found] == [cell.id for cell in cells(selection)], "the order is stable"


def test_smoke_removes_each_condition_of_the_report_alone() -> None:
    plain = [cell for cell in cells("smoke") if cell.module is KeyModule.NONE and cell.cycles == 1]
    sleepers = [cell for cell in plain if cell.workload.name == "python-sleeper"]
    start = next(cell for cell in sleepers if expected(cell) is Outcome.SIGNED_PC_FAULT)
    alone = [
        dataclasses.replace(start, source=one, target=one)
        for name in ("neoverse-n1", NOPAUTH_CPU.name)
        for one in [dataclasses.replace(start.source, cpu=CPUS[name])]
    ]
    alone.append(dataclasses.replace(start, base=BASES["debian-12"]))
    for cell in alone:
        assert cell in sleepers
        assert expected(cell) is Outcome.SURVIVED


def test_smoke_loads_an_old_image_with_and_without_pac() -> None:
    old = [
        cell
        for cell in cells("smoke")
        if (cell.criu_dump.name, cell.criu_restore.name) == ("3.17.1", "4.2.1")
    ]
    assert {cell.source.cpu.pac: expected(cell) for cell in old} == {
        True: Outcome.SIGNED_PC_FAULT,
        False: Outcome.SURVIVED,
    }


def test_given_dimensions_replace_the_selections_and_the_others_stay() -> None:
    wanted = Dimensions(module=(KeyModule.PLUGIN,), kernel=((KERNELS["6.12"], KERNELS["6.12"]),))
    found = cells("smoke", wanted)
    assert {cell.module for cell in found} == {KeyModule.PLUGIN}
    assert {cell.source.kernel.name for cell in found} == {"6.12"}
    assert {cell.base.name for cell in found} == {"debian-12", "debian-13"}
    assert len(found) < len(cells("smoke")), "cells that became equal are there once"


def test_given_dimensions_without_a_selection_multiply() -> None:
    builds = tuple((CRIU_BUILDS[name], CRIU_BUILDS[name]) for name in ("3.17.1", "4.2.1"))
    modules = (KeyModule.NONE, KeyModule.PLUGIN)
    found = cells(None, Dimensions(criu=builds, module=modules, cycles=(1, 5)))
    assert len(found) == 8
    assert {cell.source.cpu.name for cell in found} == {"neoverse-v1"}


def test_two_workloads_of_one_name_would_be_one_cell() -> None:
    one, other = (
        dataclasses.replace(load_workload("c-frames"), name="own", path=f"/{at}/own") for at in "ab"
    )
    assert len(cells(None, Dimensions(workload=(one, one), module=(KeyModule.NONE,)))) == 1
    with pytest.raises(UsageError, match="/a/own and /b/own are two workloads of one name"):
        cells(None, Dimensions(workload=(one, other)))


def test_what_makes_no_sense_is_left_out_with_a_reason() -> None:
    crossing = ((CPUS["neoverse-v1"], CPUS["neoverse-n1"]),)
    kept, excluded = matrix(
        None,
        Dimensions(
            cpu=(*crossing, (CPUS["neoverse-v1"], CPUS["neoverse-v1"])),
            driver=(Driver.CRIU, Driver.RUNC),
            module=(KeyModule.NONE, KeyModule.PLUGIN_DISABLE_AUTH),
            kernel=((KERNELS["5.10"], KERNELS["5.10"]),),
            workload=(load_workload("c-enabled-mask"), load_workload("python-sleeper")),
            cycles=(1, 5),
        ),
        BASE,
    )
    assert all(cell.workload.name == "python-sleeper" for cell in kept)
    reasons = {one.reason for one in excluded}
    for words in ("only the driver criu", "one cycle", "disable-auth is for", "cannot disable a key"):
        assert any(words in reason for reason in reasons), words


def test_an_unknown_selection_is_named() -> None:
    with pytest.raises(UsageError, match="unknown selection 'smok'; did you mean smoke"):
        cells("smok")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], ExitCode.OK),
        ([Verdict.AS_PREDICTED, Verdict.KNOWN_ISSUE], ExitCode.OK),
        ([Verdict.AS_PREDICTED, Verdict.ERROR], ExitCode.INFRASTRUCTURE),
        ([Verdict.INVALID, Verdict.ERROR], ExitCode.INVALID),
        ([Verdict.INVALID, Verdict.FIXED], ExitCode.REGRESSION),
        ([Verdict.REGRESSION, Verdict.ERROR], ExitCode.REGRESSION),
    ],
)
def test_the_worst_cell_decides(verdicts: list[Verdict], code: int) -> None:
    assert matrix_exit(verdicts) == code


def test_a_base_without_the_packages_of_a_workload_is_left_out() -> None:
    wanted = Dimensions(workload=(load_workload("redis"),), base=tuple(BASES.values()))
    chosen, excluded = matrix(None, wanted, BASE)
    assert {cell.base.name for cell in chosen} == {"debian-12", "debian-13"}
    assert {one.reason for one in excluded} == {
        f"the base ubuntu-{release} has no redis" for release in ("20.04", "24.04")
    }


@pytest.mark.parametrize(("selection", "count"), [("full", 27), ("standard", 1), ("smoke", 40)])
def test_shards_hold_every_cell_once_and_no_machine_twice(selection: str, count: int) -> None:
    chosen = cells(selection)
    parts = [shard(chosen, number, count) for number in range(1, count + 1)]
    assert sorted(cell.id for part in parts for cell in part) == sorted(cell.id for cell in chosen)
    machines = [{(cell.source, cell.target, cell.base, cell.driver) for cell in part} for part in parts]
    assert sum(map(len, machines)) == len(set().union(*machines)), "a template is made in one part only"
    sizes = [len(one) for one in machines]
    assert max(sizes) - min(sizes) <= 1
