"""Cells for people: the table, what differs between two runs, the page and JUnit's file."""

import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from harness.catalogue.outcome import Outcome
from harness.core.errors import StorageError
from harness.reporting import cells, page
from harness.scenario.fake_results import arms, result, results


@pytest.fixture
def records() -> list[dict[str, Any]]:
    return [one.record() for one in results(control=True)]


def test_the_table_has_a_row_per_cell_and_the_last_record_counts(records: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    changed = {**records[0], "outcome": "hung", "verdict": "regression"}
    cells.print_cells([*records, changed], file=out)
    text = " ".join(out.getvalue().split())
    assert "hung" in text
    assert "signed_pc_fault" not in text
    assert text.endswith("4 cells: 3 as predicted, 1 regression")


def test_a_cell_that_is_not_over_is_waited_for(records: list[dict[str, Any]]) -> None:
    ids = [str(one["id"]) for one in records]
    table = cells.cell_table(ids, {ids[0]: records[0]})
    assert table.row_count == 4


def test_finished_cells_are_told_one_by_one_without_a_terminal(records: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    with cells.cells_shown([str(one["id"]) for one in records], file=out) as shown:
        for record in records:
            shown.update(record)
    lines = out.getvalue().replace("\n[", "\0[").split("\0")
    assert len(lines) == 4
    assert lines[0].startswith("[1/4] ")


def test_what_differs_between_two_runs(records: list[dict[str, Any]]) -> None:
    later = [{**records[0], "outcome": "survived"}, *records[1:3], {**records[3], "id": "another"}]
    lines = cells.differences(records, later)
    assert f"{records[0]['id']}: signed_pc_fault -> survived" in lines
    assert f"{records[3]['id']}: gone (was survived)" in lines
    assert "another: new: survived" in lines
    assert len(lines) == 3
    assert cells.differences(records, records) == []


def embedded(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert isinstance(data, list)
    return data


def test_the_page_holds_everything_and_needs_no_network(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    evidence = tmp_path / str(records[0]["evidence"])
    evidence.mkdir()
    (evidence / "dump-1.log").write_text("x" * 5000 + "</script><script>alert(1)</script>")
    (evidence / "command.txt").write_text("criu-pac repro\n")
    written, *_ = page.write_reports(tmp_path, [*records, records[0]])
    text = written.read_text("utf-8")
    data = embedded(text)
    assert len(data) == 4
    first = next(one for one in data if one["id"] == records[0]["id"])
    assert first["command"] == "criu-pac repro"
    assert first["files"] == ["command.txt", "dump-1.log"]
    assert first["logs"]["dump-1.log"].endswith("</script><script>alert(1)</script>")
    assert len(first["logs"]["dump-1.log"]) < 4100
    assert text.count("</script>") == 2, "a log cannot end the page's own script"
    assert not re.search(r"(src|href)=\"?https?:", text)


def test_junit_tells_unexpected_from_unproven(tmp_path: Path) -> None:
    stock, cured = arms()
    made = [result(stock, Outcome.SURVIVED), result(cured, Outcome.INFRA_ERROR)]
    _, written, _ = page.write_reports(tmp_path, [one.record() for one in made])
    suite = ET.parse(written).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [["failure"], ["error"]]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    with pytest.raises(StorageError, match="cannot write a report in"):
        page.write_reports(tmp_path / "nowhere", records)
