"""The selection smoke as people run it, and what its results can be made into."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.provision.context import Provision

SMOKE = 13


@pytest.fixture(scope="module")
def results(provision: Provision, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, one after the other, and what they make together."""
    place = tmp_path_factory.mktemp("matrix")
    shards = [place / name for name in ("shard-1", "shard-2")]
    environment = {**os.environ, "CRIU_PAC_CACHE": str(provision.cache.root)}
    words = [sys.executable, "-m", "harness", "matrix", "--selection", "smoke"]
    for number, shard in enumerate(shards, start=1):
        done = subprocess.run(
            [*words, "--shard", f"{number}/2", "--results", str(shard)],
            env=environment, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
    assert main(["report", *map(str, shards), "--output", str(place)]) == 0
    return place


def test_the_shards_are_the_selection(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(results)]) == 0
    assert f"{SMOKE} cells: 12 as predicted, 1 known issue" in capsys.readouterr().out
    for record in map(json.loads, (results / "results.jsonl").read_text().splitlines()):
        assert (results / record["evidence"] / "command.txt").is_file(), record["id"]


def test_every_cell_did_what_was_expected_of_it(results: Path) -> None:
    records = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    assert len(records) == SMOKE
    for record in records:
        broken = {name: one for name, one in record["premises"].items() if one["declared"] != one["observed"]}
        assert not broken, record["id"]
        limit = 1e-300 if record["workload"] == "c-frames" else 1e-6
        assert record["p_chance"] is None or record["p_chance"] <= limit
    died = {record["id"] for record in records if record["outcome"].endswith("_fault")}
    assert len(died) == 4, "the sleeper and the frames, with FPAC, and an old image in a new CRIU"


def test_a_page_and_junit_are_beside_the_results(results: Path) -> None:
    page = (results / "report.html").read_text()
    assert page.count('"verdict": "as_predicted"') == 12
    assert "Segmentation fault" in page or "SIGSEGV" in page
    assert 'failures="0"' in (results / "junit.xml").read_text()
    told = [json.loads(path.read_text()) for path in (results / "allure").glob("*-result.json")]
    assert len(told) == SMOKE
    assert {one["status"] for one in told} == {"passed"}
    assert all({"registers.json", "dump-1.log"} <= {a["name"] for a in one["attachments"]} for one in told)


def test_results_are_shown_compared_and_reported_again(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(results)]) == 0
    assert f"{SMOKE} cells" in capsys.readouterr().out
    assert main(["diff", str(results), str(results)]) == 0
    lines = (results / "results.jsonl").read_text().splitlines()
    changed = {**json.loads(lines[0]), "outcome": "hung"}
    (tmp_path / "results.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
    assert main(["diff", str(results), str(tmp_path)]) == 1
    assert "-> hung" in capsys.readouterr().out
    (results / "report.html").unlink()
    assert main(["report", str(results)]) == 0
    assert (results / "report.html").is_file()
