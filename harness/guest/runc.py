"""runc as the caller of CRIU: the workload is a container of its own, with namespaces and seccomp."""

import json
from collections.abc import Mapping
from typing import Any

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.scenario import KeyModule
from harness.catalogue.workloads import Workload
from harness.core.deadline import Deadline
from harness.core.errors import EngineError
from harness.guest.container import EXITS, IMAGES, OUTPUT, WORK, GuestSide
from harness.guest.criu import CriuRun, call_criu, with_log
from harness.guest.driver import LOADED_FROM, provide_criu, workload_command
from harness.guest.probe import PROBE
from harness.guest.workload import RunningWorkload
from harness.machines.protocol import Machine, check

_BUNDLE = "/run/criu-pac-bundle"
_ID = "workload"
_PID_FILE = "/run/criu-pac-runc.pid"
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
_IDENTITY = [{"containerID": 0, "hostID": 0, "size": 65536}]
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
# Everything is allowed but one call that no workload makes: the filter is there and has to be restored.
_SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_AARCH64"],
    "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
}


def runtime_spec(root: str, command: list[str], *, user_namespace: bool) -> Mapping[str, Any]:
    """Return the config.json of a container on the root file system ``root``: OCI runtime spec 1.0."""
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in _NAMESPACES]
    mapping: dict[str, Any] = {}
    if user_namespace:
        namespaces.append({"type": "user"})
        mapping = {"uidMappings": _IDENTITY, "gidMappings": _IDENTITY}
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    ]
    if not user_namespace:  # CRIU cannot bind a directory of the outer user namespace again
        mounts.append({"destination": WORK, "type": "bind", "source": WORK, "options": ["rbind", "rw"]})
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "hostname": "workload",
        "root": {"path": root, "readonly": False},
        "mounts": mounts,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": command,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(sets, _CAPABILITIES),
        },
        "linux": {"namespaces": namespaces, "seccomp": _SECCOMP, **mapping},
    }


class Runc:
    """runc with one CRIU build for the dump and one for the restore, in one machine."""

    def __init__(
        self,
        machine: Machine,
        root: str,
        builds: tuple[CriuBuild, CriuBuild],
        module: KeyModule,
        *,
        loaded_from: str = LOADED_FROM[0],
        user_namespace: bool = False,
    ) -> None:
        self._machine = machine
        self._guest = GuestSide(machine)
        self._root = root
        self._builds = builds
        self._module = module
        self._loaded_from = loaded_from
        self._user_namespace = user_namespace

    def launch(self, workload: Workload, deadline: Deadline) -> RunningWorkload:
        """Start the workload as a container and do not wait for it."""
        spec = runtime_spec(self._root, workload_command(workload), user_namespace=self._user_namespace)
        if self._user_namespace:  # its output is a file of its own root instead
            own = f"{self._root}{OUTPUT}"
            share = f"mkdir -p {self._root}{WORK} && : > {own} && ln -sf {own} {OUTPUT}"
            check(self._machine, ["bash", "-c", share], deadline)
        write = ["bash", "-c", f"mkdir -p {_BUNDLE} && cat > {_BUNDLE}/config.json"]
        check(self._machine, write, deadline, stdin=json.dumps(spec).encode())
        start = [
            PROBE,
            "adopt",
            EXITS,
            "runc",
            "run",
            "--detach",
            "--bundle",
            _BUNDLE,
            *self._pid_file(),
            _ID,
        ]
        result = self._machine.run(start, deadline)
        if result.returncode != 0:
            raise EngineError(f"runc run ended with {result.returncode}: {result.error_text.strip()}")
        return RunningWorkload(container=self._guest, workload=workload, pid=self._pid(deadline), nspid=1)

    def dump(self, running: RunningWorkload, deadline: Deadline, *, cycle: int) -> CriuRun:  # noqa: ARG002
        """Call ``runc checkpoint``."""
        self._provide(self._builds[0], deadline)
        words = ("runc", "checkpoint", *self._images(), _ID)
        return self._named(call_criu(self._guest, words, "dump.log", deadline), f"dump-{cycle}.log")

    def restore(
        self, running: RunningWorkload, deadline: Deadline, *, cycle: int
    ) -> tuple[CriuRun, RunningWorkload]:
        """Call ``runc restore``; the workload gets another process id in the guest."""
        self._provide(self._builds[1], deadline)
        check(self._machine, ["rm", "-f", _PID_FILE], deadline)
        words = (PROBE, "adopt", EXITS, "runc", "restore", "--detach", *self._images())
        words = (*words, "--bundle", _BUNDLE, *self._pid_file(), _ID)
        call = self._named(call_criu(self._guest, words, "restore.log", deadline), f"restore-{cycle}.log")
        pid = self._pid(deadline, missing=0)
        return call, running.restored_as(pid) if pid else running

    def _provide(self, build: CriuBuild, deadline: Deadline) -> None:
        provide_criu(self._machine, build, self._module, deadline, loaded_from=self._loaded_from)

    def _images(self) -> tuple[str, ...]:
        return ("--image-path", IMAGES, "--work-path", IMAGES)

    def _pid_file(self) -> tuple[str, ...]:
        return ("--pid-file", _PID_FILE)

    def _pid(self, deadline: Deadline, *, missing: int | None = None) -> int:
        text = self._machine.run(["cat", _PID_FILE], deadline).text.strip()
        if text.isdecimal():
            return int(text)
        if missing is None:
            raise EngineError("runc told no process id of the container it started")
        return missing

    def _named(self, call: CriuRun, name: str) -> CriuRun:
        """Keep the log under the name that the evidence looks for."""
        rename = ["bash", "-c", f"mv {IMAGES}/{call.log_name} {IMAGES}/{name}; exit 0"]
        check(self._machine, rename, Deadline.after(20, "CRIU's log"))
        return with_log(self._guest, call, name)
