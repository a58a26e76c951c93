"""One HTML page of all cells that needs nothing but itself, and JUnit's XML for CI."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from harness.catalogue.outcome import Verdict
from harness.core.errors import StorageError

Record = Mapping[str, Any]

PAGE, JUNIT = "report.html", "junit.xml"
_LOGS = ("kernel.log", "output")
_LOG_SHARE = 4000  # characters of a log that the page holds; the files stay beside it
_BAD = {Verdict.REGRESSION.value, Verdict.FIXED.value}
_ODD = {Verdict.INVALID.value, Verdict.ERROR.value}


def write_reports(directory: Path, records: Sequence[Record]) -> tuple[Path, Path]:
    """Write report.html and junit.xml beside results.jsonl in ``directory``; raises StorageError."""
    last = {str(record["id"]): record for record in records}
    page, junit = directory / PAGE, directory / JUNIT
    try:
        page.write_text(html(directory, list(last.values())), encoding="utf-8")
        junit.write_bytes(junit_xml(list(last.values())))
    except OSError as error:
        raise StorageError(f"cannot write a report in {directory}: {error.strerror}") from error
    return page, junit


def html(directory: Path, records: Sequence[Record]) -> str:
    """Return the page, with the beginnings of each cell's logs from its evidence in ``directory``."""
    data = json.dumps([_with_evidence(directory, one) for one in records])
    template = resources.files("harness.reporting").joinpath("report.html").read_text("utf-8")
    # A closing tag in a log must not end the script element.
    return template.replace("@DATA@", data.replace("<", "\\u003c"))


def junit_xml(records: Sequence[Record]) -> bytes:
    """Return a test case per cell: a failure for an unexpected outcome, an error where nothing was proven."""
    suite = ET.Element("testsuite", name="criu-pac matrix", tests=str(len(records)))
    for record in records:
        case = ET.SubElement(
            suite, "testcase", name=str(record["id"]), classname="matrix", time=str(record["seconds"])
        )
        kind = "failure" if record["verdict"] in _BAD else "error" if record["verdict"] in _ODD else None
        if kind:
            told = ET.SubElement(case, kind, message=f"{record['outcome']}: {record['verdict']}")
            told.text = str(record["reason"])
    suite.set("failures", str(sum(one["verdict"] in _BAD for one in records)))
    suite.set("errors", str(sum(one["verdict"] in _ODD for one in records)))
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))


def _with_evidence(directory: Path, record: Record) -> dict[str, Any]:
    extended = dict(record)
    place = directory / str(record["evidence"] or "")
    if record["evidence"] and place.is_dir():
        extended["files"] = sorted(path.name for path in place.iterdir() if path.is_file())
        logs = [path for path in sorted(place.glob("*.log")) if path.name.startswith(("dump", "restore"))]
        logs += [place / name for name in _LOGS]
        extended["logs"] = {path.name: _tail(path) for path in logs if path.is_file()}
        command = place / "command.txt"
        extended["command"] = command.read_text("utf-8", "replace").strip() if command.is_file() else None
    return extended


def _tail(path: Path) -> str:
    text = path.read_text("utf-8", "replace")
    return text if len(text) <= _LOG_SHARE else f"...\n{text[-_LOG_SHARE:]}"
