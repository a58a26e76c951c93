"""An emulated machine: one QEMU process, its sockets, and nothing left behind."""

import contextlib
import logging
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from harness.core.closing import Closing
from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, HostError, MachineDiedError, MachineError, StorageError
from harness.core.process import CommandResult, popen
from harness.core.rundir import RunDirectory
from harness.machines import kept_log
from harness.machines.agent import GuestAgent
from harness.machines.console import Console
from harness.machines.leash import leash
from harness.machines.monitor import Monitor
from harness.machines.post_mortem import cause
from harness.machines.qemu_config import MEMORY_MIB, MachineFiles, QemuConfig, argv

log = logging.getLogger(__name__)

# What services of the guest say: init and the engine write there.
_GUEST_LOGS = 'for log in /run/*.log; do [ -s "$log" ] && echo "== $log" && tail -n 200 "$log"; done'


class QemuMachine(Closing):
    """A running emulated machine. Use as a context manager, or call ``close``.

    QEMU is a child of the *thread* that made it and dies with that thread (the leash is
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
        self._closed = False
        self._kept_log: Path | None = None

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
        memory_mib: int = MEMORY_MIB,
    ) -> Self:
        """Start QEMU with listening sockets made here, before it runs.

        Raises HostError when the program cannot be started, StorageError without a place for
        its sockets.
        """
        if shutil.which(program[0]) is None:
            raise HostError(f"cannot start QEMU: {program[0]} is not there, or not a program")
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
                    memory_mib=memory_mib,
                    console_fd=fds["console"],
                    qmp_fd=fds["qmp"],
                    agent_fd=fds["agent"],
                    leash=leash(os.getpid()),
                )
                words = argv(config)
                log.debug("qemu: %s", shlex.join(words))
                with (directory / "qemu.log").open("wb") as output:
                    process = popen(words, stdout=output, stderr=output, pass_fds=tuple(fds.values()))
        except OSError as error:
            run_directory.close()
            raise StorageError(f"cannot make the sockets of a machine in {directory}: {error}") from error
        except BaseException:
            run_directory.close()
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
    def way_in(self) -> str:
        """Words for a person: the engine's address, and the command for the console."""
        console = f"socat - UNIX-CONNECT:{self.directory}/console.sock"
        return f"engine: DOCKER_HOST={self.docker_url}, console: {console}"

    @property
    def pid(self) -> int:
        """Process id of QEMU on the host."""
        return self._process.pid

    def boot(self, deadline: Deadline) -> None:
        """Wait until the guest system is up and its agent answers.

        Raises BootError, MachineDiedError, StorageError and DeadlineError.
        """
        try:
            with self.console.attached() as spawn:
                self.console.wait_ready(spawn, deadline)
        except OSError as error:
            raise self.lost() from error
        self.agent.connect(deadline)

    def monitor(self) -> contextlib.AbstractContextManager[Monitor]:
        """Return a session with QEMU's own control channel."""
        return Monitor.session(self.directory / "qmp.sock", self.lost)

    def run(self, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
        """Run a command in the guest; see Machine.run."""
        return self.agent.run(argv, deadline, stdin=stdin)

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        """Return a guest file's bytes; see Machine.read_file."""
        return self.agent.read_file(path, deadline)

    def lost(self) -> HarnessError:
        """Return the error that says why the machine no longer answers."""
        if self._closed:
            return MachineDiedError("the machine was closed while it was in use")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        code = self._process.returncode
        if code is None:
            return MachineError("the machine closed a connection but still runs", log=self.keep_log())
        written = self.config.ram if self.config.ram_shared else None
        error = cause(code, self.qemu_output(), self.console, written)
        error.log = self.keep_log()
        return error

    def qemu_output(self) -> str:
        """Return what QEMU itself printed (not the guest's console)."""
        path = self.directory / "qemu.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def keep_log(self, *, of_guest: bool = False) -> Path | None:
        """Write what the machine said to a file that outlives it, once; None where that is impossible.

        QEMU's output and the console; with ``of_guest`` also the logs of the guest's services.
        """
        if self._kept_log is None and not self._closed:
            parts = [f"== QEMU\n{self.qemu_output()}", f"== console\n{self.console.text()}"]
            if of_guest and self._process.poll() is None:
                with contextlib.suppress(HarnessError):
                    soon = Deadline.after(5, "logs of the guest")
                    parts.append(self.run(["bash", "-c", _GUEST_LOGS], soon).text)
            self._kept_log = kept_log.keep("machine", "\n".join(parts))
        return self._kept_log

    def close(self) -> None:
        """Kill QEMU and remove its directory. Idempotent, from any thread."""
        self._closed = True
        # First: whoever waits for an answer in another thread finds the connection ended.
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.agent.close()
        self._run_directory.close()


def _listen(path: Path) -> socket.socket:
    """Return a listening unix socket at ``path``, inheritable by the child that is given it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(4)
    os.set_inheritable(listener.fileno(), True)  # noqa: FBT003 -- positional-only in the os module
    return listener
