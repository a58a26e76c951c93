"""Allure: result files from records, and the same through allure-pytest within a test.

https://allurereport.org/docs/how-it-works-test-result-file/
"""

import hashlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import allure
from allure_commons.logger import AllureFileLogger
from allure_commons.model2 import Attachment, Label, Link, Parameter, Status, StatusDetails
from allure_commons.model2 import TestResult as AllureResult
from allure_commons.model2 import TestStepResult as AllureStep
from allure_commons.types import AttachmentType, LabelType, LinkType

from harness.catalogue.known_issues import KNOWN_ISSUES
from harness.catalogue.outcome import Verdict
from harness.core import steps
from harness.core.steps import StepEvent
from harness.reporting.logs import REGISTERS, evidence_of, logs_of
from harness.scenario.result import ScenarioResult
from harness.scenario.run import ScenarioRun

Record = Mapping[str, Any]

DIRECTORY = "allure"

_OURS = ("*-result.json", "*-attachment.*")
_STATUS = {
    Verdict.AS_PREDICTED: Status.PASSED,
    Verdict.KNOWN_ISSUE: Status.PASSED,
    Verdict.REGRESSION: Status.FAILED,
    Verdict.FIXED: Status.FAILED,
    Verdict.INVALID: Status.BROKEN,
    Verdict.ERROR: Status.BROKEN,
}
_DIMENSIONS = (
    *("criu_dump", "criu_restore", "kernel", "target_kernel", "cpu", "target_cpu"),
    *("base", "workload", "driver", "module"),
)


def write_allure(directory: Path, records: Sequence[Record]) -> Path:
    """Write a result file per cell into ``directory``/allure, in place of those of an earlier report.

    Raises OSError.
    """
    place = directory / DIRECTORY
    for form in _OURS:
        for path in place.glob(form):
            path.unlink()
    logger = AllureFileLogger(str(place))
    for record in records:
        logger.report_result(_result(logger, directory, record))
    return place


def _result(logger: AllureFileLogger, directory: Path, record: Record) -> AllureResult:
    verdict, name = Verdict(record["verdict"]), str(record["id"])
    identity = hashlib.sha256(name.encode()).hexdigest()
    started = _milliseconds(record)
    labels = {
        LabelType.FRAMEWORK: "criu-pac-harness",
        LabelType.PARENT_SUITE: "criu-pac matrix",
        LabelType.SUITE: f"CRIU {record['criu_dump']}",
        LabelType.SUB_SUITE: record["workload"],
    }
    tags = [record["outcome"], record["verdict"], *([record["known_issue"]] if record["known_issue"] else [])]
    return AllureResult(
        uuid=str(uuid4()),
        historyId=identity,
        testCaseId=identity,
        name=name,
        fullName=name,
        status=_STATUS[verdict],
        statusDetails=StatusDetails(known=verdict is Verdict.KNOWN_ISSUE, message=_message(record)),
        stage="finished",
        start=started,
        stop=started + round(1000 * record["seconds"]),
        parameters=[Parameter(name=one, value=str(record[one])) for one in _DIMENSIONS],
        labels=[
            *(Label(name=one, value=value) for one, value in labels.items()),
            *(Label(name=LabelType.TAG, value=tag) for tag in tags),
        ],
        links=[Link(type=LinkType.ISSUE, url=url, name=issue) for issue, url in _issues(record)],
        steps=_phases(record, started),
        attachments=[_copied(logger, name, path) for name, path in _attachments(directory, record)],
    )


def _message(record: Record) -> str:
    text = f"{record['outcome']}: {record['reason']}"
    if record["verdict"] == Verdict.KNOWN_ISSUE.value:
        return f"known issue {record['known_issue']}: {text}"
    expected = record["known_issue"] or record["predicted"]
    return text if record["verdict"] == Verdict.AS_PREDICTED.value else f"{text} (expected: {expected})"


def _milliseconds(record: Record) -> int:
    """Return when the cell began, since the epoch; 0 for a line of before that was recorded."""
    started = record.get("started")
    return round(1000 * datetime.fromisoformat(started).timestamp()) if started else 0


def _phases(record: Record, started: int) -> list[AllureStep]:
    """Return a step per phase; without a status, as only the cell as a whole is judged."""
    made, at = [], float(started)
    for name, seconds in record["phases"].items():
        made.append(AllureStep(name=name, start=round(at), stop=round(at + 1000 * seconds), stage="finished"))
        at += 1000 * seconds
    return made


def _issues(record: Record) -> Iterator[tuple[str, str]]:
    for issue in KNOWN_ISSUES:
        if issue.id == record["known_issue"] and issue.url:
            yield f"{issue.id}: {issue.title}", issue.url


def _attachments(directory: Path, record: Record) -> Iterator[tuple[str, Path]]:
    place = evidence_of(directory, record)
    if place is None:
        return
    if (place / REGISTERS).is_file():
        yield REGISTERS, place / REGISTERS
    yield from logs_of(place).items()


def _type(path: Path) -> AttachmentType:
    return AttachmentType.JSON if path.suffix == ".json" else AttachmentType.TEXT


def _copied(logger: AllureFileLogger, name: str, path: Path) -> Attachment:
    kind = _type(path)
    source = f"{uuid4()}-attachment.{kind.extension}"
    logger.report_attached_file(str(path), source)
    return Attachment(name=name, source=source, type=kind.mime_type)


def reported(run: ScenarioRun) -> ScenarioResult:
    """Run a scenario within a test, and tell allure-pytest of it; without --alluredir nothing is told.

    Raises what the run raises.
    """
    with allure.step(run.scenario.id):
        with _told_steps():
            result = run.run()
        record = result.record()
        for name in _DIMENSIONS:
            allure.dynamic.parameter(name, record[name])
        for issue, url in _issues(record):
            allure.dynamic.issue(url, issue)
        allure.attach(_message(record), name=str(record["verdict"]), attachment_type=AttachmentType.TEXT)
        for name, path in _attachments(run.options.results, record):
            allure.attach.file(str(path), name=name, attachment_type=_type(path))
    return result


@contextmanager
def _told_steps() -> Iterator[None]:
    """Make a step of Allure of each step of this thread; the outermost is the caller's."""
    thread, running = threading.get_ident(), []

    def tell(event: StepEvent) -> None:
        if threading.get_ident() != thread or len(event.path) == 1:
            return
        if event.kind == "start":
            running.append(allure.step(event.path[-1]))
            running[-1].__enter__()
        elif event.kind in {"end", "fail"}:
            error = sys.exc_info() if event.kind == "fail" else (None, None, None)
            running.pop().__exit__(*error)

    with steps.subscribed(tell):
        yield
