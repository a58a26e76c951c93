"""The rooms of the package: who may import whom, who owns what, and how long a file may get."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the ground up: a room imports those above it in this list, and itself.
ROOMS = (
    *("core", "catalogue", "parsing", "provision", "machines", "guest", "key_module", "doctor"),
    *("scenario", "reporting", "pytest_plugin", "cli"),
)
# These two are both doors: neither imports the other.
DOORS = {"pytest_plugin", "cli"}
# Every third-party package has one owner.
OWNERS = {
    "elftools": "parsing",
    "google": "parsing",
    "debian": "provision",
    "filelock": "provision",
    "httpx": "provision",
    "platformdirs": "provision",
    "pysequoia": "provision",
    "ziglang": "provision",
    "zstandard": "provision",
    "pexpect": "machines",
    "qemu": "machines",
    "docker": "guest",
    "requests": "guest",  # the docker SDK lets its transport's exceptions through
    "allure": "reporting",
    "allure_commons": "reporting",
    "jinja2": "reporting",
    "rich": "reporting",
    "pytest": "pytest_plugin",
    "xdist": "pytest_plugin",
    "typer": "cli",
}
# parsing takes bytes and the catalogue takes nothing: what could reach the outside has no place there.
PURE = {"catalogue", "parsing"}
IMPURE = {
    *("asyncio", "ctypes", "glob", "http", "logging", "multiprocessing", "os", "random", "secrets"),
    *("shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "urllib"),
    *("pathlib.Path", "io.open", "open"),
}
STARTER = "harness.core.process"
# pexpect's interact needs a terminal pair, which only its own spawn makes.
MAY_START = {("harness.machines.console", "pexpect.spawn")}
STARTS = {
    *(f"subprocess.{name}" for name in ("Popen", "run", "call", "check_call", "check_output", "getoutput")),
    *(f"os.{name}" for name in ("system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp")),
    *(
        f"os.{kind}{form}"
        for kind in ("exec", "spawn")
        for form in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
    ),
    *("pty.fork", "pty.spawn", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"),
    *("pexpect.spawn", "pexpect.run"),
}
# Rooms that may name subprocess's types and exceptions for what popen gave them.
HOLDS_PROCESSES = {"core", "machines"}
# What is observed and what is predicted share no code.
PREDICTION = {"harness.catalogue.prediction", "harness.catalogue.known_issues", "harness.catalogue.verdict"}
OBSERVER = "decide"
LONGEST_FILE = 400


def imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the dotted name of everything imported anywhere in a module, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".") + ["__init__"] * is_package
            start = parents[: len(parents) - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def called(tree: ast.Module) -> Iterator[str]:
    """Yield what is called by name: "open", "os.fork"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def violations(module: str, text: str, *, is_package: bool = False) -> list[str]:
    """Return what is wrong with the module of this dotted name and source text."""
    tree = ast.parse(text)
    room = module.split(".")[1] if "." in module else ""
    names = list(imported(tree, module, is_package=is_package))
    found = [problem for name in names for problem in _import_problems(module, room, name)]
    calls = set(called(tree))
    if module != STARTER:
        found += [
            f"{module} starts processes itself: {name}"
            for name in sorted(calls & STARTS)
            if (module, name) not in MAY_START
        ]
    if room in PURE and "open" in calls:
        found.append(f"{module} opens files")
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    if OBSERVER in defined and any(_within(name, one) for name in names for one in PREDICTION):
        found.append(f"{module} decides outcomes and knows the prediction")
    if module.rpartition(".")[2] == "utils":
        found.append(f"{module}: name a module after what it holds")
    if (length := text.count("\n")) > LONGEST_FILE:
        found.append(f"{module} has {length} lines, more than {LONGEST_FILE}")
    return found


def _import_problems(module: str, room: str, name: str) -> Iterator[str]:
    top, *rest = name.split(".")
    if top == "harness":
        yield from _room_problems(module, room, rest[0] if rest else "")
    elif top not in sys.stdlib_module_names:
        if OWNERS.get(top) != room:
            owner = OWNERS.get(top, "no room: add it to the table")
            yield f"{module} imports {top}, which belongs to {owner}"
    elif top == "subprocess" and (room not in HOLDS_PROCESSES or name != "subprocess"):
        yield f"{module} imports {name}: processes are started by {STARTER}"
    if room in PURE and (top in IMPURE or name in IMPURE):
        yield f"{module} imports {name}: {room} does no input or output"


def _room_problems(module: str, room: str, other: str) -> Iterator[str]:
    if other not in ROOMS:  # harness itself, for __version__
        return
    if room == "__main__":
        if other != "cli":
            yield f"{module} imports {other}: it only opens the command line"
    elif room not in ROOMS:
        yield f"{module} imports {other}: only rooms import rooms"
    elif ROOMS.index(other) > ROOMS.index(room) or (other != room and {room, other} <= DOORS):
        yield f"{module} imports {other}, which is above {room}"


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "harness").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if "_data" not in parts:
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = list(_modules())


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[module for module, _ in MODULES])
def test_every_module_keeps_to_its_room(module: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert violations(module, text, is_package=path.name == "__init__.py") == []


def test_every_directory_of_the_package_is_a_known_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    rooms |= {path.stem for path in (ROOT / "harness").glob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(ROOMS)
    assert "core" in rooms  # an empty tree would pass everything above


@pytest.mark.parametrize("suffix", [".py", ".c", ".h"])
def test_no_file_is_too_long(suffix: str) -> None:
    where = ("harness", "tests", "workloads", "containers", "benchmarks")
    files = [path for name in where for path in (ROOT / name).rglob(f"*{suffix}")]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize(
    ("module", "text", "problem"),
    [
        ("harness.core.x", "import harness.catalogue.cpus", "imports catalogue, which is above core"),
        ("harness.core.x", "from harness import catalogue", "imports catalogue"),
        ("harness.core.x", "from ..catalogue import cpus", "imports catalogue"),
        ("harness.machines.x", "def f():\n    from harness.guest import engine", "imports guest"),
        ("harness.machines.x", "if TYPE_CHECKING:\n    import harness.guest", "imports guest"),
        ("harness.cli.x", "import harness.pytest_plugin", "which is above"),
        ("harness.pytest_plugin.x", "import harness.cli", "which is above"),
        ("harness.__main__", "import harness.core", "only opens the command line"),
        ("harness", "import harness.core", "only rooms import rooms"),
        ("harness.stray", "import harness.core", "only rooms import rooms"),
        ("harness.machines.x", "import docker.errors", "imports docker, which belongs to guest"),
        ("harness.core.x", "import numpy", "no room: add it"),
        ("harness.guest.x", "import subprocess", "processes are started by"),
        ("harness.machines.x", "from subprocess import Popen", "processes are started by"),
        ("harness.machines.x", "import subprocess\nsubprocess.run(['true'])", "starts processes itself"),
        ("harness.provision.x", "import os\nos.fork()", "starts processes itself: os.fork"),
        (
            "harness.machines.x",
            "import pexpect\npexpect.spawn('sh')",
            "starts processes itself: pexpect.spawn",
        ),
        ("harness.catalogue.x", "from pathlib import Path", "does no input or output"),
        ("harness.parsing.x", "import os.path", "does no input or output"),
        ("harness.parsing.x", "open('/etc/passwd')", "opens files"),
        (
            "harness.scenario.x",
            "from harness.catalogue.prediction import predict\ndef decide(): ...",
            "knows the prediction",
        ),
        (
            "harness.scenario.x",
            "from harness.catalogue import known_issues\ndef decide(): ...",
            "knows the prediction",
        ),
        ("harness.core.utils", "", "name a module after what it holds"),
        ("harness.core.x", "\n" * 401, "401 lines"),
    ],
)
def test_a_violation_is_seen(module: str, text: str, problem: str) -> None:
    found = violations(module, text)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("harness.cli.x", "import harness.core.errors, harness.reporting\nimport typer"),
        ("harness.pytest_plugin.x", "import pytest\nfrom harness.reporting import table"),
        ("harness.core.process", "import subprocess\nsubprocess.Popen([])"),
        ("harness.machines.x", "import subprocess\nx: subprocess.Popen[bytes]"),
        ("harness.catalogue.x", "from pathlib import PurePath\nfrom harness.core.errors import UsageError"),
        ("harness.catalogue.x", "from .cpus import cpu\nfrom . import bases"),
        ("harness.__main__", "from harness.cli import main"),
        ("harness.cli.x", "from harness import __version__"),
        ("harness.scenario.x", "from harness.catalogue.outcome import Outcome\ndef decide(): ..."),
        ("harness.core.x", "\n" * 400),
    ],
)
def test_what_is_allowed_passes(module: str, text: str) -> None:
    assert violations(module, text) == []


def test_relative_imports_of_a_package_start_at_itself() -> None:
    assert violations("harness.core", "from . import errors", is_package=True) == []
    assert violations("harness.core", "from ..catalogue import cpus", is_package=True) != []
