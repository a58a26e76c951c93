"""results.jsonl: written whole, read back, and refused when it is damaged or from the future."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.outcome import Outcome, Verdict
from harness.cli import main
from harness.core.errors import StorageError
from harness.reporting.jsonl import FIELDS, append_result, merge_results, read_results
from harness.reporting.record import write_record
from harness.scenario.fake_results import arms, result, results

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "results.md"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = results(control=True)
    for one in made:
        path = append_result(tmp_path / "new", one)
    assert path == tmp_path / "new" / "results.jsonl"
    assert list(read_results(path)) == [one.record() for one in made]
    assert path.read_text().count("\n") == len(made)


def test_the_fields_are_those_of_a_result_and_of_the_document() -> None:
    assert list(FIELDS) == list(results()[0].record())
    text = DOCUMENT.read_text(encoding="utf-8")
    fields, values = (re.findall(r"^\| `(\w+)`", part, re.MULTILINE) for part in _parts(text))
    assert fields == list(FIELDS)
    known = {one.value for one in (*Outcome, *Verdict)}
    assert known - set(values) == {"error"}  # on one line with "invalid"


def _parts(text: str) -> tuple[str, str]:
    _, _, rest = text.partition("## results.jsonl, schema")
    fields, _, values = rest.partition("### outcome")
    return fields, values


def _damaged(tmp_path: Path, **changes: Any) -> Path:
    record = {**results()[0].record(), **changes}
    path = append_result(tmp_path, results()[0])
    with path.open("a") as stream:
        stream.write(json.dumps(record) + "\n")
    return path


def test_a_newer_schema_is_refused_by_file_line_and_number(tmp_path: Path) -> None:
    path = _damaged(tmp_path, schema=2)
    with pytest.raises(StorageError, match=rf"{path}, line 2: schema 2 is newer than 1.*update"):
        read_results(path)


@pytest.mark.parametrize("schema", [None, "1", True, 0, 1.0])
def test_a_schema_that_is_no_number_is_refused(tmp_path: Path, schema: object) -> None:
    with pytest.raises(StorageError, match="line 2: schema must be a whole number"):
        read_results(_damaged(tmp_path, schema=schema))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("outcome", None), ("pc", 4), ("frames", True), ("keys_equal", "yes"), ("premises", [])),
        *(("outcome", "exploded"), ("verdict", "fine"), ("predicted", "")),
    ],
)
def test_a_field_of_another_type_or_value_is_refused(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(StorageError, match=f"line 2: field {field} cannot be"):
        read_results(_damaged(tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phases", {"dump": "long"}),
        ("phases", {"dump": True}),
        ("premises", {"source_pac": {"declared": True}}),
    ],
)
def test_a_value_within_a_field_is_looked_at(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(StorageError, match=f"line 2: field {field}: (dump|source_pac) cannot be"):
        read_results(_damaged(tmp_path, **{field: value}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_no_other_reader_of_json_takes_is_refused(tmp_path: Path, number: str) -> None:
    path = append_result(tmp_path, results()[0])
    path.write_text(path.read_text().replace('"seconds": 3.142', f'"seconds": {number}'))
    with pytest.raises(StorageError, match=f"line 1: not a JSON object: {number}"):
        read_results(path)


def test_a_line_from_before_a_field_was_added_is_read(tmp_path: Path) -> None:
    record = results()[0].record()
    del record["started"]
    (tmp_path / "results.jsonl").write_text(json.dumps(record) + "\n")
    assert list(read_results(tmp_path / "results.jsonl")) == [record]


@pytest.mark.parametrize(
    "words", [["show", "NEW"], ["diff", "OLD", "NEW"], ["diff", "NEW", "OLD"], ["report", "NEW"]]
)
def test_every_command_names_file_line_and_both_schemas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    path = _damaged(tmp_path / "NEW", schema=2)
    append_result(tmp_path / "OLD", results()[0])
    assert main([words[0], *(str(tmp_path / one) for one in words[1:])]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err == (
        f"criu-pac: error: {path}, line 2: schema 2 is newer than 1, the newest this version reads; "
        "update the harness; exit code 2\n"
    )
    assert not (tmp_path / "NEW" / "report.html").exists()


@pytest.mark.parametrize("line", ["{", "[]", "", '"text"'])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str) -> None:
    path = append_result(tmp_path, results()[0])
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(StorageError, match="line 1: not a JSON object"):
        read_results(path)


def test_a_missing_field_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(StorageError, match=f"cannot read {path}"):
        read_results(path)
    path.write_text('{"schema": 1}\n')
    with pytest.raises(StorageError, match="line 1: field id is missing"):
        read_results(path)


def test_results_of_several_runs_become_one_whose_evidence_is_found(tmp_path: Path) -> None:
    made = results()
    files = [
        append_result(tmp_path / "shards" / str(number), one) for number, one in enumerate(made, start=1)
    ]
    merged = merge_results(files, tmp_path / "all")
    assert read_results(tmp_path / "all" / "results.jsonl") == merged
    assert [one["id"] for one in merged] == [one.scenario.id for one in made]
    for number, (one, before) in enumerate(zip(merged, made, strict=True), start=1):
        found = (tmp_path / "all" / one["evidence"]).resolve()
        assert found == tmp_path / "shards" / str(number) / str(before.record()["evidence"])


def test_a_record_without_evidence_gets_none_from_merging(tmp_path: Path) -> None:
    path = append_result(tmp_path / "one", result(arms()[0]))
    record = {**json.loads(path.read_text()), "evidence": None}
    path.write_text(json.dumps(record) + "\n")
    assert merge_results([path], tmp_path)[0]["evidence"] is None


def test_merging_overwrites_no_results(tmp_path: Path) -> None:
    path = append_result(tmp_path, results()[0])
    before = path.read_bytes()
    with pytest.raises(StorageError, match="would be overwritten"):
        merge_results([path], tmp_path / ".." / tmp_path.name)
    assert path.read_bytes() == before


def test_a_place_that_cannot_hold_merged_results_is_an_error(tmp_path: Path) -> None:
    path = append_result(tmp_path, results()[0])
    with pytest.raises(StorageError, match="cannot write"):
        merge_results([path], path / "below-a-file")


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = append_result(tmp_path, results()[0])
    before = path.read_bytes()
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 40:
            return real(fd, data[:-40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left on device"):
        append_result(tmp_path, results()[1])
    assert path.read_bytes() == before


def test_a_number_json_does_not_know_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_result(tmp_path, result(arms()[0], seconds=float("nan")))


def test_the_record_names_no_computer_and_repeats_the_command(tmp_path: Path) -> None:
    write_record(tmp_path, command="criu-pac repro", started="2025-01-01T00:00:00Z", used={"qemu": "11"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (tmp_path / "command.txt").read_text() == "criu-pac repro\n"
    assert manifest["used"] == {"qemu": "11"}
    assert manifest["command"] == "criu-pac repro"
    assert os.uname().nodename not in manifest["host"].values()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["command.txt", "manifest.json"]


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        write_record(tmp_path / "file", command="c", started="s", used={})
