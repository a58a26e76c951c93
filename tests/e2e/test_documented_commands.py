"""The commands of README and tutorial, run as written with what a source archive installs."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.provision.context import Provision

CHECKOUT = Path(__file__).parents[2]
TOX = "python3 -m venv .venv && .venv/bin/pip install --quiet tox && .venv/bin/tox"
# What is not run here, each with its reason.
EXEMPT = {
    f"{TOX} -e repro": "criu-pac repro with tox around it, and it is run here without",
    TOX: "runs every test, this one as well; .ci/run is that line of README.md",
}
SECONDS = 400

# ```console ... ```
_BLOCK = re.compile(r"^```(?P<kind>sh|console)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# Addresses and registers, numbers, and the width of a table differ from run to run.
_ADDRESS = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{16}\b")
_NUMBER = re.compile(r"\b\d+(\.\d+)?(e-\d+)?\b")
ANYTHING = "..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """One command, and what it is said to print; nothing where nothing is said."""

    command: str
    output: tuple[str, ...] = ()


def documented(page: str) -> list[Documented]:
    """Return the commands of a page: every line of a block of sh, and what follows a $ in one of console."""
    found: list[Documented] = []
    for block in _BLOCK.finditer(page):
        lines = block["text"].splitlines()
        if block["kind"] == "sh":
            found += [Documented(command=line) for line in lines if line]
            continue
        assert lines[0].startswith("$ "), f"a block of console starts with a command: {lines[0]}"
        starts = [at for at, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            output = tuple(line for line in lines[start + 1 : end] if line)
            found.append(Documented(command=lines[start].removeprefix("$ "), output=output))
    return found


def plain(line: str) -> str:
    """Return a line without what differs from run to run."""
    line = _NUMBER.sub("#", _ADDRESS.sub("ADDRESS", line))
    return " ".join(re.sub("─+", "─", line).split())


def says(output: str, expected: tuple[str, ...]) -> bool:
    """Whether a command printed what is documented, whole but for lines of "..."."""
    lines = (plain(line) for line in expected)
    pattern = "".join(r"(?:.*\n)*?" if line == ANYTHING else f"{re.escape(line)}\n" for line in lines)
    printed = "".join(f"{plain(line)}\n" for line in output.splitlines() if line.strip())
    return re.fullmatch(pattern, printed) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Runs commands in one directory, each once: what is expensive may be documented twice."""

    directory: Path
    environment: dict[str, str]
    _ran: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        if command not in self._ran:
            self._ran[command] = subprocess.run(
                ["bash", "-c", command],
                cwd=self.directory, env=self.environment,
                capture_output=True, text=True, timeout=SECONDS, check=False,
            )  # fmt: skip
        return self._ran[command]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    place = tmp_path_factory.mktemp("source")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(place)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True, timeout=120)
    [archive] = place.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        members.extractall(place, filter="data")
    return place / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def shell(source: Path, provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in the unpacked archive; pipx installs into an empty place."""
    home = tmp_path_factory.mktemp("pipx")
    programs = Path(sys.executable).parent  # pipx is there; criu-pac of this environment must not be taken
    (home / "tools").mkdir()
    pipx = shutil.which("pipx", path=str(programs))
    assert pipx, f"pipx is a dependency of these tests and not in {programs}"
    (home / "tools" / "pipx").symlink_to(pipx)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in {"COLUMNS", "PYTHONPATH"}},
        "PATH": f"{home / 'bin'}:{home / 'tools'}:/usr/local/bin:/usr/bin:/bin",
        "PIPX_HOME": str(home / "home"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIPX_MAN_DIR": str(home / "man"),
        "CRIU_PAC_CACHE": str(provision.cache.root),
    }
    return Shell(directory=source, environment=environment)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
@pytest.mark.usefixtures("machine_kind")
def test_the_commands_of_a_page_do_what_it_says(page: str, shell: Shell) -> None:
    ran = 0
    for one in documented((CHECKOUT / page).read_text(encoding="utf-8")):
        if one.command in EXEMPT:
            continue
        result = shell.run(one.command)
        assert result.returncode == 0, f"$ {one.command}\n{result.stdout}{result.stderr}"
        if one.output:
            assert says(result.stdout, one.output), f"$ {one.command}\n{result.stdout}"
        ran += 1
    assert ran >= 2
    where = shell.run("command -v criu-pac").stdout.strip()
    assert where == str(Path(shell.environment["PIPX_BIN_DIR"]) / "criu-pac")


def test_what_is_exempt_is_in_the_readme() -> None:
    commands = {one.command for one in documented((CHECKOUT / "README.md").read_text(encoding="utf-8"))}
    assert set(EXEMPT) < commands


def test_ci_runs_the_test_command_of_the_readme(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(CHECKOUT / ".ci" / "run", tmp_path / ".ci")
    shutil.copy(CHECKOUT / "README.md", tmp_path)
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 3\n")  # instead of running everything
    (tmp_path / "python3").chmod(0o755)
    ran = subprocess.run(
        [tmp_path / ".ci" / "run"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    assert (ran.stdout, ran.returncode) == (f"+ {TOX}\n", 3)


def test_the_source_archive_holds_every_file_of_the_repository(source: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=30
    )
    tracked = {name for name in listed.stdout.split("\0") if name and not name.startswith(".")}
    assert {name for name in tracked if not (source / name).is_file()} == set()
    assert len(tracked) > 100


PAGE = """
```console
$ one
first 0x12 of 7
second
$ two
```
```text
$ no command
```
```sh
three

four
```
"""


def test_commands_and_their_output_are_found() -> None:
    assert documented(PAGE) == [
        Documented(command="one", output=("first 0x12 of 7", "second")),
        *(Documented(command=name) for name in ("two", "three", "four")),
    ]


@pytest.mark.parametrize(
    ("output", "same"),
    [
        ("first 0xabc of 12\n\nsecond\n", True),
        ("first 0xabc of 12\n", False),
        ("first 0xabc of 12\nsecond\nthird\n", False),
        ("first abc of 12\nsecond\n", False),
        ("", False),
    ],
)
def test_other_output_than_documented_is_seen(output: str, same: bool) -> None:  # noqa: FBT001
    assert says(output, documented(PAGE)[0].output) is same


def test_lines_may_be_left_out_where_the_page_says_so() -> None:
    assert says("a\nb\nc\n", (ANYTHING, "c"))
    assert not says("a\nb\nc\n", (ANYTHING, "b"))
