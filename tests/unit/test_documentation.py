"""The documentation: its links lead somewhere, and what it says of commands is so."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from harness.catalogue.bases import BASES
from harness.catalogue.cpus import CPUS
from harness.catalogue.criu_builds import CRIU_BUILDS
from harness.catalogue.kernels import KERNELS
from harness.catalogue.known_issues import KNOWN_ISSUES
from harness.cli import PROGRAM, app
from harness.guest.workload import available_workloads

ROOT = Path(__file__).parents[2]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PLACES = ("docs", "containers", "workloads")
PAGES = sorted([*ROOT.glob("*.md"), *(page for name in PLACES for page in (ROOT / name).rglob("*.md"))])

# ```sh ... ```
_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
# [text](where "title"), ![picture](where)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)[^)]*\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_CODE = re.compile(r"`(?P<text>[^`\n]+)`")


def links(text: str) -> list[str]:
    """Return where the links of a page lead, code left out."""
    return [found["target"] for found in _LINK.finditer(_CODE.sub("", _BLOCK.sub("", text)))]


def anchors(text: str) -> set[str]:
    """Return the names of a page's headings, as GitHub and mkdocs make them of plain ones."""
    titles = (found["text"].lower() for found in _HEADING.finditer(_BLOCK.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def broken(page: Path, target: str) -> str | None:
    """Return what is wrong with a link of ``page``, None for a good one or one to another site."""
    if re.match(r"https?://", target):
        return None
    name, _, anchor = unquote(target).partition("#")
    file = (page.parent / name).resolve() if name else page
    if not file.exists():
        return f"{page.name}: {target}: no such file"
    if not file.is_relative_to(ROOT):
        return f"{page.name}: {target}: not in the repository"
    if anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
        return f"{page.name}: {target}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    problems = (broken(page, target) for target in links(page.read_text(encoding="utf-8")))
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x](no-such-file.md)", "no such file"),
        ("![x](docs/no-such-picture.svg)", "no such file"),
        ("[x](docs/reference/results.md#no-such-heading)", "no such heading"),
        ("[x](#no-such-heading)", "no such heading"),
        ("[x](../..)", "not in the repository"),
    ],
)
def test_a_broken_link_is_seen(text: str, problem: str) -> None:
    [target] = links(text)
    assert problem in str(broken(README, target))


def test_good_links_pass_and_code_is_no_link() -> None:
    assert broken(README, "docs/reference/results.md#exit-codes") is None
    assert links("`[x](y)`\n```sh\n[x](y)\n```\n[a](b) ![c](d.svg)\n") == ["b", "d.svg"]
    assert len(links(README.read_text(encoding="utf-8"))) > 20


def load_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", ROOT / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load_hooks()


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below and including ``command`` with the words that call it."""
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, *path, name)


COMMANDS = dict(commands(typer.main.get_command(app), PROGRAM))


def options(command: Any) -> set[str]:
    return {name for one in command.params for name in one.opts if name.startswith("-")} | {"--help"}


def test_the_reference_names_every_command_and_option(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown((ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8"))
    sections = dict(re.findall(r"^#+ `(criu-pac [a-z ]+)`$(.*?)(?=^#+ `|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == {" ".join(path) for path in COMMANDS if len(path) > 1}
    for path, command in COMMANDS.items():
        section = sections.get(" ".join(path), text)
        assert [
            name for name in options(command) if f"`{name}" not in section and f", {name}" not in section
        ] == []
    assert len(sections) > 10


def test_the_catalogue_names_everything(hooks: ModuleType) -> None:
    text = hooks.on_page_markdown((ROOT / "docs" / "reference" / "catalogue.md").read_text(encoding="utf-8"))
    names = [*CPUS, *KERNELS, *CRIU_BUILDS, *BASES, *available_workloads(), *(one.id for one in KNOWN_ISSUES)]
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_every_generated_part_has_its_place(hooks: ModuleType) -> None:
    marked = [
        name
        for page in PAGES
        for name in re.findall(r"<!-- generated: (\S+) -->", page.read_text(encoding="utf-8"))
    ]
    assert sorted(marked) == sorted(hooks.PARTS)
    with pytest.raises(KeyError, match="no-such-part"):
        hooks.on_page_markdown("<!-- generated: no-such-part -->")


@pytest.mark.parametrize(
    ("html", "found"),
    [
        (
            '<link rel="stylesheet" href="https://fonts.googleapis.com/css">',
            ["https://fonts.googleapis.com/css"],
        ),
        ('<script defer src="//unpkg.com/x.js">', ["//unpkg.com/x.js"]),
        ("<img alt=x src=http://example.org/a.png>", ["http://example.org/a.png"]),
        ('<img src="explanation/timeline.svg"><a href="https://example.org">there</a>', []),
    ],
)
def test_what_a_page_would_fetch_is_seen(hooks: ModuleType, html: str, found: list[str]) -> None:
    assert hooks.from_network(html) == found


def called(text: str) -> Iterator[list[str]]:
    """Yield the words of every call of criu-pac in the code of a page, what stands in for words included."""
    lines = [
        line.removeprefix("$ ") for found in _BLOCK.finditer(text) for line in found["text"].splitlines()
    ]
    lines += [found["text"] for found in _CODE.finditer(_BLOCK.sub("", text))]
    for line in lines:
        if line.startswith(f"{PROGRAM} "):
            yield shlex.split(line.partition("||")[0], comments=True)


def misuse(words: list[str]) -> str | None:
    """Return what is wrong with a call as documented, None for one whose command and options exist."""
    path: tuple[str, ...] = (words[0],)
    for word in words[1:]:
        if (*path, word) not in COMMANDS:
            break
        path = (*path, word)
    rest, command = words[len(path) :], COMMANDS[path]
    if (
        rest
        and getattr(command, "commands", None)
        and re.fullmatch(r"[a-z-]+", rest[0])
        and rest[0][0] != "-"
    ):
        return f"{' '.join(words)}: no command {rest[0]}"
    for word in rest:
        if re.fullmatch(r"-{1,2}[a-z-]+", word) and word not in options(command):
            return f"{' '.join(words)}: no option {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_documented_calls_exist(page: Path) -> None:
    problems = (misuse(words) for words in called(page.read_text(encoding="utf-8")))
    assert [problem for problem in problems if problem] == []


def test_a_call_that_does_not_exist_is_seen() -> None:
    text = (
        "`criu-pac repor`, `criu-pac repro --contrl`, `criu-pac cache prun`\n```sh\ncriu-pac matrix -z\n```\n"
    )
    assert len([words for words in called(text) if misuse(words)]) == 4
    assert [*called(README.read_text(encoding="utf-8"))]


def command_blocks(page: Path) -> list[str]:
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [one["text"] for one in found if one["kind"] in {"sh", "console"}]


def test_both_readmes_give_the_same_commands() -> None:
    assert command_blocks(CHINESE) == command_blocks(README) != []
    rows = r"^\| `criu-pac [^|]*\|"
    english, chinese = (
        re.findall(rows, page.read_text(encoding="utf-8"), re.MULTILINE) for page in (README, CHINESE)
    )
    code = [[re.findall(_CODE, row) for row in table] for table in (english, chinese)]
    assert code[0] == code[1] != []
