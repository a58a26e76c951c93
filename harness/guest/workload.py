"""A workload running in the scenario container: start, progress, verify."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.catalogue.workloads import Workload, parse_workload
from harness.core.deadline import Deadline
from harness.core.errors import UsageError, WorkloadError
from harness.core.resources import data_directory
from harness.guest.container import EXITS, OUTPUT, WORKLOADS, Container
from harness.machines.protocol import check


def available_workloads() -> tuple[str, ...]:
    """Return the names of the workloads that come with the harness, sorted."""
    return tuple(sorted(path.parent.name for path in data_directory("workloads").glob("*/workload.toml")))


def load_workload(name: str) -> Workload:
    """Return the workload ``name``; UsageError for an unknown one, WorkloadError for a broken file."""
    path = data_directory("workloads") / name / "workload.toml"
    if not path.is_file():
        raise UsageError(f"no workload {name!r}; there are {', '.join(available_workloads())}")
    return parse_workload(path.read_text("utf-8"), str(path))


def workload_directory(workload: Workload) -> Path:
    """Return the host directory with the workload's sources."""
    return data_directory("workloads") / workload.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a workload has shown: lines so far, ticks among them, and how it ended (raw wait status)."""

    lines: tuple[str, ...]
    ticks: int
    exit_status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningWorkload:
    """A started workload; ``pid`` is its id in the container, the same before and after a restore."""

    container: Container
    workload: Workload
    pid: int

    @classmethod
    def start(cls, container: Container, workload: Workload, deadline: Deadline) -> "RunningWorkload":
        """Start the workload and wait until it is ready; WorkloadError when it ends or stays silent."""
        directory = f"{WORKLOADS}/{workload.name}"
        program = ["bash", "-c", f"cd {shlex.quote(directory)} && exec {shlex.join(workload.argv)}"]
        running = cls(
            container=container, workload=workload, pid=container.probe.launch(OUTPUT, program, deadline)
        )

        def ready() -> bool | None:
            seen = running.progress(deadline)
            if seen.exit_status is not None:
                said = seen.lines[-1] if seen.lines else "no output"
                raise WorkloadError(f"workload {workload.name} ended before it was ready: {said}")
            return any(workload.ready.search(line) for line in seen.lines) or None

        deadline.poll(ready, last_seen=f"{workload.name} did not print {workload.ready.pattern}")
        return running

    def progress(self, deadline: Deadline) -> Progress:
        """Return what the workload has shown so far."""
        # One call: an exit recorded before the output is read cannot hide lines written before it.
        script = f"cat {EXITS}; echo; echo --; cat {OUTPUT}"
        text = check(self.container.machine, ["bash", "-c", script], deadline).text
        exits, _, output = text.partition("\n--\n")
        lines = tuple(output.splitlines())
        return Progress(
            lines=lines,
            ticks=sum(1 for line in lines if self.workload.progress.search(line)),
            exit_status=exit_status(exits, self.pid),
        )

    def ticks(self, deadline: Deadline) -> int:
        """Return the number of ticks so far."""
        return self.progress(deadline).ticks

    def wait_progress(self, ticks: int, deadline: Deadline) -> Progress:
        """Wait until the workload has shown ``ticks`` in all, or has ended, or the deadline is over.

        The last thing seen is returned in every case: whether it is enough is the caller's to judge.
        """
        while True:
            over = deadline.expired
            seen = self.progress(Deadline.after(deadline.remaining + 10, deadline.what))
            if over or seen.exit_status is not None or seen.ticks >= ticks:
                return seen

    def wait_exit(self, deadline: Deadline) -> int:
        """Wait for the end of the workload and return its raw wait status."""
        return deadline.poll(lambda: self.progress(deadline).exit_status, last_seen="still running")

    def verify(self, deadline: Deadline) -> bool | None:
        """Ask the workload to verify itself; None when its contract has no such request."""
        request = self.workload.verify
        if request is None:
            return None
        known = len(self.progress(deadline).lines)
        kill = f"kill -{request.signal.removeprefix('SIG')} {self.pid}"
        check(self.container.machine, [*self.container.prefix, "bash", "-c", kill], deadline)

        def answer() -> bool | None:
            seen = self.progress(deadline)
            for line in seen.lines[known:]:
                if request.passed.search(line):
                    return True
                if request.failed.search(line):
                    return False
            return False if seen.exit_status is not None else None

        return deadline.poll(answer, last_seen="no PASS or FAIL")


def exit_status(exits: str, pid: int) -> int | None:
    """Return the last raw wait status recorded for ``pid`` in the lines "pid status"; None if none."""
    found = None
    for line in exits.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == str(pid):  # noqa: PLR2004 -- "pid status"
            found = int(words[1])
    return found
