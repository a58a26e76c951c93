"""The package installed where nothing else is, by the lines of the action that others use, and run there."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.provision.context import Provision

CHECKOUT = Path(__file__).parents[2]
ACTION: Mapping[str, Any] = YAML(typ="safe", pure=True).load((CHECKOUT / "action.yml").read_text("utf-8"))
EXPECTED = {"none": "signed_pc_fault", "plugin": "survived"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """``results`` is where the action said that they are; ``elsewhere`` is outside of every checkout."""

    program: Path
    results: Path
    elsewhere: Path
    environment: Mapping[str, str]


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def installed(provision: Provision) -> Iterator[Installed]:
    """What the action leaves: the wheel of the sdist, in an environment of its own, and its results."""
    with tempfile.TemporaryDirectory(prefix="installed-") as name:
        place = Path(name)
        elsewhere, temporary, output = place / "elsewhere", place / "runner", place / "output"
        elsewhere.mkdir()
        temporary.mkdir()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CRIU_PAC_CACHE": str(provision.cache.root),
            "GITHUB_ACTION_PATH": str(unpacked_sdist(place)),
            "GITHUB_OUTPUT": str(output),
            "RUNNER_TEMP": str(temporary),
        }
        for step in (one for one in ACTION["runs"]["steps"] if "run" in one):
            assert step["shell"] == "bash"
            given = {key: filled_in(text) for key, text in step.get("env", {}).items()}
            # The way GitHub calls a shell named bash.
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                cwd=elsewhere, env={**environment, **given},
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        told = dict(line.split("=", 1) for line in output.read_text().splitlines())
        assert len(told["digest"]) == 64
        yield Installed(
            program=temporary / "criu-pac" / "bin" / "criu-pac",
            results=Path(told["results"]),
            elsewhere=elsewhere,
            environment=environment,
        )


def unpacked_sdist(place: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(place)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True, timeout=120)
    [packed] = place.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(place / "sdist", filter="data")
    [unpacked] = (place / "sdist").iterdir()
    return unpacked


def filled_in(text: str) -> str:
    """Return the default of the input that "${{ inputs.NAME }}" stands for."""
    default: str = ACTION["inputs"][text.removeprefix("${{ inputs.").removesuffix(" }}")]["default"]
    return default


@pytest.mark.usefixtures("machine_kind")
def test_the_action_shows_the_bug_and_the_cure(installed: Installed) -> None:
    assert {one["module"]: one["outcome"] for one in records(installed.results)} == EXPECTED
    assert (installed.results / "report.html").is_file()
    assert 'failures="0"' in (installed.results / "junit.xml").read_text()


@pytest.mark.usefixtures("machine_kind")
def test_repro_runs_from_the_installed_wheel_in_another_directory(installed: Installed) -> None:
    python = installed.program.with_name("python")
    ask = "import harness, pathlib; print(pathlib.Path(harness.__file__).parent)"
    where = subprocess.run(
        [python, "-c", ask], cwd=installed.elsewhere, env=installed.environment,
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert Path(where).is_relative_to(installed.program.parents[1]), "the installed package, not a checkout"

    # Into the default results directory, so that it is seen to work as well.
    ran = subprocess.run(
        [installed.program, "repro", "--base", "debian-13"], cwd=installed.elsewhere,
        env=installed.environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert "issue 2595" in ran.stdout
    [results] = (installed.elsewhere / "criu-pac-results").iterdir()
    assert {one["module"]: one["outcome"] for one in records(results)} == EXPECTED
    assert "criu-pac repro --cpu neoverse-v1" in (results / "command.txt").read_text()
