"""One HTML page of all cells that needs nothing but itself, JUnit's XML for CI, and Allure's files."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from harness.catalogue.outcome import Verdict
from harness.core.errors import StorageError
from harness.reporting.logs import REGISTERS, evidence_of, logs_of

Record = Mapping[str, Any]

PAGE, JUNIT = "report.html", "junit.xml"
# Characters of a log that the page holds: its end, as the files stay beside the page. The more cells, the
# less of each, so that a page of thousands opens as well.
_LOG_SHARE, _LEAST_SHARE, _ALL_LOGS = 4000, 400, 4_000_000
_BAD = {Verdict.REGRESSION.value, Verdict.FIXED.value}
_ODD = {Verdict.INVALID.value, Verdict.ERROR.value}


def write_reports(directory: Path, records: Sequence[Record]) -> tuple[Path, Path, Path]:
    """Write report.html, junit.xml and allure/ beside results.jsonl in ``directory``; raises StorageError."""
    last = {str(record["id"]): record for record in records}
    page, junit = directory / PAGE, directory / JUNIT
    try:
        page.write_text(html(directory, list(last.values())), encoding="utf-8")
        junit.write_bytes(junit_xml(list(last.values())))
        # Imported here: only the end of a matrix needs it, and it brings pytest with it.
        from harness.reporting.allure import write_allure  # noqa: PLC0415 -- see above

        allure = write_allure(directory, list(last.values()))
    except OSError as error:
        raise StorageError(f"cannot write a report in {directory}: {error.strerror}") from error
    return page, junit, allure


def html(directory: Path, records: Sequence[Record]) -> str:
    """Return the page, with the ends of each cell's logs from its evidence in ``directory``."""
    share = max(_LEAST_SHARE, min(_LOG_SHARE, _ALL_LOGS // max(1, len(records))))
    data = json.dumps([_with_evidence(directory, one, share) for one in records])
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


def _with_evidence(directory: Path, record: Record, share: int) -> dict[str, Any]:
    extended = dict(record)
    place = evidence_of(directory, record)
    if place:
        extended["files"] = sorted(
            path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()
        )
        extended["logs"] = {name: _tail(path, share) for name, path in logs_of(place).items()}
        extended["command"] = _text(place / "command.txt").strip()
        extended["registers"] = _registers(place / REGISTERS)
    return extended


def _registers(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError:  # not there, or cut off by a full disk: the record has the judged ones
        return None


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _tail(path: Path, share: int) -> str:
    text = _text(path)
    return text if len(text) <= share else f"...\n{text[-share:]}"
