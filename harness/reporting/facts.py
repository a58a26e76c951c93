"""Nested facts, for people: one line each, indented by depth."""

import sys
from collections.abc import Mapping
from typing import IO

_WORDS = {True: "yes", False: "no", None: "-"}


def print_facts(facts: Mapping[str, object], *, file: IO[str] | None = None, depth: int = 0) -> None:
    """Print every fact; mappings become indented blocks and lists one line per item."""
    out = file or sys.stdout
    for name, value in facts.items():
        if isinstance(value, Mapping):
            out.write(f"{'  ' * depth}{name}:\n")
            print_facts(value, file=out, depth=depth + 1)
        elif isinstance(value, list):
            out.write(f"{'  ' * depth}{name}:{'' if value else ' none'}\n")
            for item in value:
                out.write(f"{'  ' * (depth + 1)}{_line(item)}\n")
        else:
            out.write(f"{'  ' * depth}{name}: {_line(value)}\n")


def _line(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_line(one)}" for name, one in value.items())
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return str(value)
