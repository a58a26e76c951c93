"""results.jsonl: written whole, read back, and refused when it is damaged or from the future."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.outcome import Outcome, Verdict
from harness.core.errors import StorageError
from harness.reporting.jsonl import FIELDS, append_result, read_results
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
    [("outcome", None), ("pc", 4), ("frames", True), ("keys_equal", "yes"), ("premises", [])],
)
def test_a_field_of_another_type_is_refused(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(StorageError, match=f"line 2: field {field} cannot be"):
        read_results(_damaged(tmp_path, **{field: value}))


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
