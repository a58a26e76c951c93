"""results.jsonl: one JSON object per arm and line (schema in docs/reference/results.md)."""

import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.catalogue.outcome import Outcome, Verdict
from harness.core.errors import StorageError
from harness.scenario.result import SCHEMA, ScenarioResult

FILE_NAME = "results.jsonl"

_TEXT, _WHOLE, _NUMBER, _FLAG, _OBJECT = (str,), (int,), (int, float), (bool,), (dict,)
_NOTHING = (type(None),)

# Every field of schema 1 with the types its value can have.
FIELDS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "schema": _WHOLE,
        "id": _TEXT,
        "arm": _TEXT,
        "cpu": _TEXT,
        "kernel": _TEXT,
        "target_cpu": _TEXT,
        "target_kernel": _TEXT,
        "qemu": _TEXT + _NOTHING,
        "base": _TEXT,
        "workload": _TEXT,
        "driver": _TEXT,
        "criu_dump": _TEXT,
        "criu_restore": _TEXT,
        "module": _TEXT,
        "outcome": _TEXT,
        "predicted": _TEXT,
        "verdict": _TEXT,
        "known_issue": _TEXT + _NOTHING,
        "reason": _TEXT,
        "premises": _OBJECT,
        "signal": _TEXT + _NOTHING,
        "pc": _TEXT + _NOTHING,
        "lr": _TEXT + _NOTHING,
        "pac_mask": _TEXT + _NOTHING,
        "pac_register": _TEXT + _NOTHING,
        "pac_bits": _TEXT + _NOTHING,
        "frames": _WHOLE,
        "p_chance": _NUMBER + _NOTHING,
        "ticks_before": _WHOLE,
        "ticks_after": _WHOLE,
        "keys_equal": _FLAG + _NOTHING,
        "started": _TEXT,
        "seconds": _NUMBER,
        "phases": _OBJECT,
        "evidence": _TEXT + _NOTHING,
    }
)
# Fields that came after lines of this schema had been written.
_LATER = {"started"}
_VALUES = MappingProxyType(
    {
        "outcome": {one.value for one in Outcome},
        "predicted": {one.value for one in Outcome},
        "verdict": {one.value for one in Verdict},
    }
)


def append_result(directory: Path, result: ScenarioResult) -> Path:
    """Add the line of one result to results.jsonl in ``directory``, whole or not at all.

    Any number of processes may write to one file. Raises StorageError.
    """
    path = directory / FILE_NAME
    line = json.dumps(result.record(), allow_nan=False).encode() + b"\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            _write_whole(fd, line)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return path


def _write_whole(fd: int, line: bytes) -> None:
    """Write all of ``line``, or cut the file back to what it was."""
    end = os.fstat(fd).st_size
    written = 0
    try:
        while written < len(line):
            written += os.write(fd, line[written:])
    except BaseException:
        os.ftruncate(fd, end)
        raise


def read_results(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the objects of a results.jsonl in the order of its lines.

    Raises StorageError naming the file, and the line for a schema newer than this harness knows,
    for a damaged line, and for a field that is missing, of the wrong type or of no known value.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    return tuple(_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1))


def merge_results(files: Sequence[Path], directory: Path) -> tuple[Mapping[str, Any], ...]:
    """Write the records of all ``files`` into one results.jsonl in ``directory`` and return them.

    Their evidence is not moved: each record names it relative to ``directory``. Raises StorageError.
    """
    target = directory / FILE_NAME
    if any(file.resolve() == target.resolve() for file in files):
        raise StorageError(f"{target} would be overwritten", hint="put the results together in another place")
    merged = [
        {**one, "evidence": one["evidence"] and os.path.relpath(file.parent / one["evidence"], directory)}
        for file in files
        for one in read_results(file)
    ]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{json.dumps(one, allow_nan=False)}\n" for one in merged), "utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}") from error
    return tuple(merged)


def _parsed(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise StorageError(f"{where}: not a JSON object: {error}") from None
    if not isinstance(record, dict):
        raise StorageError(f"{where}: not a JSON object")
    schema = record.get("schema")
    if type(schema) is not int or schema < 1:
        raise StorageError(f"{where}: schema must be a whole number from 1, not {schema!r}")
    if schema > SCHEMA:
        raise StorageError(
            f"{where}: schema {schema} is newer than {SCHEMA}, the newest this version reads",
            hint="update the harness",
        )
    _check_fields(record, where)
    return record


def _check_fields(record: Mapping[str, Any], where: str) -> None:
    for name, types in FIELDS.items():
        if name not in record:
            if name in _LATER:
                continue
            raise StorageError(f"{where}: field {name} is missing")
        # By exact type: bool is an int to isinstance.
        known = name not in _VALUES or record[name] in _VALUES[name]
        if type(record[name]) not in types or not known:
            raise StorageError(f"{where}: field {name} cannot be {record[name]!r}")
    for name, good in (("premises", _is_premise), ("phases", _is_number)):
        for key, value in record[name].items():
            if not good(value):
                raise StorageError(f"{where}: field {name}: {key} cannot be {value!r}")


def _finite(text: str) -> float:
    """Return the number, which strict readers of JSON (the page's) have to be able to read again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def _is_number(value: object) -> bool:
    return type(value) in _NUMBER


def _is_premise(value: object) -> bool:
    return isinstance(value, dict) and {"declared", "observed"} <= value.keys()
