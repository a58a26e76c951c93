"""The serial console: QEMU records it from the first byte; pexpect reads it for boot and shell.

Between uses nobody is connected: QEMU drops what a disconnected console would say (its log
file still gets it), while an unread connection would make the guest wait.
"""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from harness.core.deadline import Deadline
from harness.core.errors import BootError

READY = "criu-pac: guest ready"
# [    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
_PANIC = "Kernel panic - not syncing: "
_READ = 8192  # bytes


class Console:
    """The console socket and the log QEMU writes beside it."""

    def __init__(self, path: Path, log: Path) -> None:
        self._path = path
        self.log = log

    @contextmanager
    def attached(self) -> Iterator["SocketSpawn[bytes]"]:
        """Connect for the length of the context and give a pexpect object to it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(self._path))
            # Bytes, since SocketSpawn of pexpect 4.9 does not decode what it reads; the window
            # keeps pexpect from being quadratic on boot output, and holds more than one read.
            yield SocketSpawn(connection, maxread=_READ, searchwindowsize=2 * _READ)

    def wait_ready(self, spawn: "SocketSpawn[bytes]", deadline: Deadline) -> None:
        """Read until the guest says it is ready.

        Raises BootError with its last words when it does not in time, OSError when the machine ends.
        """
        try:
            spawn.expect_exact([READY.encode()], timeout=max(deadline.remaining, 0.01))
        except pexpect.EOF:
            raise ConnectionResetError from None
        except pexpect.TIMEOUT:
            raise BootError(
                f"the machine was not ready in {deadline.seconds:g} s; {self.last_words()}"
            ) from None

    def panic(self) -> str | None:
        """Return the kernel's panic message, or None when it did not panic."""
        # The first one: with panic=0 the kernel repeats it between "---[ end " and " ]---".
        _, found, rest = self.text().partition(_PANIC)
        return rest.partition("\n")[0].strip() if found else None

    def text(self) -> str:
        """Everything the console has said so far."""
        try:
            return self.log.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def last_words(self) -> str:
        """Return the last line that is not empty, for error messages."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return f"last console line: {lines[-1][:160]}" if lines else "the console stayed silent"

    def interact(self) -> None:
        """Hand the terminal to the guest's shell until Ctrl-] is typed or the machine ends.

        A relay process owns the socket, because pexpect's interact needs a terminal pair.
        """
        relay = pexpect.spawn(
            sys.executable, ["-m", "harness.machines.console_relay", str(self._path)], timeout=None
        )
        relay.setecho(state=False)
        relay.send("\r")
        relay.interact(escape_character="\x1d")
        relay.close(force=True)
