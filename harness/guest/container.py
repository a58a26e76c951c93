"""The container that scenarios run in: made by the engine once, joined by its namespaces after.

Joining takes 25 ms with nsenter against 1.5 s with `docker exec` under emulation; the process
gets the same namespaces, root and cgroup either way.
"""

from collections.abc import Sequence

from harness.core.deadline import Deadline
from harness.core.process import CommandResult
from harness.guest.probe import PROBE, Probe
from harness.machines.protocol import Machine

NAME = "criu-pac-scenario"
TOOLS = "/opt/criu-pac"  # read-only, the same in guest and container
WORK = "/run/criu-pac"  # a tmpfs of the guest, the same directory in the container
IMAGES = f"{WORK}/images"
CORES = f"{WORK}/cores"
OUTPUT = f"{WORK}/output"
EXITS = f"{WORK}/exits"
# What evidence is put together in, and gone after. Not in the work directory: a workload that floods its
# output leaves no room there.
LISTS = "/run/criu-pac-evidence"
WORKLOADS = "/opt/workloads"

INIT = [PROBE, "init", "--exits", EXITS]


class Container:
    """Commands in the scenario container of one machine; ``pid`` is its first process's."""

    def __init__(self, machine: Machine, pid: str) -> None:
        self.machine = machine
        self._pid = pid
        self.prefix: tuple[str, ...] = ("nsenter", "-t", pid, "-a", "--")
        self.probe = Probe(machine, self.prefix)

    def read_proc(self, pid: int, name: str, deadline: Deadline) -> str:
        """Return /proc/PID/NAME of a process, by its id in the container."""
        path = f"/proc/{self._pid}/root/proc/{pid}/{name}"
        return self.machine.read_file(path, deadline).decode("utf-8", "replace")

    def run(self, argv: Sequence[str], deadline: Deadline) -> CommandResult:
        """Run a command in the container; see Machine.run."""
        return self.machine.run([*self.prefix, *argv], deadline)


class GuestSide(Container):
    """The guest's own namespaces in a container's place: for workloads that are containers themselves."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, "1")
        self.prefix = ()
        self.probe = Probe(machine)
