"""Workloads of somebody else's in one run: what is wrong with one is its cell's error, the others go on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.provision.context import Provision

CONTRACT = """
name = "{name}"
argv = {argv}
language = "{language}"
ready = '^READY$'
progress = '^tick$'
tick_seconds = 0.25
watch_ticks = 3
"""
# Prints what the contract wants; the return from the sleep is through signed frames.
GOOD = """
#include <stdio.h>
#include <unistd.h>

#include "pause.h"

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("READY");
	for (;;) {
		pause_between_ticks();
		puts("tick");
	}
}
"""
PAUSE_H = "void pause_between_ticks(void);\n"
PAUSE_C = """
#include <unistd.h>

#include "pause.h"

__attribute__((noinline)) void pause_between_ticks(void)
{
	usleep(250000);
	__asm__ volatile("" ::: "memory");
}
"""
SILENT = "import time\nprint('still loading', flush=True)\ntime.sleep(3600)\n"
FLOOD = "import os\nwhile True:\n    os.write(1, b'flood\\n' * 100_000)\n"
BRIEF = "import sys\nsys.exit('no configuration file')\n"
BROKEN_C = "int main(void)\n{\n\treturn missing;\n}\n"


def workload(parent: Path, name: str, sources: dict[str, str], *, language: str = "python") -> Path:
    directory = parent / name
    directory.mkdir()
    argv = [f"./{name}"] if language == "c" else ["/usr/bin/python3", *sources]
    toml = CONTRACT.format(name=name, argv=json.dumps(argv), language=language)
    for file, text in {"workload.toml": toml, **sources}.items():
        (directory / file).write_text(text)
    return directory


@pytest.fixture(scope="module")
def records(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of all of them in one command, by name."""
    place = tmp_path_factory.mktemp("foreign")
    there = [
        workload(place, "good", {"good.c": GOOD, "pause.c": PAUSE_C, "pause.h": PAUSE_H}, language="c"),
        workload(place, "silent", {"silent.py": SILENT}),
        workload(place, "flood", {"flood.py": FLOOD}),
        workload(place, "brief", {"brief.py": BRIEF}),
        workload(place, "broken", {"broken.c": BROKEN_C}, language="c"),
    ]
    words = [sys.executable, "-m", "harness", "matrix", "--module", "none", "--timeout", "45"]
    words += [word for one in there for word in ("--workload", str(one))]
    words += ["--results", str(place / "results")]
    environment = {**os.environ, "CRIU_PAC_CACHE": str(provision.cache.root)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr + done.stdout
    assert "5 cells: 1 as predicted, 4 error" in done.stdout
    lines = (place / "results" / "results.jsonl").read_text().splitlines()
    return {record["workload"]: record for record in map(json.loads, lines)} | {"results": place / "results"}


def test_a_good_one_dies_as_predicted(records: dict[str, Any]) -> None:
    assert records["good"]["outcome"] == "signed_pc_fault", records["good"]["reason"]
    assert records["good"]["verdict"] == "as_predicted"
    command = (records["results"] / records["good"]["evidence"] / "command.txt").read_text()
    assert f"--workload {records['results'].parent}/good" in command


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent", "workload silent printed no line like ^READY$ within 45 s"),
        ("silent", "last: still loading"),
        ("flood", "workload flood floods its output: "),
        ("brief", "workload brief ended before it was ready: no configuration file"),
        ("broken", "/broken does not compile: "),
        ("broken", "use of undeclared identifier 'missing'"),
    ],
)
def test_a_bad_one_is_an_error_of_its_cell(records: dict[str, Any], name: str, reason: str) -> None:
    assert records[name]["verdict"] == "error"
    assert reason in records[name]["reason"]


def test_of_a_flood_the_end_is_kept(records: dict[str, Any]) -> None:
    evidence = records["results"] / records["flood"]["evidence"]
    output = (evidence / "output").read_bytes()
    assert len(output) == 1 << 20
    assert set(output.split(b"\n")[1:-1]) == {b"flood"}
    assert (evidence / "kernel.log").is_file()
    assert not (evidence / "not-collected.txt").exists()
