"""CPUs, kernels and programs of CRIU that the catalogue does not know, in real machines."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.cpus import CPUS, UnseenCpu
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import DEFAULT_KERNEL, KERNELS
from harness.provision.bundle import bundle
from harness.provision.context import Provision
from harness.provision.criu_build import criu_of
from harness.provision.deb import data_members
from harness.provision.packages import obtain
from harness.provision.unpack import extract
from harness.scenario.lab import Lab
from harness.scenario.observed_machine import machine_of

Matrix = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def matrix(provision: Provision, tmp_path: Path) -> Matrix:
    """Return a function that runs `criu-pac matrix`: its exit code, its records, what it told."""

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        place = tmp_path / "results"
        words = [sys.executable, "-m", "harness", "matrix", *arguments, "--results", str(place)]
        environment = {**os.environ, "CRIU_PAC_CACHE": str(provision.cache.root)}
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        file = place / "results.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for record in records:
            broken = {
                name: one for name, one in record["premises"].items() if one["declared"] != one["observed"]
            }
            assert not broken, record["id"]
            assert record["verdict"] == "as_predicted", record["reason"]
        return done.returncode, records, done.stderr

    return run


def outcomes(records: list[dict[str, Any]]) -> dict[str, str]:
    """By key module: cells of one command end in any order."""
    return {record["module"]: record["outcome"] for record in records}


@pytest.fixture(scope="module")
def linux(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with vmlinuz and modules: Debian's kernel package unpacked, as a user would have it."""
    root = tmp_path_factory.mktemp("linux")
    for _, package in obtain(DEFAULT_KERNEL.package_group, provision).packages:
        with data_members(package) as members:
            extract(members, root, wanted=lambda name: "/doc/" not in name)
    return root


@pytest.mark.parametrize(("name", "kernel"), [("neoverse-v1", "6.1"), ("max", "6.12"), ("cortex-a57", "6.1")])
def test_observing_finds_what_the_catalogue_says(lab: Lab, name: str, kernel: str) -> None:
    """For the models that are in it; one of them has addresses of 52 bits, one has no PAC."""
    seen, known = machine_of(lab, UnseenCpu(name=name), KERNELS[kernel]), CPUS[name]
    for fact in ("qemu", "pac", "fpac", "algorithm", "lva"):
        assert getattr(seen.cpu, fact) == getattr(known, fact), fact
    assert seen.va_bits == (52 if name == "max" else 48)


def test_a_cpu_of_qemu_with_properties_does_as_predicted_from_what_was_seen(matrix: Matrix) -> None:
    code, records, told = matrix("--cpu", "neoverse-n2,pmu=off")
    assert code == 0, told
    assert outcomes(records) == {"none": "fpac_fault", "plugin": "survived"}
    assert all(",pmu=off-" in record["id"] for record in records)


def test_a_kernel_and_a_criu_that_somebody_brings(
    matrix: Matrix, provision: Provision, linux: Path, tmp_path: Path
) -> None:
    """Dump on Debian's kernel, restore on the user's; a build that is none does not keep them from it."""
    criu = bundle("criu-3.17.1", provision).program("criu")
    (tmp_path / "broken").write_text("of another job\n")
    code, records, told = matrix(
        *("--kernel", f"6.1:{linux}", "--criu", str(criu), "--criu", str(tmp_path / "broken"))
    )
    assert code == 64, told
    assert f"its cells are left out: --criu {tmp_path / 'broken'} is no program of CRIU for arm64" in told
    assert outcomes(records) == {"none": "signed_pc_fault", "plugin": "survived"}
    for record in records:
        assert record["id"].startswith("criu+")
        assert "-k6.1:6.1." in record["id"]


@pytest.mark.parametrize("version", ["3.17.1", "4.1.1", "4.2.1"])
def test_a_program_tells_what_the_catalogue_says_of_it(provision: Provision, version: str) -> None:
    found = criu_of(str(bundle(f"criu-{version}", provision).program("criu")))
    known = CRIU_BUILDS[version]
    for fact in ("version", "native_keys", "restorer_protected", "plugin_hooks"):
        assert getattr(found, fact) == getattr(known, fact), fact
