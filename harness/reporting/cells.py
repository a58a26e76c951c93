"""Cells of a matrix for people: a row each, turning into outcomes, and what differs between two runs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.catalogue.outcome import Verdict
from harness.reporting.table import COLOURS, console_for

Record = Mapping[str, Any]

_WAITING = "..."


def cell_table(ids: Sequence[str], records: Mapping[str, Record]) -> Table:
    """Return one row per id, with outcome and verdict of those that are over."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("cell", "outcome", "verdict", "p(chance)", "seconds"):
        table.add_column(name, no_wrap=name != "cell")
    for one in ids:
        table.add_row(*_row(one, records.get(one)))
    return table


def _row(name: str, record: Record | None) -> list[Text]:
    if record is None:
        return [Text(name), Text(_WAITING)]
    colour = COLOURS[Verdict(record["verdict"])]
    verdict = str(record["verdict"]).replace("_", " ")
    if record["known_issue"] and record["verdict"] == Verdict.KNOWN_ISSUE.value:
        verdict += f" {record['known_issue']}"
    chance = "-" if record["p_chance"] is None else f"{record['p_chance']:.0e}"
    return [
        Text(name),
        Text(str(record["outcome"]), style=colour),
        Text(verdict, style=colour),
        Text(chance),
        Text(f"{record['seconds']:.1f}"),
    ]


def print_cells(records: Sequence[Record], *, file: IO[str] | None = None) -> None:
    """Print the last record of every cell, and how many there are of each verdict."""
    console = console_for(file or sys.stdout)
    last = {str(record["id"]): record for record in records}
    console.print(cell_table(list(last), last))
    console.print(Text(f"\n{summary(list(last.values()))}"))


def summary(records: Sequence[Record]) -> str:
    """Return "12 cells: 10 as predicted, 2 known issue"."""
    counts: dict[str, int] = {}
    for record in records:
        word = str(record["verdict"]).replace("_", " ")
        counts[word] = counts.get(word, 0) + 1
    parts = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    return f"{len(records)} cells: {parts or 'none'}"


class CellProgress:
    """Shows cells as they finish: a live table on a terminal, else a line each."""

    def __init__(self, ids: Sequence[str], live: Live | None, console: Console) -> None:
        self._ids = ids
        self._live = live
        self._console = console
        self._records: dict[str, Record] = {}

    def update(self, record: Record) -> None:
        """Take in the result of one cell."""
        self._records[str(record["id"])] = record
        if self._live:
            self._live.update(self._window())
        else:
            count = f"[{len(self._records)}/{len(self._ids)}]"
            self._console.print(Text(f"{count} {record['id']}: {record['outcome']} ({record['verdict']})"))

    def _window(self) -> Table:
        """Return as many rows as the terminal is high: what is over scrolls out."""
        room = max(5, self._console.height - 4)
        start = max(0, min(len(self._ids) - room, len(self._records) - room // 2))
        return cell_table(self._ids[start : start + room], self._records)


@contextmanager
def cells_shown(ids: Sequence[str], *, file: IO[str] | None = None) -> Iterator[CellProgress]:
    """Show the cells on ``file`` (default: stderr) for the time of the context."""
    console = Console(file=file or sys.stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        yield CellProgress(ids, None, console)
        return
    with Live(cell_table(ids[: console.height - 4], {}), console=console, refresh_per_second=4) as live:
        yield CellProgress(ids, live, console)


def differences(old: Sequence[Record], new: Sequence[Record]) -> list[str]:
    """Return a line per cell whose outcome changed, that came, or that went; of each the last record."""
    before = {str(one["id"]): one for one in old}
    after = {str(one["id"]): one for one in new}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            lines.append(f"{name}: gone (was {before[name]['outcome']})")
        elif name not in before:
            lines.append(f"{name}: new: {after[name]['outcome']}")
        elif before[name]["outcome"] != after[name]["outcome"]:
            lines.append(f"{name}: {before[name]['outcome']} -> {after[name]['outcome']}")
    return lines
