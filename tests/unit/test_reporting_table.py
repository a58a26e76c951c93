"""The table of arms, and the list of the cache."""

import io
from pathlib import Path

import pytest

from harness.catalogue.outcome import Outcome
from harness.provision.cache import Entry
from harness.reporting.inventory import print_inventory
from harness.reporting.table import print_results
from harness.scenario.fake_results import arms, result, results
from harness.scenario.result import Registers, ScenarioResult


def shown(made: list[ScenarioResult], *, width: int = 80) -> list[str]:
    stream = io.StringIO()
    print_results(made, "A sentence.", file=stream, width=width)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def row(lines: list[str], name: str) -> list[str]:
    (found,) = (line for line in lines if line.startswith(f"{name}  "))
    return [cell for cell in found.removeprefix(name).split("  ") if cell.strip()]


def test_fault_and_survival_side_by_side() -> None:
    lines = shown(results())
    cells = {name: [cell.strip() for cell in row(lines, name)] for name in ("arm", "outcome", "keys")}
    assert cells == {
        "arm": ["stock", "pac-key-module"],
        "outcome": ["signed_pc_fault", "survived"],
        "keys": ["different", "equal"],
    }
    assert [cell.strip() for cell in row(lines, "signal")] == ["SIGSEGV", "-"]
    assert [cell.strip() for cell in row(lines, "PC")] == ["0x003effffa159e4dc", "-"]
    assert [cell.strip() for cell in row(lines, "PAC mask")] == ["0x007f000000000000"] * 2
    assert [cell.strip() for cell in row(lines, "dirty bits")] == ["0x003e000000000000 in PC", "-"]
    assert [cell.strip() for cell in row(lines, "ticks before")] == ["12", "12"]
    assert [cell.strip() for cell in row(lines, "ticks after")] == ["12", "15"]
    assert [cell.strip() for cell in row(lines, "seconds")] == ["3.1", "3.1"]
    assert [cell.strip() for cell in row(lines, "verdict")] == ["as predicted"] * 2
    assert lines[-1] == "A sentence."


@pytest.mark.parametrize(("width", "tables"), [(160, [4]), (80, [2, 2]), (50, [1, 1, 1, 1]), (30, [1] * 4)])
def test_arms_stand_side_by_side_as_far_as_the_lines_reach(width: int, tables: list[int]) -> None:
    lines = shown(results(control=True), width=width)
    heads = [line.split() for line in lines if line.startswith("arm ")]
    assert [len(head) - 1 for head in heads] == tables
    assert sum(line.startswith("outcome ") for line in lines) == len(tables)


def test_what_was_not_read_is_not_made_up() -> None:
    unread = result(
        arms()[0], Outcome.INFRA_ERROR, registers=Registers(), keys_equal=None, signal=None, evidence=None
    )
    lines = shown([unread])
    assert row(lines, "LR") == row(lines, "dirty bits") == row(lines, "PAC mask")
    assert row(lines, "keys")[0].strip() == "unread"


def test_a_surprise_says_what_was_expected() -> None:
    lines = shown(results({"pac-key-module": Outcome.SIGNED_PC_FAULT}))
    assert row(lines, "verdict")[-1].strip() == "regression (not survived)"


def test_square_brackets_are_text() -> None:
    stream = io.StringIO()
    print_results(results(), "see [red]this[/red]", file=stream, width=80)
    assert stream.getvalue().endswith("see [red]this[/red]\n")


def entry(kind: str, key: str, size: int, *, in_use: bool = False) -> Entry:
    return Entry(kind=kind, key=key, path=Path("/x"), size=size, last_used=86400.0, in_use=in_use)


def test_the_inventory_sums_downloads_and_lists_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry("blobs", f"{n:064x}", 1_000_000) for n in range(3)]
    print_inventory(
        [*entries, entry("template", "ab" * 16, 2_500_000, in_use=True)], templates_max=10**10, width=80
    )
    lines = capsys.readouterr().out.splitlines()
    assert any("3 files" in line and "3.0 MB" in line and line.rstrip().endswith("no") for line in lines)
    assert any("abababab" in line and "1970-01-02" in line and "yes" in line for line in lines)
    assert lines[-2:] == ["templates: 1, 2.5 MB of at most 10.0 GB", "4 entries, 5.5 MB"]


def test_an_empty_cache_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_inventory([], templates_max=1)
    assert capsys.readouterr().out == "0 entries, 0 bytes\n"
