"""Who calls CRIU: one protocol, and what the engines have in common that start it themselves."""

import shlex
from collections.abc import Callable
from typing import Protocol

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.scenario import KeyModule
from harness.catalogue.workloads import Workload
from harness.core.deadline import Deadline
from harness.guest.container import IMAGES, OUTPUT, WORKLOADS, Container
from harness.guest.criu import KEY_MODULE, Criu, CriuRun, criu_command
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check

DEFAULT_LIBRARIES = "/usr/lib/criu"
CONFIGURATION = "/etc/criu"
_SIGNALLED = 128
LOADED_FROM = ("default-directory", "default.conf", "runc.conf")


class CheckpointDriver(Protocol):
    """Starts a workload, dumps it, restores it. Nothing in a driver is retried."""

    def launch(self, workload: Workload, deadline: Deadline) -> RunningWorkload:
        """Start the workload and do not wait for it."""

    def dump(self, running: RunningWorkload, deadline: Deadline, *, cycle: int) -> CriuRun:
        """Dump the workload, which ends when that succeeds."""

    def restore(
        self, running: RunningWorkload, deadline: Deadline, *, cycle: int
    ) -> tuple[CriuRun, RunningWorkload]:
        """Restore it; the workload as it is known from now on comes with the call."""


class DirectCriu:
    """CRIU called in the container that the workload runs in; ``criu`` gives the build of either step."""

    def __init__(self, container: Container, criu: Callable[..., Criu]) -> None:
        self._container = container
        self._criu = criu

    def launch(self, workload: Workload, deadline: Deadline) -> RunningWorkload:
        """Start the workload and do not wait for it."""
        return RunningWorkload.launch(self._container, workload, deadline)

    def dump(self, running: RunningWorkload, deadline: Deadline, *, cycle: int) -> CriuRun:
        """Call ``criu dump``."""
        return self._criu(self._container, restoring=False).dump(running.pid, deadline, cycle=cycle)

    def restore(
        self, running: RunningWorkload, deadline: Deadline, *, cycle: int
    ) -> tuple[CriuRun, RunningWorkload]:
        """Call ``criu restore``; the workload keeps its process id."""
        return self._criu(self._container, restoring=True).restore(deadline, cycle=cycle), running


def workload_command(workload: Workload) -> list[str]:
    """Return the words that run a workload inside a container of its own, output in the shared file."""
    directory = f"{WORKLOADS}/{workload.name}"
    program = f"cd {shlex.quote(directory)} && exec {shlex.join(workload.argv)}"
    return ["/bin/bash", "-c", f"{program} >> {OUTPUT} 2>&1 < /dev/null"]


def wait_status(exit_code: int) -> int:
    """Return the raw wait status behind an engine's exit code: 128 and a signal's number, or the code."""
    return exit_code - _SIGNALLED if exit_code > _SIGNALLED else exit_code << 8


def provide_criu(
    machine: Machine,
    build: CriuBuild,
    module: KeyModule,
    deadline: Deadline,
    *,
    loaded_from: str = LOADED_FROM[0],
) -> None:
    """Make ``build`` the machine's criu, and let it find the key module in one of three ways.

    ``loaded_from`` is one of LOADED_FROM: CRIU's default directory, or ``libdir`` in a
    configuration file of CRIU or of runc. Each clone has files of its own above the image's.
    """
    command = " ".join(shlex.quote(word) for word in criu_command(build))
    policy = f"export CRIU_PAC_POLICY={module.policy}\n" if module.policy else ""
    script = f'#!/bin/bash\n{policy}exec {command} "$@"\n'
    words = [
        f"rm -rf {DEFAULT_LIBRARIES} {CONFIGURATION}; mkdir -p {DEFAULT_LIBRARIES} {CONFIGURATION} {IMAGES}",
        f"printf %s {shlex.quote(script)} > /usr/sbin/criu && chmod 755 /usr/sbin/criu",
    ]
    if module.loaded and loaded_from == LOADED_FROM[0]:
        words.append(f"cp {KEY_MODULE}/*.so {DEFAULT_LIBRARIES}")
    elif module.loaded:
        words.append(f"echo 'libdir {KEY_MODULE}' > {CONFIGURATION}/{loaded_from}")
    check(machine, ["bash", "-ec", "\n".join(words)], deadline)
