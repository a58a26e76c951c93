"""results.jsonl: one JSON object per arm and line (schema in docs/reference/results.md)."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
        "seconds": _NUMBER,
        "phases": _OBJECT,
        "evidence": _TEXT + _NOTHING,
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
    for a damaged line, and for a field that is missing or of the wrong type.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    return tuple(_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1))


def _parsed(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
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
    for name, types in FIELDS.items():
        if name not in record:
            raise StorageError(f"{where}: field {name} is missing")
        # By exact type: bool is an int to isinstance.
        if type(record[name]) not in types:
            raise StorageError(f"{where}: field {name} cannot be {record[name]!r}")
    return record
