"""A workload running in the scenario container: start, progress, verify."""

import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalogue.names import suggestion
from harness.catalogue.workloads import Workload, parse_workload
from harness.core.deadline import Deadline
from harness.core.errors import LongFileError, UsageError, WorkloadError
from harness.core.resources import data_directory
from harness.guest.container import EXITS, OUTPUT, WORKLOADS, Container
from harness.machines.protocol import check

_FILE = "workload.toml"
_LOOK_SECONDS = 10.0  # for one look at a workload's files
_POLL_SECONDS = 0.02
_LINE = 200  # characters of a line that an error quotes


def available_workloads() -> tuple[str, ...]:
    """Return the names of the workloads that come with the harness, sorted."""
    return tuple(sorted(path.parent.name for path in data_directory("workloads").glob("*/workload.toml")))


def load_workload(name: str, *directories: Path) -> Workload:
    """Return the workload of a name or of a directory ("./mine").

    A name is one of the harness's own, or else that of a directory with a workload.toml in one
    of ``directories``. UsageError for an unknown one, WorkloadError for a broken file.
    """
    if "/" in name:
        return _read(Path(name))
    own = data_directory("workloads") / name / _FILE
    if name in available_workloads():
        return parse_workload(own.read_text("utf-8"), str(own))
    foreign = {
        path.parent.name: path.parent for one in reversed(directories) for path in one.glob(f"*/{_FILE}")
    }
    if name not in foreign:
        known = (*available_workloads(), *foreign)
        raise UsageError(f"unknown workload {name!r}", hint=suggestion(name, known))
    return _read(foreign[name])


def _read(directory: Path) -> Workload:
    """Return the workload in a directory that is not the harness's."""
    path = directory / _FILE
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        hint = "a workload is a directory with a workload.toml"
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    workload = parse_workload(text, str(path))
    whole = directory.resolve()
    if workload.name != whole.name:
        raise WorkloadError(f"{path}: name: {workload.name!r} must be the directory's name, {whole.name!r}")
    if workload.name in available_workloads():
        raise WorkloadError(f"{path}: name: {workload.name!r} is a workload that comes with the harness")
    return replace(workload, path=str(whole))


def workload_directory(workload: Workload) -> Path:
    """Return the host directory with the workload's sources."""
    return Path(workload.path) if workload.path else data_directory("workloads") / workload.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a workload has shown: lines so far, ticks among them, and its ends (raw wait statuses).

    A process that is dumped ends as well, so every life has an end of its own.
    """

    lines: tuple[str, ...]
    ticks: int
    exits: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningWorkload:
    """A started workload; ``pid`` is its id where ``container``'s commands run.

    In a container shared with CRIU that is the same before and after a restore. One that is a
    container of its own gets another there with each restore, and is 1 in its own namespace:
    ``nspid``; ``former`` are the ids of its earlier lives. ``ends`` tells the raw wait statuses
    of the lives that are over where not the file of exits does.
    """

    container: Container
    workload: Workload
    pid: int
    nspid: int | None = None
    former: tuple[int, ...] = ()
    ends: Callable[[Deadline], tuple[int, ...]] | None = None

    @property
    def own_pid(self) -> int:
        """Its id in its innermost pid namespace."""
        return self.pid if self.nspid is None else self.nspid

    def restored_as(self, pid: int) -> "RunningWorkload":
        """Return the same workload in its next life."""
        return replace(self, pid=pid, former=(*self.former, self.pid))

    @classmethod
    def launch(cls, container: Container, workload: Workload, deadline: Deadline) -> "RunningWorkload":
        """Start the workload and do not wait for it."""
        directory = f"{WORKLOADS}/{workload.name}"
        program = ["bash", "-c", f"cd {shlex.quote(directory)} && exec {shlex.join(workload.argv)}"]
        pid = container.probe.launch(OUTPUT, program, deadline)
        return cls(container=container, workload=workload, pid=pid)

    @classmethod
    def start(cls, container: Container, workload: Workload, deadline: Deadline) -> "RunningWorkload":
        """Start the workload and wait until it is ready; raises as ``wait_ready``."""
        running = cls.launch(container, workload, deadline)
        running.wait_ready(deadline)
        return running

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait for readiness; WorkloadError when the workload ends, floods or is not ready in time."""
        name, pattern = self.workload.name, self.workload.ready.pattern

        def ready() -> bool | None:
            over = deadline.expired
            seen = self.progress(deadline)
            said = seen.lines[-1][-_LINE:] if seen.lines else "no output"
            if seen.exits:
                raise WorkloadError(f"workload {name} ended before it was ready: {said}")
            if any(self.workload.ready.search(line) for line in seen.lines):
                return True
            if over:
                within = f"within {deadline.seconds:g} s of {deadline.what}"
                raise WorkloadError(f"workload {name} printed no line like {pattern} {within}; last: {said}")
            return None

        deadline.poll(ready)

    def signed_values(self, deadline: Deadline) -> int:
        """Return how many signed pointers a ready workload with the flag signed-data tells of."""
        found = (self.workload.ready.search(line) for line in self.progress(deadline).lines)
        return next(int(one["signed"]) for one in found if one)

    def progress(self, deadline: Deadline) -> Progress:
        """Return what the workload has shown so far; a look is finished even after the deadline.

        WorkloadError when that is more than can be looked at.
        """
        # Files are read by the agent itself: a process in the guest costs a tenth of a second.
        # An exit recorded before the output is read cannot hide lines written before it.
        machine, look = (
            self.container.machine,
            Deadline.after(deadline.remaining + _LOOK_SECONDS, deadline.what),
        )
        exits = self._exits(look)
        try:
            lines = tuple(machine.read_file(OUTPUT, look).decode("utf-8", "replace").splitlines())
        except LongFileError as error:
            raise WorkloadError(f"workload {self.workload.name} floods its output: {error}") from error
        return Progress(
            lines=lines,
            ticks=sum(1 for line in lines if self.workload.progress.search(line)),
            exits=exits,
        )

    def _exits(self, deadline: Deadline) -> tuple[int, ...]:
        if self.ends:
            return self.ends(deadline)
        text = self.container.machine.read_file(EXITS, deadline).decode()
        return exit_statuses(text, self.pid, *self.former)

    def ticks(self, deadline: Deadline) -> int:
        """Return the number of ticks so far."""
        return self.progress(deadline).ticks

    def wait_progress(self, ticks: int, deadline: Deadline, *, exits_before: int = 0) -> Progress:
        """Wait until the workload has shown ``ticks`` in all, or has ended, or the deadline is over.

        ``exits_before`` ends are not of this life. The last thing seen is returned in every
        case: whether it is enough is the caller's to judge.
        """
        while True:
            over = deadline.expired
            seen = self.progress(deadline)
            if over or len(seen.exits) > exits_before or seen.ticks >= ticks:
                return seen
            time.sleep(_POLL_SECONDS)

    def wait_exit(self, deadline: Deadline, *, exits_before: int = 0) -> int:
        """Wait for the end of the workload and return its raw wait status."""

        def ended() -> int | None:
            exits = self.progress(deadline).exits
            return exits[-1] if len(exits) > exits_before else None

        return deadline.poll(ended, last_seen="still running")

    def wait_tree_exit(self, pids: Iterable[int], deadline: Deadline, *, exits_before: int = 0) -> None:
        """Wait until all other processes of a dumped tree are dead and reaped: a restore wants their ids."""
        others = set(pids) - {self.pid}

        def all_ended() -> bool | None:
            exits = self.container.machine.read_file(EXITS, deadline).decode()
            return all(len(exit_statuses(exits, pid)) > exits_before for pid in others) or None

        if others:
            deadline.poll(all_ended, last_seen=f"not all of the processes {sorted(others)} are gone")

    def end(self, deadline: Deadline) -> None:
        """Kill the process."""
        self._signal("SIGKILL", deadline)

    def _signal(self, name: str, deadline: Deadline) -> None:
        words = ["bash", "-c", f"kill -{name.removeprefix('SIG')} {self.pid}"]
        check(self.container.machine, [*self.container.prefix, *words], deadline)

    def verify(self, deadline: Deadline) -> bool | None:
        """Ask the workload to verify itself; None when its contract has no such request."""
        request = self.workload.verify
        if request is None:
            return None
        before = self.progress(deadline)
        self._signal(request.signal, deadline)

        def answer() -> bool | None:
            seen = self.progress(deadline)
            for line in seen.lines[len(before.lines) :]:
                if request.passed.search(line):
                    return True
                if request.failed.search(line):
                    return False
            return False if len(seen.exits) > len(before.exits) else None

        return deadline.poll(answer, last_seen="no PASS or FAIL")


def exit_statuses(exits: str, *pids: int) -> tuple[int, ...]:
    """Return the raw wait statuses recorded for any of ``pids`` in the lines "pid status", in order."""
    words = [line.split() for line in exits.splitlines()]
    wanted = {str(pid) for pid in pids}
    return tuple(int(one[1]) for one in words if len(one) == len(("pid", "status")) and one[0] in wanted)
