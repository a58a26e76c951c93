"""An emulated machine: one QEMU process, its sockets, and nothing left behind."""

import contextlib
import logging
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from harness.core.deadline import Deadline
from harness.core.errors import MachineDiedError, MachineError
from harness.core.process import CommandResult, popen
from harness.core.rundir import RunDirectory
from harness.machines.agent import GuestAgent
from harness.machines.console import Console
from harness.machines.protocol import check
from harness.machines.qemu_config import MachineFiles, QemuConfig, argv

log = logging.getLogger(__name__)


class QemuMachine:
    """A running emulated machine. Use as a context manager, or call ``close``.

    QEMU is a child of the *thread* that made it and dies with that thread (exit-with-parent is
    PR_SET_PDEATHSIG): make a machine in the thread that uses it.
    """

    def __init__(
        self, config: QemuConfig, run_directory: RunDirectory, process: "subprocess.Popen[bytes]"
    ) -> None:
        self.config = config
        self._run_directory = run_directory
        self._process = process
        self.console = Console(config.directory / "console.sock", config.console_log)
        self.agent = GuestAgent(config.directory / "agent.sock", self.lost)
        self._qmp: QEMUMonitorProtocol | None = None

    @classmethod
    def start(
        cls,
        *,
        program: tuple[str, ...],
        cpu: str,
        files: MachineFiles,
        ram: Path,
        ram_shared: bool,
        incoming: bool,
        kernel_arguments: str = "",
    ) -> Self:
        """Start QEMU with listening sockets made here, before it runs.

        Raises HostError when the program cannot be started.
        """
        run_directory = RunDirectory.create()
        directory = run_directory.path
        try:
            with contextlib.ExitStack() as stack:
                fds = {
                    name: stack.enter_context(_listen(directory / f"{name}.sock")).fileno()
                    for name in ("console", "qmp", "agent")
                }
                config = QemuConfig(
                    program=program,
                    cpu=cpu,
                    files=files,
                    directory=directory,
                    ram=ram,
                    ram_shared=ram_shared,
                    incoming=incoming,
                    kernel_arguments=kernel_arguments,
                    console_fd=fds["console"],
                    qmp_fd=fds["qmp"],
                    agent_fd=fds["agent"],
                )
                words = argv(config)
                log.debug("qemu: %s", shlex.join(words))
                with (directory / "qemu.log").open("wb") as output:
                    process = popen(words, stdout=output, stderr=output, pass_fds=tuple(fds.values()))
        except BaseException:
            run_directory.remove()
            raise
        return cls(config, run_directory, process)

    @property
    def directory(self) -> Path:
        """The private directory with this machine's sockets and logs."""
        return self.config.directory

    @property
    def docker_url(self) -> str:
        """URL of the guest's container engine for the docker package."""
        return f"unix://{self.config.docker_socket}"

    @property
    def pid(self) -> int:
        """Process id of QEMU on the host."""
        return self._process.pid

    def boot(self, deadline: Deadline) -> None:
        """Wait until the guest system is up and its agent answers."""
        try:
            with self.console.attached() as spawn:
                self.console.wait_ready(spawn, deadline)
        except OSError as error:
            raise self.lost() from error
        self.agent.connect(deadline)

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Execute one QMP command and return its value.

        Raises MachineDiedError when QEMU is gone, MachineError when it refuses.
        """
        try:
            if self._qmp is None:
                self._qmp = QEMUMonitorProtocol(str(self.directory / "qmp.sock"), nickname=None)
                self._qmp.settimeout(30.0)
                self._qmp.connect()
            reply = self._qmp.cmd_raw(command, arguments or None)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise self.lost() from error
        if "error" in reply:
            raise MachineError(f"QEMU refused {command}: {reply['error'].get('desc')}", log=self._kept_log())
        return reply.get("return")

    def migrate(self, command: str, state: Path, deadline: Deadline) -> None:
        """Save ("migrate") or load ("migrate-incoming") the machine's state without its memory.

        Memory stays in the RAM file (x-ignore-shared): the state file is below 1 MB.
        """
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self.qmp(command, uri=f"file:{state}")

        def over() -> bool | None:
            status = self.qmp("query-migrate").get("status")
            if status == "failed":
                raise MachineError(
                    f"{command} failed: {self.qmp('query-migrate').get('error-desc')}", log=self._kept_log()
                )
            return True if status == "completed" else None

        deadline.poll(over, interval=0.003, last_seen=f"{command} not completed")

    def run(self, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
        """Run a command in the guest; see Machine.run."""
        return self.agent.run(argv, deadline, stdin=stdin)

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        """Return a guest file's bytes; see Machine.read_file."""
        return self.agent.read_file(path, deadline)

    def refresh_identity(self, deadline: Deadline, *, probe: str) -> None:
        """Give a clone the host's time and random numbers of its own.

        Clones of one template start with one random state; equal PAC keys in two of them
        would look like survival. ``probe`` is the guest path of the pacprobe program.
        """
        # Not the agent's guest-set-time: it insists on hwclock, and the guest has no such clock.
        check(self, ["date", "--utc", "--set", f"@{time.time():.6f}"], deadline)
        check(self, [probe, "reseed"], deadline, stdin=secrets.token_bytes(64))

    def lost(self) -> MachineError:
        """Return the error that says why the machine no longer answers."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.returncode
        if panic := self.console.panic():
            return MachineDiedError(f"the guest kernel panicked: {panic}", log=self._kept_log())
        if code is None:
            return MachineError("the machine closed a connection but still runs", log=self._kept_log())
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = self.qemu_output().strip().splitlines()
        last = f": {said[-1]}" if said else f"; {self.console.last_words()}"
        return MachineDiedError(f"QEMU {how} in the middle{last}", log=self._kept_log())

    def qemu_output(self) -> str:
        """Return what QEMU itself printed (not the guest's console)."""
        path = self.directory / "qemu.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _kept_log(self) -> Path | None:
        """Copy the console log out of the run directory, which ``close`` removes."""
        source = self.config.console_log
        if not source.exists():
            return None
        kept = self._run_directory.path.parent / f"{self._run_directory.path.name}.console.log"
        shutil.copyfile(source, kept)
        return kept

    def close(self) -> None:
        """Kill QEMU and remove its directory. Idempotent."""
        self.agent.close()
        if self._qmp is not None:
            with contextlib.suppress(QMPError, OSError, EOFError):
                self._qmp.close()
            self._qmp = None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._run_directory.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listen(path: Path) -> socket.socket:
    """Return a listening unix socket at ``path``, inheritable by the child that is given it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    os.set_inheritable(listener.fileno(), True)  # noqa: FBT003 -- positional-only in the os module
    return listener
