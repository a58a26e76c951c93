"""What machines a scenario asks the lab for, and workloads that do not compile."""

import dataclasses
from pathlib import Path
from typing import cast

import pytest

from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.scenario import Driver
from harness.catalogue.workloads import Workload
from harness.core.errors import WorkloadError
from harness.guest.workload import load_workload
from harness.provision.context import Provision
from harness.provision.prepared_base import PreparedBase
from harness.provision.settings import Settings
from harness.scenario.lab import Lab, kinds_of
from harness.scenario.matrix import DEFAULT_BASE, Dimensions, matrix
from harness.scenario.options import RunOptions

START = matrix(None, Dimensions(), DEFAULT_BASE)[0][0]
BASE = cast("PreparedBase", None)


def foreign(name: str, path: Path = Path("/there")) -> Workload:
    return dataclasses.replace(load_workload("c-frames"), name=name, path=str(path / name))


def test_machines_hold_what_the_run_needs_and_what_the_cell_does() -> None:
    cell = dataclasses.replace(START, driver=Driver.RUNC, workload=foreign("mine"))
    others = (load_workload("c-tree"), foreign("other"), foreign("mine", Path("/elsewhere")))
    builds = (CRIU_BUILDS["4.2.1"], cell.criu_dump)
    source, target = kinds_of(cell, BASE, RunOptions(results=Path(), builds=builds, workloads=others))
    assert source == target
    assert {one.name for one in source.builds} == {"4.2.1", "3.17.1"}
    assert [one.path for one in source.workloads] == ["/there/other", "/there/mine"], "the cell's own counts"
    assert source.driver is Driver.RUNC


def test_without_options_there_is_what_the_cell_needs() -> None:
    target = dataclasses.replace(START.target, cpu=CPUS["neoverse-n1"])
    cell = dataclasses.replace(START, target=target, criu_restore=CRIU_BUILDS["4.2.1"])
    kinds = kinds_of(cell, BASE, RunOptions(results=Path()))
    assert [kind.cpu.name for kind in kinds] == ["neoverse-v1", "neoverse-n1"]
    assert [one.name for one in kinds[0].builds] == ["3.17.1", "4.2.1"]
    assert kinds[0].workloads == (), "the harness's own are in every machine"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(Provision(Settings.from_environment({"CRIU_PAC_CACHE": str(tmp_path / "cache")})))


def test_a_workload_that_does_not_compile_is_its_own_error(lab: Lab, tmp_path: Path) -> None:
    good, bad = foreign("good", tmp_path), foreign("bad", tmp_path)
    for one, text in ((good, '#include "two.h"\nint main(void) { return TWO; }\n'), (bad, "int main(;\n")):
        Path(str(one.path)).mkdir()
        Path(str(one.path), "main.c").write_text(text)
    Path(str(good.path), "two.h").write_text("enum { TWO = 2 };\n")
    with pytest.raises(WorkloadError, match=r"^workload .*/bad does not compile: .*exit code 1: .*main.c:1:"):
        lab.check_workload(bad)
    assert list(lab._usable([bad, good, bad])) == [good]
    before = lab._compiled(good).read_bytes()
    Path(str(good.path), "two.h").write_text("enum { TWO = 3 };\n")
    assert lab._compiled(good).read_bytes() != before, "a header counts"
