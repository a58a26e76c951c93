"""The page of a matrix in a browser: what it shows, how it is used, and that it fits and can be read."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from harness.catalogue.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

    Open = Callable[..., Page]

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
# Rank of a verdict on the page: what needs a look comes first.
ORDER = ["regression", "fixed", "error", "invalid", "known_issue", "as_predicted"]
FIELDS = (
    *("verdict", "outcome", "known_issue", "criu_dump", "criu_restore", "kernel", "target_kernel"),
    *("cpu", "target_cpu", "module", "workload", "driver", "base"),
)
# The contrast of text with what is behind it (WCAG 2.2, 1.4.3, level AA), and how it is computed.
LEAST_CONTRAST = 4.5
CONTRAST = """nodes => nodes.map(node => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  let behind = node;
  while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const colours = [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
  const [low, high] = colours.map(light).sort((one, other) => one - other);
  return (high + 0.05) / (low + 0.05);
})"""


def records(report: Path) -> list[dict[str, Any]]:
    lines = (report.parent / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def faulted(report: Path) -> dict[str, Any]:
    """Return the record of the cell that died with PAC bits and has evidence."""
    return next(
        one
        for one in records(report)
        if one["outcome"] == "signed_pc_fault" and (report.parent / one["evidence"]).is_dir()
    )


def cells(page: "Page") -> "Locator":
    return page.locator("#grid button:visible")


def details(page: "Page", name: str) -> "Locator":
    """Open the cell of this name and return what is shown of it."""
    page.get_by_label("part of an id").fill(name)
    page.locator("#grid button:visible small").get_by_text(name, exact=True).click()
    return page.get_by_role("dialog", name=name)


def fits(page: "Page") -> bool:
    return bool(
        page.evaluate(
            "[document.documentElement, ...document.querySelectorAll('dialog[open]')]"
            ".every(one => one.scrollWidth <= one.clientWidth)"
        )
    )


def test_every_cell_is_there_and_what_needs_a_look_comes_first(opened: "Open", report: Path) -> None:
    page, made = opened(report), records(report)
    assert len(made) > 400
    assert cells(page).count() == len(made)
    shown = page.locator("#grid .verdict").evaluate_all("all => all.map(one => one.className.split(' ')[1])")
    assert shown == sorted(shown, key=ORDER.index)
    assert set(shown) == {one.value for one in Verdict}
    summary = page.get_by_role("status").inner_text()
    assert summary.startswith(f"{len(made)} of {len(made)} cells")
    for verdict in ORDER:
        count = sum(one["verdict"] == verdict for one in made)
        assert f"{count} {verdict.replace('_', ' ')}" in summary


def test_a_verdict_has_a_word_and_a_sign_beside_its_colour(opened: "Open", report: Path) -> None:
    page = opened(report)
    texts = {
        verdict: page.locator(f"#grid .verdict.{verdict}").first.inner_text().split(" ", 1)
        for verdict in ORDER
    }
    assert {verdict: one[1] for verdict, one in texts.items()} == {
        one: one.replace("_", " ") for one in ORDER
    }
    assert len({one[0] for one in texts.values()}) == len(ORDER)
    colours = page.locator("#grid .verdict").evaluate_all(
        "all => all.map(one => getComputedStyle(one).color)"
    )
    assert len(set(colours)) == 4, "good, known, bad, nothing proven"


def test_a_filter_leaves_what_has_its_value(opened: "Open", report: Path) -> None:
    page, made = opened(report), records(report)
    for field in FIELDS:
        values = Counter(one[field] or "none" for one in made)
        value, count = values.most_common()[-1]
        assert 0 < count < len(made), field
        wanted = {one["id"] for one in made if (one[field] or "none") == value}
        chosen = page.get_by_label(field.replace("_", " "), exact=True)
        chosen.select_option(value)
        assert set(page.locator("#grid button:visible small").all_inner_texts()) == wanted, field
        assert page.get_by_role("status").inner_text().startswith(f"{len(wanted)} of ")
        chosen.select_option("all")


def test_filters_work_together_and_are_taken_back(opened: "Open", report: Path) -> None:
    page, made = opened(report), records(report)
    page.get_by_label("module", exact=True).select_option("plugin")
    page.get_by_label("outcome", exact=True).select_option("survived")
    page.get_by_label("part of an id").fill("neoverse")
    wanted = [
        one
        for one in made
        if one["module"] == "plugin" and one["outcome"] == "survived" and "neoverse" in one["id"]
    ]
    assert wanted
    assert cells(page).count() == len(wanted)
    page.get_by_label("part of an id").fill("no such cell")
    assert cells(page).count() == 0
    assert page.get_by_text("No cell matches.").is_visible()
    page.get_by_role("button", name="show all").click()
    assert cells(page).count() == len(made)
    assert not page.get_by_text("No cell matches.").is_visible()


def test_details_of_a_fault(opened: "Open", report: Path) -> None:
    page, record = opened(report), faulted(report)
    box = details(page, record["id"])
    row = {name: box.get_by_role("row", name=re.compile(f"^{name}\\b")) for name in ("PC", "LR", "PAC mask")}
    for name in ("PC", "LR"):
        assert row[name].locator(".hex").inner_text() == record[name.lower()] == "0x003effffa159e4dc"
        assert row[name].locator("mark").all_inner_texts() == ["3e"]
        assert "PAC bits 54:48 = 0111110" in row[name].inner_text()
    assert row["PAC mask"].locator(".hex").inner_text() == "0x007f000000000000"
    assert row["PAC mask"].locator("mark").count() == 0
    # The same of every thread, and what the kernel logged, from registers.json.
    assert box.get_by_text("thread 33").is_visible()
    assert box.locator(".registers mark").all_inner_texts() == ["3e", "3e"]
    box.get_by_text("general registers").click()
    assert box.get_by_text("0x000000000000001d").is_visible()

    phases = [line.split("\n") for line in box.locator(".phases li").all_inner_texts()]
    assert [one[0] for one in phases] == list(record["phases"])
    assert [one[-1] for one in phases] == [f"{seconds:.2f} s" for seconds in record["phases"].values()]
    bars = [box.locator(".phases i").nth(at).bounding_box() for at in range(len(phases))]
    starts = [bar["x"] for bar in bars if bar]
    assert len(starts) == len(phases)
    assert starts == sorted(set(starts)), "one after the other"
    assert record["reason"] in box.inner_text()
    assert "criu-pac matrix --criu 3.17.1" in box.locator(".command").inner_text()
    for name in record["premises"]:
        assert box.get_by_role("cell", name=name.replace("_", " "), exact=True).is_visible()


def test_logs_and_files_of_a_cell(opened: "Open", report: Path) -> None:
    page, record = opened(report), faulted(report)
    box = details(page, record["id"])
    log = box.locator("details", has_text="dump-1.log")
    assert not log.locator("pre").is_visible()
    log.locator("summary").click()
    text = log.locator("pre").inner_text()
    assert text.startswith("...")
    assert text.rstrip().endswith("a line of the dump")
    links = box.locator(".files a").evaluate_all("all => all.map(one => one.href)")
    there = sorted(str(path) for path in (report.parent / record["evidence"]).iterdir())
    assert sorted(unquote(link.removeprefix("file://")) for link in links) == there


def test_a_register_without_the_bits_is_not_marked(opened: "Open", report: Path) -> None:
    page = opened(report)
    shown = page.evaluate("register('0x0000ffffa159e4dc', '0x007f000000000000', true).textContent")
    assert shown == "0x0000ffffa159e4dc no PAC bits"
    marks = "[...register({}, {}).querySelectorAll('mark')].map(one => one.textContent)"
    assert page.evaluate(marks.format("'0x0000ffffa159e4dc'", "'0x007f000000000000'")) == []
    # A user address of 52 bits leaves three, in two digits: bits 54 to 52.
    assert page.evaluate(marks.format("'0x0050ffffa159e4dc'", "'0x0070000000000000'")) == ["5"]
    assert page.evaluate(marks.format("'0x0001ffffa159e4dc'", "'0x007f000000000000'")) == ["01"]
    assert page.evaluate(marks.format("'0x0001ffffa159e4dc'", "null")) == []
    assert page.evaluate("register('what', null).textContent") == "what"
    assert page.evaluate("register(null, null).textContent") == "not read"


def test_hostile_text_is_text(opened: "Open", report: Path) -> None:
    page, record = opened(report), records(report)[0]
    assert "</script>" in record["reason"]
    box = details(page, record["id"])
    assert "<img src=x onerror" in box.inner_text()
    log = box.locator("details", has_text="kernel.log")
    log.locator("summary").click()
    assert "window.hacked = 1" in log.locator("pre").inner_text()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2


def test_the_keyboard_is_enough(opened: "Open", report: Path) -> None:
    page = opened(report, viewport=DESK)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "search"
    filters = page.locator("#filters select").count()
    for _ in range(filters + 2):
        page.keyboard.press("Tab")

    def at() -> int:
        return int(page.evaluate("[...document.querySelectorAll('.cell')].indexOf(document.activeElement)"))

    assert at() == 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    columns = int(
        page.evaluate(
            "getComputedStyle(document.getElementById('grid')).gridTemplateColumns.split(' ').length"
        )
    )
    assert columns > 1
    for key, place in (
        *(
            ("ArrowRight", 1),
            ("ArrowDown", columns + 1),
            ("ArrowLeft", columns),
            ("ArrowUp", 0),
            ("ArrowUp", 0),
        ),
        *(("End", len(records(report)) - 1), ("Home", 0)),
    ):
        page.keyboard.press(key)
        assert at() == place, key
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    assert page.evaluate("document.activeElement.textContent") == "close"
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    assert at() == 0, "the focus is back where it was"
    page.keyboard.press("Space")
    page.get_by_role("dialog").get_by_role("button", name="close").press("Enter")
    assert not page.get_by_role("dialog").is_visible()


def test_everything_to_use_has_a_name(opened: "Open", report: Path) -> None:
    page = opened(report)
    named = re.compile(r"\w")
    assert page.get_by_role("combobox", name=named).count() == page.locator("select").count() > 0
    assert page.get_by_role("searchbox", name=named).count() == 1
    assert page.get_by_role("button", name=named).count() == page.locator("button").count()
    record = faulted(report)
    words = f"{record['outcome']} ".replace("_", " ")
    assert page.get_by_role("button", name=re.compile(f"^{words}.*{re.escape(record['id'])}$")).count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_and_can_be_read(
    opened: "Open", report: Path, screenshots: Path, scheme: str, window: dict[str, int]
) -> None:
    page = opened(report, viewport=window, color_scheme=scheme)
    name = f"{'phone' if window == PHONE else 'desk'}-{scheme}"
    page.screenshot(path=screenshots / f"{name}-grid.png")
    assert fits(page)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    for verdict in ORDER:
        [ratio] = page.locator(f"#grid .verdict.{verdict}").first.locator("xpath=.").evaluate_all(CONTRAST)
        assert ratio >= LEAST_CONTRAST, verdict
    assert (
        min(page.locator("#filters label, #run, #summary, .cell small").evaluate_all(CONTRAST))
        >= LEAST_CONTRAST
    )

    details(page, faulted(report)["id"])
    page.screenshot(path=screenshots / f"{name}-details.png")
    for summary in page.locator("dialog summary").all():
        summary.click()
    page.locator("dialog").evaluate("box => { box.scrollTop = 560 }")
    page.screenshot(path=screenshots / f"{name}-details-2.png")
    assert fits(page)
    assert min(page.locator("dialog :is(th, td, pre, mark, a, b)").evaluate_all(CONTRAST)) >= LEAST_CONTRAST
    page.keyboard.press("Escape")
    details(page, records(report)[0]["id"])
    assert fits(page)


def test_the_check_of_the_width_finds_what_is_too_wide(opened: "Open", report: Path) -> None:
    page = opened(report, viewport=PHONE)
    page.evaluate("document.getElementById('summary').style.minWidth = '500px'")
    assert not fits(page)


def test_five_thousand_cells(opened: "Open", large_report: Path, screenshots: Path) -> None:
    assert large_report.stat().st_size < 40_000_000
    started = time.monotonic()
    page = opened(large_report, viewport=PHONE)
    count = cells(page).count()
    assert count > 5000
    loaded = time.monotonic() - started
    took = page.evaluate("""async () => {
      const started = performance.now();
      document.querySelector("select").value = "as_predicted";
      document.querySelector("select").dispatchEvent(new Event("change"));
      await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
      return performance.now() - started;
    }""")
    assert 0 < cells(page).count() < count
    assert fits(page)
    page.screenshot(path=screenshots / "phone-5000.png")
    size = large_report.stat().st_size
    print(f"{count} cells: open in {loaded:.1f} s, filtered in {took:.0f} ms, {size} bytes")
    assert took < 3000
