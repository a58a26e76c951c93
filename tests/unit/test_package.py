"""What is packed: the sdist from this tree, the wheel from the sdist."""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from harness import __version__

ROOT = Path(__file__).parents[2]
NAME = f"criu_pac_harness-{__version__}"
DIRECTORIES = {".github", "benchmarks", "containers", "docs", "examples", "harness", "tests", "workloads"}
FILES = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "action.yml", "conftest.py"}
FILES |= {"CONTRIBUTING.md", "README.zh-CN.md", "SECURITY.md", "mkdocs.yml", "mkdocs_hooks.py"}
FILES |= {"pyproject.toml", "tox.ini"}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
# What work leaves behind in a tree.
STRAY = (
    *("harness/__pycache__/core.cpython-313.pyc", "workloads/python-sleeper/__pycache__/sleeper.pyc"),
    *("harness/provision/keys/__pycache__/x.pyc", "build/lib/harness/core.py", ".venv/pyvenv.cfg"),
)


def left_behind(path: PurePosixPath) -> bool:
    return "__pycache__" in path.parts or path.suffix == ".pyc"


def tree(*names: str) -> Iterator[PurePosixPath]:
    """Yield the files below directories of this tree, relative to it."""
    for name in names:
        for path in (ROOT / name).rglob("*"):
            inside = PurePosixPath(path.relative_to(ROOT).as_posix())
            if path.is_file() and not left_behind(inside):
                yield inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Contents by name; those of the sdist without its top directory."""

    sdist: Mapping[str, bytes]
    wheel: Mapping[str, bytes]


def build(target: str, source: Path, output: Path) -> Path:
    argv = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(output)]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    [built] = output.iterdir()
    return built


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    place = tmp_path_factory.mktemp("package")
    with tarfile.open(build("sdist", ROOT, place / "sdist")) as archive:
        archive.extractall(place / "unpacked", filter="data")
    source = place / "unpacked" / NAME
    assert [path.name for path in source.parent.iterdir()] == [NAME]
    sdist = {
        path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()
    }
    for name in STRAY:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("left behind")
    with zipfile.ZipFile(build("wheel", source, place / "wheel")) as archive:
        wheel = {name: archive.read(name) for name in archive.namelist()}
    return Packed(sdist=sdist, wheel=wheel)


def test_the_sdist_is_this_tree_and_nothing_else(packed: Packed) -> None:
    assert set(packed.sdist) == {*FILES, *map(str, tree(*DIRECTORIES))}
    for name in set(packed.sdist) - {"PKG-INFO"}:
        assert packed.sdist[name] == (ROOT / name).read_bytes(), name


def test_the_wheel_is_the_package_with_its_data_and_nothing_else(packed: Packed) -> None:
    places = {str(path): path for path in tree("harness")}
    places |= {f"harness/_data/{path}": path for path in tree("workloads", "containers")}
    assert set(packed.wheel) == {*places, *(f"{NAME}.dist-info/{name}" for name in METADATA)}
    for name, path in places.items():
        assert packed.wheel[name] == (ROOT / path).read_bytes(), name


@pytest.mark.parametrize(
    "name",
    [
        "harness/_data/containers/debian-13/Dockerfile",
        "harness/_data/workloads/include/held.h",
        "harness/_data/workloads/python-sleeper/sleeper.py",
        "harness/_data/workloads/python-sleeper/workload.toml",
        "harness/guest/probe/main.c",
        "harness/key_module/src/pac_key_plugin.c",
        "harness/provision/image/init",
        "harness/provision/keys/debian-archive-trixie-stable.asc",
        "harness/provision/lock.json",
        "harness/reporting/report.html",
    ],
)
def test_what_is_read_at_run_time_is_in_the_wheel(packed: Packed, name: str) -> None:
    assert packed.wheel[name]


def test_the_wheel_brings_the_command_and_the_plugin(packed: Packed) -> None:
    entries = packed.wheel[f"{NAME}.dist-info/entry_points.txt"].decode()
    assert "criu-pac = harness.cli:main" in entries
    assert "harness.pytest_plugin = harness.pytest_plugin" in entries
