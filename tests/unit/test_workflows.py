"""CI's workflows and the action for others: valid, and made of commands that exist."""

import argparse
import configparser
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ruamel.yaml import YAML

from harness import cli
from harness.catalogue.cpus import DEFAULT_CPU
from harness.catalogue.criu_builds import DEFAULT_CRIU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.cli import backend
from harness.core.errors import ExitCode, HostError

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PREPARE = ROOT / ".github" / "actions" / "prepare" / "action.yml"
ACTIONS = [ROOT / "action.yml", PREPARE]
TOX = ".venv/bin/tox"
POSARGS = "{posargs}"
RUNNERS = {"ubuntu-24.04", "ubuntu-22.04-arm", "ubuntu-24.04-arm"}


def document(path: Path) -> dict[str, Any]:
    loaded = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def steps_of(path: Path) -> list[dict[str, Any]]:
    """Return the steps of a workflow's jobs, or of an action."""
    content = document(path)
    if "runs" in content:
        return list(content["runs"]["steps"])
    return [step for job in content["jobs"].values() for step in job["steps"]]


def expanded(job: Mapping[str, Any], text: str) -> Iterator[str]:
    """Yield the text for the combinations of the first and last values of the job's matrix."""
    axes = job.get("strategy", {}).get("matrix", {})
    for values in itertools.product(*((all_[0], all_[-1]) for all_ in axes.values())):
        made = text
        for name, value in zip(axes, values, strict=True):
            made = made.replace(f"${{{{ matrix.{name} }}}}", str(value))
        yield made


def lines_of_workflows() -> list[str]:
    """Return every command of every workflow, each once."""
    found = {
        line: None
        for path in WORKFLOWS
        for job in document(path)["jobs"].values()
        for step in job["steps"]
        if "run" in step
        for made in expanded(job, step["run"])
        for line in made.splitlines()
    }
    return list(found)


def problem(line: str) -> str | None:
    """Return why a line is no tox environment or no command of the harness; None when it is one."""
    if "${{" in line:
        return "an expression is left in it"
    program, *words = shlex.split(line)
    if program != TOX:
        return f"{program} is not tox"
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(ROOT / "tox.ini", encoding="utf-8")
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-e", dest="names", default=ini["tox"]["env_list"])
    options, arguments = words, []
    if "--" in words:
        options, arguments = words[: words.index("--")], words[words.index("--") + 1 :]
    known, unknown = parser.parse_known_args(options)
    if unknown:
        return f"not an option of tox used here: {unknown}"
    problems = (problem_with(ini, name, arguments) for name in re.split(r"[,\s]+", known.names))
    return next(filter(None, problems), None)


def problem_with(ini: configparser.ConfigParser, name: str, arguments: list[str]) -> str | None:
    """Return why an environment cannot be run with these arguments.

    Commands of the harness are run as far as the lab: then everything they were given was understood.
    """
    section = f"testenv:{name}"
    if not ini.has_section(section):
        return f"tox.ini has no {name}"
    commands = [shlex.split(one) for one in ini[section]["commands"].splitlines() if one]
    if arguments and not any(POSARGS in command for command in commands):
        return f"{name} takes no arguments"
    for command in commands:
        given = [one for word in command[1:] for one in (arguments if word == POSARGS else [word])]
        if command[0] == "criu-pac" and cli.main(given) == ExitCode.USAGE:
            return f"criu-pac does not take {given}"
    return None


@pytest.fixture(autouse=True)
def _no_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> NoReturn:
        raise HostError("far enough")

    monkeypatch.setattr(backend, "open_lab", raises)
    monkeypatch.setenv("CRIU_PAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def validated(schema: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    # By schemas that come with the program; a proxy that is not there shows that no other is asked for.
    environment = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, paths)]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("schema", "paths", "old", "new"),
    [
        ("vendor.github-workflows", WORKFLOWS, "runs-on:", "run-on:"),
        ("custom.github-workflows-require-timeout", WORKFLOWS, "timeout-minutes:", "#"),
        ("vendor.github-actions", ACTIONS, "shell: bash", ""),
    ],
)
def test_the_schema_is_kept_and_a_breach_is_seen(
    tmp_path: Path, schema: str, paths: list[Path], old: str, new: str
) -> None:
    done = validated(schema, *paths)
    assert done.returncode == 0, done.stdout + done.stderr
    text = paths[0].read_text("utf-8")
    assert old in text
    broken = tmp_path / paths[0].name
    broken.write_text(text.replace(old, new), "utf-8")
    assert validated(schema, *paths[1:], broken).returncode == 1


@pytest.mark.parametrize("line", lines_of_workflows())
def test_every_line_is_a_tox_environment_or_a_command_of_the_harness(line: str) -> None:
    assert problem(line) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("make test", "make is not tox"),
        (f"{TOX} -e reproduce", "tox.ini has no reproduce"),
        (f"{TOX} -e lint,nope", "tox.ini has no nope"),
        (f"{TOX} --frob", "not an option of tox"),
        (f"{TOX} -e lint -- --fix", "lint takes no arguments"),
        (f"{TOX} -e repro -- --controls", "does not take"),
        (f"{TOX} -e repro -- --kernel 9", "does not take"),
        (f"{TOX} -e criu-pac -- matrices", "does not take"),
        (f"{TOX} -e criu-pac -- matrix --shard 28/27", "does not take"),
        (f"{TOX} -e criu-pac -- report a b", "does not take"),
        (f"{TOX} -e repro -- --results ${{{{ matrix.place }}}}", "an expression is left"),
    ],
)
def test_a_line_that_is_none_is_seen(line: str, told: str) -> None:
    assert told in str(problem(line))


def test_what_prepares_a_runner_is_how_the_readme_begins() -> None:
    [line] = [step["run"] for step in steps_of(PREPARE) if "run" in step]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"\n{line} && {TOX}\n" in readme
    assert f"\n{line} && {TOX} -e repro\n" in readme


def test_the_action_gives_the_harness_what_it_was_given() -> None:
    content = document(ROOT / "action.yml")
    assert set(content["inputs"]) == {"criu", "kernel", "cpu", "workload"}
    [step] = [one for one in content["runs"]["steps"] if "env" in one]
    for name in content["inputs"]:
        assert step["env"][name.upper()] == f"${{{{ inputs.{name} }}}}"
        assert f'--{name} "${name.upper()}"' in step["run"]
    scripts = [one["run"] for one in content["runs"]["steps"] if "run" in one]
    assert not any("${{" in script for script in scripts), "an input must not become a piece of a script"


def test_what_the_action_takes_by_default_is_the_default_and_documented() -> None:
    table = (ROOT / "docs" / "how-to" / "ci.md").read_text("utf-8")
    given = {name: one["default"] for name, one in document(ROOT / "action.yml")["inputs"].items()}
    defaults = {"criu": DEFAULT_CRIU.name, "kernel": DEFAULT_KERNEL.name, "cpu": DEFAULT_CPU.name}
    assert given == {**defaults, "workload": "python-sleeper"}
    for name, value in given.items():
        assert f"| `{name}` | `{value}` |" in table


def test_the_runners_are_the_three_and_shards_are_complete() -> None:
    jobs = {name: job for path in WORKFLOWS for name, job in document(path)["jobs"].items()}
    assert set(jobs["tests"]["strategy"]["matrix"]["runner"]) == RUNNERS
    shards = jobs["matrix"]["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    [line] = [step["run"] for step in jobs["matrix"]["steps"] if "run" in step]
    assert f" --shard ${{{{ matrix.shard }}}}/{len(shards)} " in line


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: str(path.relative_to(ROOT)))
def test_used_actions_have_a_version_or_are_here(path: Path) -> None:
    for used in (step["uses"] for step in steps_of(path) if "uses" in step):
        if used.startswith("./"):
            assert (ROOT / used / "action.yml").is_file()
        else:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", used)


@pytest.mark.parametrize("path", ACTIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_kept_between_runs_is_keyed_by_content(path: Path) -> None:
    [kept] = [step["with"] for step in steps_of(path) if step.get("uses", "").startswith("actions/cache@")]
    hashed = re.findall(r"hashFiles\('([^']+)'\)", kept["key"])
    digests = re.findall(r"steps\.(\w+)\.outputs\.digest", kept["key"])
    assert len(hashed) + len(digests) == 1
    # Without a match, hashFiles gives nothing and the key says nothing.
    assert all((ROOT / name).is_file() for name in hashed)
    assert all(any(step.get("id") == name for step in steps_of(path)) for name in digests)
    assert kept["path"].startswith("~/.cache/criu-pac-harness/")
