"""A checkpoint on its way between two hosts: dumped on one, carried as a directory, restored on the other."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.known_issues import known_issue
from harness.catalogue.outcome import Outcome, Premise
from harness.catalogue.prediction import predict
from harness.catalogue.scenario import MachineSpec, Scenario
from harness.core.deadline import Deadline
from harness.core.errors import IntegrityError, MachineError, StorageError, UsageError
from harness.guest.checkpoint import make_room
from harness.guest.container import IMAGES, OUTPUT, Container
from harness.guest.criu import CriuRun, read_log
from harness.guest.driver import CheckpointDriver
from harness.guest.probe import SALT
from harness.guest.probe_results import MachineFacts, ThreadsReport, WatchReport, parse, plain
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import check
from harness.scenario.lab import MachineKind
from harness.scenario.premises import PremiseObserver, declare_keys_change
from harness.scenario.run import ScenarioRun
from harness.scenario.site import Site

FORMAT = 1
MANIFEST, ARCHIVE = "manifest.json", "checkpoint.tar"
_MOVE_SECONDS = 60.0
_LOG = "dump-1.log"
_REPORTS = {"host": MachineFacts, "held": ThreadsReport, "rehearsal": WatchReport}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The manifest of a checkpoint directory.

    ``criu``, ``module``, ``workload`` and ``base`` are names; ``userland`` is a digest of what the
    container was made of. ``pid`` is the task's in the container, ``ticks`` how many it had shown.
    ``host``, ``held`` and ``rehearsal`` are what the probe saw. ``premises``: declared and observed by
    name. ``sha256`` is the archive's.
    """

    criu: str
    module: str
    workload: str
    base: str
    userland: str
    pid: int
    ticks: int
    host: MachineFacts
    held: ThreadsReport
    rehearsal: WatchReport
    premises: Mapping[str, tuple[bool | None, bool | None]]
    sha256: str
    harness: str = __version__

    def save(self, directory: Path, archive: bytes) -> None:
        """Write archive and manifest; raises StorageError."""
        names = [one.name for one in dataclasses.fields(self)]
        document = {"format": FORMAT} | {name: plain(getattr(self, name)) for name in names}
        # The images hold the memory of the task, and its keys.
        files = {ARCHIVE: archive, MANIFEST: json.dumps(document, indent=1).encode()}
        try:
            for name, content in files.items():
                descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(content)
        except OSError as error:
            raise StorageError(f"cannot write {directory}: {error.strerror}") from error


def new_directory(path: Path) -> Path:
    """Make the directory of a checkpoint; UsageError when something is there, StorageError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise UsageError(f"{path} is not empty")
        path.chmod(0o700)
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror}") from error
    return path


def load(directory: Path) -> tuple[Checkpoint, bytes]:
    """Return manifest and archive of a checkpoint directory.

    Raises UsageError for something else than one, IntegrityError for a damaged one.
    """
    path = directory / MANIFEST
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        archive = (directory / ARCHIVE).read_bytes()
        if document.pop("format") != FORMAT:
            raise UsageError(
                f"{path} is of another format than {FORMAT}", hint="restore with the harness it is of"
            )
        for name, kind in _REPORTS.items():
            document[name] = parse(kind, f"report {name}", json.dumps(document[name]))
        document["premises"] = {name: tuple(pair) for name, pair in document["premises"].items()}
        checkpoint = Checkpoint(**document)
    except OSError as error:
        raise UsageError(f"{directory} is no checkpoint: {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, MachineError) as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error
    if hashlib.sha256(archive).hexdigest() != checkpoint.sha256:
        raise IntegrityError(f"{directory / ARCHIVE} is not what its manifest says: copy it again")
    return checkpoint, archive


def refusal(scenario: Scenario, checkpoint: Checkpoint, here: MachineFacts, userland: str) -> str | None:
    """Return why restoring ``checkpoint`` as ``scenario`` on the host ``here`` cannot work, or None.

    What only lacks its keys is let through: that is the bug, and a restore shows it.
    """
    source, target = scenario.source, scenario.target
    if userland != checkpoint.userland:
        return (
            f"the container here is made of other files than where it was dumped ({checkpoint.base} of "
            f"harness {checkpoint.harness}), and CRIU compares what the task has mapped"
        )
    if here.page_size != checkpoint.host.page_size:
        return f"pages are {here.page_size} bytes here and {checkpoint.host.page_size} where it was dumped"
    issue = known_issue(scenario)
    if issue and issue.outcome in {Outcome.RESTORE_REFUSED, Outcome.HUNG, Outcome.DUMP_FAILED}:
        return f"known issue {issue.id}: {issue.title}"
    prediction = predict(scenario)
    other = source.cpu.pac != target.cpu.pac or not prediction.same_codes
    if prediction.outcome is Outcome.RESTORE_REFUSED or (other and prediction.outcome.is_fault):
        return prediction.why
    return None


class Dumping(ScenarioRun):
    """Dumps, keeps the checkpoint in ``directory``, and restores nothing."""

    directory: Path
    userland: str
    saved: Checkpoint | None = None
    _running: RunningWorkload

    def before_dump(self, container: Container, running: RunningWorkload) -> None:  # noqa: ARG002 -- the base's
        """Remember what is dumped."""
        self._running = running

    def between(self, container: Container, cycle: int) -> None:  # noqa: ARG002 -- the base's
        """Take the images out of the host before they are cleared away."""
        seen, cell = self.seen, self.scenario
        assert seen.machine and seen.held and seen.rehearsal, "the premises were observed"  # noqa: PT018
        deadline = Deadline.after(_MOVE_SECONDS, "taking the checkpoint along")
        paths = [path.lstrip("/") for path in (IMAGES, OUTPUT, SALT)]
        archive = check(container.machine, ["tar", "-cf", "-", "-C", "/", *paths], deadline).stdout
        self.saved = Checkpoint(
            criu=cell.criu_dump.spelled,
            module=cell.module.value,
            workload=cell.workload.name,
            base=cell.base.name,
            userland=self.userland,
            pid=self._running.pid,
            ticks=seen.ticks_before,
            host=seen.machine,
            held=seen.held,
            rehearsal=seen.rehearsal,
            premises={one.name: (one.declared, one.observed) for one in seen.premises.values()},
            sha256=hashlib.sha256(archive).hexdigest(),
        )
        self.saved.save(self.directory, archive)

    def _restore(
        self,
        driver: CheckpointDriver,  # noqa: ARG002 -- the base's, as the next two
        running: RunningWorkload,
        cycle: int,  # noqa: ARG002
        *,
        exits_before: int,  # noqa: ARG002
    ) -> tuple[RunningWorkload, bool]:
        return running, False


class Restoring(ScenarioRun):
    """Restores ``checkpoint`` here; what was observed where it was dumped comes with it."""

    checkpoint: Checkpoint
    archive: bytes

    def _in_machine(self) -> None:
        cell, target = self.scenario, self.scenario.target
        kind = MachineKind(cpu=target.cpu, kernel=target.kernel, base=self.base, builds=(cell.criu_restore,))
        with self._phase("template"):
            prepared = self.lab.template(kind)
        self._limit = Deadline.after(self.options.timeout, f"arm {self.arm}")
        with self._site(prepared, self._evidence) as site:
            self._arrive(site)

    def _arrive(self, site: Site) -> None:
        seen, was, container = self.seen, self.checkpoint, site.container
        seen.template = site.facts
        with self._phase("move"):
            deadline = self._limit.within(_MOVE_SECONDS, "unpacking the checkpoint")
            check(site.machine, ["tar", "-xf", "-", "-C", "/"], deadline, stdin=self.archive)
            make_room(container, was.pid, deadline)
            for name, (declared, observed) in was.premises.items():
                seen.premises[name] = Premise(name=name, declared=declared, observed=observed)
            PremiseObserver(self.scenario, seen).observe_target(site, deadline)
            seen.machine, seen.held, seen.rehearsal = was.host, was.held, was.rehearsal
            seen.ticks_before, seen.ticks_wanted = was.ticks, self.scenario.workload.watch_ticks
            seen.dump = CriuRun(
                argv=("criu-pac", "dump"),
                returncode=0,
                log=read_log(container, _LOG),
                log_name=_LOG,
                said="",
                seconds=0.0,
            )
            declare_keys_change(self.scenario, seen)
        if self._premises_hold():
            running = RunningWorkload(container=container, workload=self.scenario.workload, pid=was.pid)
            running, _ = self._restore(self.driver(site), running, 1, exits_before=0)
            self._look_at_hang(site, running)


def arriving(start: Scenario, source: MachineSpec, restore: CriuBuild) -> Scenario:
    """Return what it is to restore here, by ``restore``, what ``start`` would have dumped on ``source``."""
    return dataclasses.replace(start, source=source, criu_restore=restore)
