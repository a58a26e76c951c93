"""`docker checkpoint` as the caller of CRIU: dockerd, containerd's shim and runc in between.

The docker package has no call for it: Engine API, POST /containers/ID/checkpoints and
POST /containers/ID/start?checkpoint=NAME, in an experimental daemon.
"""

import time
from collections.abc import Mapping
from typing import Any

import docker.errors
import requests

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.scenario import KeyModule
from harness.catalogue.workloads import Workload
from harness.core.deadline import Deadline
from harness.core.errors import EngineError
from harness.guest.container import IMAGES, WORK, GuestSide
from harness.guest.criu import CriuRun, read_log
from harness.guest.driver import LOADED_FROM, provide_criu, wait_status, workload_command
from harness.guest.engine import DockerEngine
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check

_NAME = "criu-pac-workload"


class DockerCheckpoint:
    """The engine of one machine, with one CRIU build for the dump and one for the restore."""

    def __init__(
        self,
        machine: Machine,
        image: str,
        builds: tuple[CriuBuild, CriuBuild],
        module: KeyModule,
        *,
        loaded_from: str = LOADED_FROM[0],
    ) -> None:
        self._machine = machine
        self._guest = GuestSide(machine)
        self._image = image
        self._builds = builds
        self._module = module
        self._loaded_from = loaded_from
        self._engine = DockerEngine(machine)
        self._earlier: tuple[int, ...] = ()  # ends of the lives before this one

    def launch(self, workload: Workload, deadline: Deadline) -> RunningWorkload:  # noqa: ARG002 -- the client has its own
        """Start the workload as a container and do not wait for it."""
        try:
            container = self._engine.client.containers.run(
                self._image,
                workload_command(workload),
                name=_NAME,
                detach=True,
                network_mode="none",
                volumes={WORK: {"bind": WORK, "mode": "rw"}},
            )
        except docker.errors.DockerException as error:
            raise EngineError(f"start of the workload's container failed: {error}") from error
        return RunningWorkload(
            container=self._guest,
            workload=workload,
            pid=int(self._state(str(container.id))["Pid"]),
            nspid=1,
            ends=self._ends,
        )

    def dump(self, running: RunningWorkload, deadline: Deadline, *, cycle: int) -> CriuRun:  # noqa: ARG002
        """Make a checkpoint, which ends the container."""
        provide_criu(self._machine, self._builds[0], self._module, deadline, loaded_from=self._loaded_from)
        path = f"/containers/{_NAME}/checkpoints"
        return self._call(path, {"CheckpointID": f"c{cycle}", "Exit": True}, f"dump-{cycle}.log", deadline)

    def restore(
        self, running: RunningWorkload, deadline: Deadline, *, cycle: int
    ) -> tuple[CriuRun, RunningWorkload]:
        """Start the container from its checkpoint; the workload gets another process id in the guest."""
        provide_criu(self._machine, self._builds[1], self._module, deadline, loaded_from=self._loaded_from)
        self._earlier = self._ends(deadline)
        self._make_distinct(f"c{cycle}", deadline)
        path = f"/containers/{_NAME}/start?checkpoint=c{cycle}"
        call = self._call(path, None, f"restore-{cycle}.log", deadline)
        pid = int(self._state(_NAME)["Pid"])
        return call, running.restored_as(pid) if pid else running

    def _make_distinct(self, checkpoint: str, deadline: Deadline) -> None:
        """Give a checkpoint's files another time: its archive must not be the one that made it.

        containerd keeps that until its next garbage collection, and dockerd fails to upload what is
        there ("already exists").
        """
        script = f"touch -d @0 /var/lib/docker/containers/*/checkpoints/{checkpoint}/*"
        check(self._machine, ["bash", "-c", script], deadline)

    def _call(
        self, path: str, body: Mapping[str, object] | None, log_name: str, deadline: Deadline
    ) -> CriuRun:
        """Ask the engine; its answer is the exit code, a missing one a hang."""
        api = self._engine.client.api
        started = time.monotonic()
        code: int | None = 0
        said = ""
        try:
            answer = api.post(f"{api.base_url}{path}", json=body, timeout=deadline.remaining)
            if answer.status_code >= requests.codes.bad_request:
                code, said = 1, answer.json().get("message", answer.text)
        except requests.Timeout:
            code = None
        except requests.RequestException as error:
            raise EngineError(f"container engine: {path} failed: {error}") from error
        self._keep_log(log_name)
        return CriuRun(
            argv=("POST", path),
            returncode=code,
            log=read_log(self._guest, log_name),
            log_name=log_name,
            said=said,
            seconds=time.monotonic() - started,
        )

    def _keep_log(self, log_name: str) -> None:
        """Copy CRIU's log, which lies where containerd's shim let runc put it, under the evidence's name."""
        kind = log_name.partition("-")[0]
        script = f"""
shopt -s globstar nullglob
for log in /run/containerd/**/*{kind}.log /var/lib/docker/containerd/**/*{kind}.log; do
    cp "$log" {IMAGES}/{log_name} || echo "gone with its container: $log"
done
"""
        check(self._machine, ["bash", "-c", script], Deadline.after(20, "CRIU's log"))

    def _ends(self, deadline: Deadline) -> tuple[int, ...]:
        """Return a raw wait status for every life that is over."""
        deadline.check("asking the engine for the end of the workload")
        state = self._state(_NAME)
        if state["Running"]:
            return self._earlier
        code = int(state["ExitCode"])
        return (*self._earlier, wait_status(code))

    def _state(self, name: str) -> Mapping[str, Any]:
        try:
            state: Mapping[str, Any] = self._engine.client.api.inspect_container(name)["State"]
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise EngineError(f"container engine: the state of {name} is not told: {error}") from error
        return state
