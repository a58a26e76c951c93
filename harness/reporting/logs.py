"""Which files of a cell's evidence the reports show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

REGISTERS = "registers.json"
# A cell of two machines has the evidence of the first in a directory of its own.
_PLACES = ("", "source/")
_LOGS = ("dump*.log", "restore*.log", "kernel.log", "stacks.txt", "output")


def evidence_of(directory: Path, record: Mapping[str, Any]) -> Path | None:
    """Return the evidence of one cell, if it is there and below ``directory``."""
    if not record["evidence"]:
        return None
    place = directory / str(record["evidence"])
    # The name comes from a file that anybody may have written: no report shows what lies elsewhere.
    inside = place.resolve().is_relative_to(directory.resolve())
    return place if inside and place.is_dir() else None


def logs_of(place: Path) -> Mapping[str, Path]:
    """Return the logs in it that are not empty, by name relative to it."""
    found = [path for part in _PLACES for form in _LOGS for path in sorted(place.glob(part + form))]
    return {path.relative_to(place).as_posix(): path for path in found if path.stat().st_size}
