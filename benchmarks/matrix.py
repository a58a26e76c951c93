"""How fast the matrix is, within this one run, on an otherwise idle host; templates are made before.

`python benchmarks/matrix.py` prints the table of docs/benchmarks.md.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Phases that are CRIU's and the workload's own; the rest is the harness's.
OF_THE_CELL = ("dump", "restore", "watch")
FASTER, SMOKE, STANDARD, OVERHEAD = 1.7, 90.0, 600.0, 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a selection: seconds, and the record of each cell."""

    seconds: float
    records: list[dict[str, Any]]

    @property
    def per_minute(self) -> float:
        """Cells a minute."""
        return 60 * len(self.records) / self.seconds

    @property
    def overhead(self) -> float:
        """Median seconds of a cell that are the harness's."""
        spent = [
            float(one["seconds"]) - sum(one["phases"].get(name, 0.0) for name in OF_THE_CELL)
            for one in self.records
        ]
        return float(statistics.median(spent))


def main() -> int:
    """Measure, print, and return 1 when a bound was missed."""
    for selection in ("smoke", "standard"):  # makes the templates
        run(selection, at_once=2)
    two, one, again = (run("smoke", at_once=count) for count in (2, 1, 2))
    standard = run("standard", at_once=2)
    ratio = statistics.mean((two.per_minute, again.per_minute)) / one.per_minute
    speeds = f"cells a minute of smoke: -n 2 {two.per_minute:.1f} and {again.per_minute:.1f}"
    speeds += f", -n 1 {one.per_minute:.1f}"
    rows = [
        (
            speeds,
            f"{ratio:.2f}x",
            f">= {FASTER}x",
            ratio >= FASTER,
        ),
        ("smoke, warm, -n 2", f"{again.seconds:.0f} s", f"<= {SMOKE:.0f} s", again.seconds <= SMOKE),
        (
            f"standard ({len(standard.records)} cells), warm, -n 2",
            f"{standard.seconds:.0f} s",
            f"<= {STANDARD:.0f} s",
            standard.seconds <= STANDARD,
        ),
        (
            "the harness's part of a cell, median, -n 1 (all but dump, restore and watch)",
            f"{one.overhead:.2f} s",
            f"<= {OVERHEAD} s",
            one.overhead <= OVERHEAD,
        ),
    ]
    print("| what | measured | bound | held |\n|---|---|---|---|")
    for what, measured, bound, held in rows:
        print(f"| {what} | {measured} | {bound} | {'yes' if held else 'NO'} |")
    return 0 if all(held for *_, held in rows) else 1


def run(selection: str, *, at_once: int) -> Run:
    """Run a selection and return what it took."""
    with tempfile.TemporaryDirectory(prefix="criu-pac-bench-") as scratch:
        words = [sys.executable, "-m", "harness", "matrix", "--selection", selection, "-n", str(at_once)]
        started = time.monotonic()
        done = subprocess.run([*words, "--results", scratch], capture_output=True, text=True, check=False)
        seconds = time.monotonic() - started
        if done.returncode != 0:
            raise SystemExit(f"{selection}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        lines = Path(scratch, "results.jsonl").read_text("utf-8").splitlines()
        return Run(seconds=seconds, records=[json.loads(line) for line in lines])


if __name__ == "__main__":
    raise SystemExit(main())
