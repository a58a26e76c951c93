"""What the cache holds, for people."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO

from rich import box
from rich.filesize import decimal
from rich.table import Table

from harness.provision.cache import Entry
from harness.reporting.table import console_for

_KEY_LENGTH = 16  # enough of a digest to tell entries apart
_BLOBS = "blobs"
_TEMPLATES = "template"


def print_inventory(
    entries: Sequence[Entry], *, templates_max: int, file: IO[str] | None = None, width: int | None = None
) -> None:
    """Print one line per entry, least recently used first, and the sum of their sizes.

    Downloaded files are hundreds: they share a line. ``templates_max``: the bytes templates may take.
    """
    console = console_for(file or sys.stdout, width=width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("key", no_wrap=True)
    table.add_column("size", no_wrap=True, justify="right")
    table.add_column("last used (UTC)", no_wrap=True)
    table.add_column("in use", no_wrap=True)
    files = [entry for entry in entries if entry.kind == _BLOBS]
    if files:
        table.add_row(*_row(_BLOBS, f"{len(files)} files", files))
    for entry in entries:
        if entry.kind != _BLOBS:
            table.add_row(*_row(entry.kind, entry.key[:_KEY_LENGTH], [entry]))
    if entries:
        console.print(table)
    if templates := [entry.size for entry in entries if entry.kind == _TEMPLATES]:
        limit = decimal(templates_max)
        console.print(f"templates: {len(templates)}, {decimal(sum(templates))} of at most {limit}")
    console.print(f"{len(entries)} entries, {decimal(sum(entry.size for entry in entries))}")


def _row(kind: str, key: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    used = max(entry.last_used for entry in entries)
    return (
        kind,
        key,
        decimal(sum(entry.size for entry in entries)),
        f"{datetime.fromtimestamp(used, tz=UTC):%Y-%m-%d %H:%M}",
        "yes" if any(entry.in_use for entry in entries) else "no",
    )
