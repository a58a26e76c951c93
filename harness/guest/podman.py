"""podman as the caller of CRIU: conmon and crun in between."""

import shlex

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.scenario import KeyModule
from harness.catalogue.workloads import Workload
from harness.core.deadline import Deadline
from harness.core.errors import EngineError
from harness.guest.container import IMAGES, WORK, GuestSide
from harness.guest.criu import CriuRun, call_criu, with_log
from harness.guest.driver import provide_criu, wait_status, workload_command
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check

_NAME = "workload"
# Its files on a tmpfs (the root is an overlay), no systemd to ask for cgroups.
_PODMAN = (
    *("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "crun"),
    *("--root", "/run/criu-pac-podman/root", "--runroot", "/run/criu-pac-podman/run"),
)
_LOGS = "/run/criu-pac-podman"


class Podman:
    """podman of one machine, with one CRIU build for the dump and one for the restore."""

    def __init__(
        self, machine: Machine, root: str, builds: tuple[CriuBuild, CriuBuild], module: KeyModule
    ) -> None:
        self._machine = machine
        self._guest = GuestSide(machine)
        self._root = root
        self._builds = builds
        self._module = module
        self._earlier: tuple[int, ...] = ()  # ends of the lives before this one

    def launch(self, workload: Workload, deadline: Deadline) -> RunningWorkload:
        """Start the workload as a container and do not wait for it."""
        words = [*_PODMAN, "run", "--detach", "--name", _NAME, "--network", "none", "--log-driver", "none"]
        words += ["--volume", f"{WORK}:{WORK}", "--rootfs", self._root, *workload_command(workload)]
        result = self._machine.run(words, deadline)
        if result.returncode != 0:
            raise EngineError(f"podman run ended with {result.returncode}: {result.error_text.strip()}")
        pid = self._state(deadline)[0]
        return RunningWorkload(container=self._guest, workload=workload, pid=pid, nspid=1, ends=self._ends)

    def dump(self, running: RunningWorkload, deadline: Deadline, *, cycle: int) -> CriuRun:  # noqa: ARG002
        """Call ``podman container checkpoint``, which ends the container."""
        provide_criu(self._machine, self._builds[0], self._module, deadline)
        return self._call("checkpoint", f"dump-{cycle}.log", deadline)

    def restore(
        self, running: RunningWorkload, deadline: Deadline, *, cycle: int
    ) -> tuple[CriuRun, RunningWorkload]:
        """Call ``podman container restore``; the workload gets another process id in the guest."""
        provide_criu(self._machine, self._builds[1], self._module, deadline)
        self._earlier = self._ends(deadline)
        call = self._call("restore", f"restore-{cycle}.log", deadline)
        pid = self._state(deadline)[0]
        return call, running.restored_as(pid) if pid else running

    def _call(self, action: str, log_name: str, deadline: Deadline) -> CriuRun:
        words = (*_PODMAN, "container", action, "--keep", _NAME)
        call = call_criu(self._guest, words, log_name, deadline)
        kind = log_name.partition("-")[0]
        keep = f"shopt -s globstar; cp {_LOGS}/**/{kind}.log {IMAGES}/{log_name} || echo none"
        check(self._machine, ["bash", "-c", keep], Deadline.after(20, "CRIU's log"))
        return with_log(self._guest, call, log_name)

    def _ends(self, deadline: Deadline) -> tuple[int, ...]:
        """Return a raw wait status for every life that is over."""
        _, running, code = self._state(deadline)
        if running:
            return self._earlier
        return (*self._earlier, wait_status(code))

    def _state(self, deadline: Deadline) -> tuple[int, bool, int]:
        """Return process id, whether it runs, and exit code, of podman's own record."""
        template = "{{.State.Pid}} {{.State.Running}} {{.State.ExitCode}}"
        words = [*_PODMAN, "inspect", "--format", template, _NAME]
        told = check(self._machine, words, deadline).text.split()
        if len(told) != len(("pid", "running", "code")):
            raise EngineError(f"podman inspect told {shlex.join(told)}")
        return int(told[0]), told[1] == "true", int(told[2])
