"""Results for people: arms side by side, as many as the lines are long enough for."""

import sys
from collections.abc import Callable, Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.catalogue.outcome import Verdict
from harness.scenario.result import ScenarioResult

COLOURS = {
    Verdict.AS_PREDICTED: "green",
    Verdict.KNOWN_ISSUE: "yellow",
    Verdict.REGRESSION: "red",
    Verdict.FIXED: "red",
    Verdict.INVALID: "magenta",
    Verdict.ERROR: "magenta",
}
_UNREAD = "-"
_ANY_WIDTH = 10_000


def print_results(
    results: Sequence[ScenarioResult],
    sentence: str | None,
    *,
    file: IO[str] | None = None,
    width: int | None = None,
) -> None:
    """Print the facts of every arm, then ``sentence``; ``width`` in characters (None: the terminal's)."""
    console = console_for(file or sys.stdout, width=width)
    for table in _fitting(results, console):
        console.print(table)
        console.print()
    if sentence:
        console.print(Text(sentence))


def console_for(file: IO[str], *, width: int | None = None) -> Console:
    """Return a console that prints text as it is: no markup, no guessed colours, no links."""
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def side_by_side(results: Sequence[ScenarioResult]) -> Table:
    """Return the table with one column for each arm."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("arm", no_wrap=True)
    for result in results:
        table.add_column(result.arm, no_wrap=True)
    for name, fact in _FACTS:
        cells = [fact(result) for result in results]
        style = [_style(name, result) for result in results]
        table.add_row(name, *(Text(cell, style=one) for cell, one in zip(cells, style, strict=True)))
    return table


def _fitting(results: Sequence[ScenarioResult], console: Console) -> list[Table]:
    """Return tables with as many arms in each as the console is wide enough for, at least one."""
    # A measurement is cut to the width it is given, and a cut address is worth nothing.
    unbounded = console.options.update(width=_ANY_WIDTH)
    tables: list[Table] = []
    for together in range(len(results), 0, -1):
        tables = [
            side_by_side(results[start : start + together]) for start in range(0, len(results), together)
        ]
        if all(Measurement.get(console, unbounded, one).maximum <= console.width for one in tables):
            break
    return tables


def _style(fact: str, result: ScenarioResult) -> str:
    return COLOURS[result.verdict] if fact in {"outcome", "verdict"} else ""


def _hex(value: int | None) -> str:
    return _UNREAD if value is None else f"0x{value:016x}"


def _dirty_bits(result: ScenarioResult) -> str:
    registers = result.registers
    if registers.pac_bits is None:
        return _UNREAD
    where = f" in {registers.pac_register.upper()}" if registers.pac_register else ""
    return f"{_hex(registers.pac_bits)}{where}"


def _keys(result: ScenarioResult) -> str:
    if result.keys_equal is None:
        return "unread"
    return "equal" if result.keys_equal else "different"


def _verdict(result: ScenarioResult) -> str:
    if result.known_issue and result.verdict is Verdict.KNOWN_ISSUE:
        return f"known issue {result.known_issue}"
    if result.verdict in {Verdict.REGRESSION, Verdict.FIXED}:
        return f"{result.verdict.value} (not {result.known_issue or result.prediction.outcome.value})"
    return str(result.verdict.value).replace("_", " ")


_FACTS: Sequence[tuple[str, Callable[[ScenarioResult], str]]] = (
    ("outcome", lambda result: result.outcome.value),
    ("signal", lambda result: result.signal or _UNREAD),
    ("PC", lambda result: _hex(result.registers.pc)),
    ("LR", lambda result: _hex(result.registers.lr)),
    ("PAC mask", lambda result: _hex(result.registers.pac_mask)),
    ("dirty bits", _dirty_bits),
    ("ticks before", lambda result: str(result.ticks_before)),
    ("ticks after", lambda result: str(result.ticks_after)),
    ("keys", _keys),
    ("seconds", lambda result: f"{result.seconds:.1f}"),
    ("verdict", _verdict),
)
