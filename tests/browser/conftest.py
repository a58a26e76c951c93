"""A page as `criu-pac report` makes it, in headless Chromium; skipped where there is none."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.catalogue.bases import base
from harness.catalogue.outcome import Outcome, Verdict
from harness.catalogue.scenario import Driver
from harness.cli import main
from harness.reporting.jsonl import append_result
from harness.reporting.page import html
from harness.scenario.arms import Arm
from harness.scenario.fake_results import result
from harness.scenario.matrix import Dimensions, matrix
from harness.scenario.result import ScenarioResult

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    Open = Callable[..., Page]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PHASES: Any = {
    "phases": {
        "template": 4.1,
        "clone": 0.31,
        "hold": 1.52,
        "dump": 0.47,
        "restore": 0.35,
        "watch": 0.91,
        "evidence": 0.25,
    }
}
HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\x00\u2028 --> <!--"
)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Give a headless Chromium: the system's, as Playwright's own is another download."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium here: install Debian's package chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program)
        yield started
        started.close()


@pytest.fixture
def opened(browser: "Browser") -> "Iterator[Open]":
    """Return a function that opens a file; afterwards nothing was asked of a network, and nothing complained.

    Its keywords are those of Browser.new_context: the size of the window, the colour scheme.
    """
    asked: list[str] = []
    complaints: list[str] = []
    contexts = []

    def open_page(path: Path, **kind: Any) -> "Page":
        context = browser.new_context(offline=True, **kind)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    hacked = [context.pages[0].evaluate("window.hacked ?? null") for context in contexts]
    for context in contexts:
        context.close()
    assert hacked == [None] * len(hacked), "text of a result ran as a program"
    assert complaints == []
    assert asked
    assert [url for url in asked if not url.startswith("file://")] == []
    assert len(asked) == len(contexts), "the page needs nothing but itself"


def results(every: int) -> list[ScenarioResult]:
    """Return a result for one of so many cells of the selection full, every verdict and driver among them."""
    full, _ = matrix("full", Dimensions(), base("debian-13"))
    cells = [one for at, one in enumerate(full) if at % every == 0 or one.driver is not Driver.CRIU]
    others = (Outcome.SURVIVED, Outcome.SIGNED_PC_FAULT, Outcome.HUNG, Outcome.INVALID, Outcome.INFRA_ERROR)
    unexpected = {7 * at: outcome for at, outcome in enumerate(others * 3)}
    made = [
        result(Arm(name=cell.slug, scenario=cell), unexpected.get(at), **PHASES)
        for at, cell in enumerate(cells)
    ]
    assert {one.verdict for one in made} == set(Verdict)
    return made


def hostile(made: ScenarioResult) -> ScenarioResult:
    """Return it with text of a kind that no run gives, wherever text can be."""
    premises = tuple(
        replace(one, name=HOSTILE if at == 0 else one.name) for at, one in enumerate(made.premises)
    )
    return replace(
        made, reason=HOSTILE, signal=HOSTILE, qemu=HOSTILE, phases={HOSTILE: 1.0}, premises=premises
    )


def write_evidence(place: Path, made: ScenarioResult) -> None:
    """Write what the harness collects, and in one log what it never would."""
    read = made.registers
    thread = {"nstid": 33, "pc": read.pc, "lr": read.lr, "sp": 0xFFFFEA381610, "pstate": 0x80001000}
    values = {name: value if name == "nstid" else f"0x{value or 0:016x}" for name, value in thread.items()}
    values["insn_mask"] = f"0x{read.pac_mask or 0:016x}"
    general = {f"x{number}": f"0x{number:016x}" for number in range(30)}
    place.mkdir()
    (place / "registers.json").write_text(json.dumps({"threads": [values], "general": general}))
    (place / "command.txt").write_text("criu-pac matrix --criu 3.17.1 --kernel 6.1 --cpu neoverse-v1\n")
    (place / "dump-1.log").write_text("(00.000001) a line of the dump\n" * 400)
    (place / "kernel.log").write_text(f"python3[452]: unhandled exception\n{HOSTILE}\n")
    (place / "what? #1 <i>.txt").write_text("a file of an odd name")


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a few hundred cells."""
    directory = tmp_path_factory.mktemp("results")
    made = results(12)
    made[0] = hostile(made[0])
    for one in made:
        append_result(directory, one)
    faulted = next(one for one in made if one.outcome is Outcome.SIGNED_PC_FAULT)
    for one in (made[0], faulted):
        assert one.evidence
        write_evidence(directory / one.evidence, one)
    assert main(["report", str(directory)]) == 0
    return directory / "report.html"


@pytest.fixture(scope="session")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of more than 5,000 cells, all with evidence."""
    directory = tmp_path_factory.mktemp("large")
    made = results(1)
    assert len(made) > 5000
    write_evidence(directory / "evidence", made[0])
    written = directory / "report.html"
    text = html(directory, [one.record() | {"evidence": "evidence"} for one in made])
    written.write_text(text, encoding="utf-8")
    return written


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where screenshots go: $CRIU_PAC_SCREENSHOTS, or pytest's temporary directory."""
    place = os.environ.get("CRIU_PAC_SCREENSHOTS")
    directory = Path(place) if place else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory
