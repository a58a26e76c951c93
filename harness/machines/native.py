"""The host itself as the machine: its own kernel and CPU, and root for the commands that need it."""

import os
import platform
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from harness.core import process
from harness.core.closing import Closing
from harness.core.deadline import Deadline
from harness.core.errors import HostError, MachineDiedError, MachineError
from harness.core.process import CommandResult

_AT_HWCAP = 16  # include/uapi/linux/auxvec.h
_HWCAP_PACA = 1 << 30  # arch/arm64/include/uapi/asm/hwcap.h
_LOCAL = re.compile(r"localhost|127(\.\d+){3}|::1")
_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
# Of sudo with `timeout`: for the kill to have happened before the caller gives up.
_KILL_SECONDS = 5.0
_KILLED = {-9, 137}  # by itself, or as sudo tells it
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def is_aarch64() -> bool:
    """Return whether the host is a 64-bit Arm machine."""
    return platform.machine() == "aarch64"


def shows_pac(auxv: bytes | None = None) -> bool:
    """Return whether kernel and CPU offer pointer authentication (HWCAP_PACA); needs no root.

    ``auxv`` are the bytes of another process's /proc/PID/auxv than this one's.
    """
    if auxv is None:
        if not is_aarch64():
            return False
        auxv = Path("/proc/self/auxv").read_bytes()
    return any(kind == _AT_HWCAP and value & _HWCAP_PACA for kind, value in struct.iter_unpack("QQ", auxv))


def docker_url() -> str:
    """Return where the host's container engine listens: DOCKER_HOST, else its usual socket.

    Raises HostError for an engine of another computer: what it runs is not on this kernel.
    """
    url = os.environ.get("DOCKER_HOST", "")
    if not url:
        socket = next((path for path in _SOCKETS if Path(path).exists()), _SOCKETS[0])
        return f"unix://{socket}"
    where = urlsplit(url)
    local = where.scheme == "unix" or (where.scheme == "tcp" and _LOCAL.fullmatch(where.hostname or ""))
    if not local:
        raise HostError(f"DOCKER_HOST={url} is no engine of this host", hint="unset it, or --machine qemu")
    return url


def root_words() -> tuple[str, ...]:
    """Return the words before a command that needs root: none for root itself, else sudo's.

    Raises HostError when sudo is missing or would ask for a password.
    """
    if os.geteuid() == 0:
        return ()
    words = ("sudo", "-n")
    try:
        answer = process.run([*words, "true"], Deadline.after(20, "sudo -n true"))
        problem = answer.error_text if answer.returncode else None
    except HostError as error:
        problem = error.message
    if problem is not None:
        raise HostError(
            f"running on this host needs root, and sudo gives none without a password: {problem}",
            hint="run as root, allow sudo without a password, or emulate: --machine qemu",
        )
    return words


def boot_id() -> str:
    """Return what tells one boot of the host from another."""
    return _BOOT_ID.read_text("ascii").strip()


class NativeMachine(Closing):
    """The host. ``root`` are the words that give a command root; ``directory`` is the run's own.

    Commands get a plain environment, not the caller's: what a person has set for their own
    Python is nothing to a workload. One that outlives its deadline is killed.
    """

    def __init__(self, root: tuple[str, ...], directory: Path, engine_url: str) -> None:
        self._root = root
        self._directory = directory
        self._docker_url = engine_url
        self._closed = False

    @property
    def directory(self) -> Path:
        """The private directory of this run."""
        return self._directory

    @property
    def docker_url(self) -> str:
        """URL of the host's container engine for the docker package."""
        return self._docker_url

    @property
    def way_in(self) -> str:
        """Words for a person: a host is entered already, and has one arm at a time."""
        return "until the next arm begins, as root on this host"

    def run(self, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
        """Run a command as root; see Machine.run."""
        if self._closed:
            raise MachineDiedError("the host is no longer used as a machine: the command is ending")
        deadline.check(f"{argv[0]} was not started")
        # Not by the caller, who may not signal what sudo started. timeout kills its own process group.
        limited = ["timeout", "--signal=KILL", f"{max(deadline.remaining, 0.01):.2f}", *argv]
        patience = Deadline.after(deadline.remaining + _KILL_SECONDS, deadline.what)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        result = process.run([*self._root, *limited], patience, stdin=stdin, env=environment)
        if deadline.expired and result.returncode in _KILLED:
            raise deadline.error(f"{argv[0]} was killed")
        return result

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        """Return a file's bytes; see Machine.read_file."""
        if not self._root:
            try:
                return Path(path).read_bytes()
            except OSError as error:
                raise MachineError(f"cannot read {path}: {error.strerror}") from error
        result = self.run(["cat", path], deadline)
        if result.returncode != 0:
            raise MachineError(f"cannot read {path}: {result.error_text}")
        return result.stdout

    def close(self) -> None:
        """Run nothing any more; the host itself goes on. Idempotent."""
        self._closed = True
