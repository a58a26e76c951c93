"""Client of the QEMU guest agent: commands and small files over a virtio serial port.

Protocol: QEMU documentation, "QEMU Guest Agent Protocol Reference"; one JSON object a line.
"""

import base64
import contextlib
import json
import logging
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, LongFileError, MachineError
from harness.core.process import CommandResult

log = logging.getLogger(__name__)

_TRUNCATED = {"the output": "out-truncated", "the error output": "err-truncated"}  # of guest-exec-status
_CHUNK = 1 << 20  # bytes a guest-file-read asks for; the agent caps a reply at 48 MB
LONGEST_FILE = 4 << 20  # bytes: two seconds of reading


class GuestAgent:
    """One connection to the agent; calls from several threads take turns.

    ``lost`` makes the error to raise when the connection ends (the machine knows why). A call
    that ends before its answer came gives the connection up: the answer, coming late, would be
    taken for the next call's. The next call connects again.
    """

    def __init__(self, path: Path, lost: Callable[[], HarnessError]) -> None:
        self._path = path
        self._lost = lost
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._lock = threading.Lock()

    def connect(self, deadline: Deadline) -> None:
        """Connect and wait until the agent answers; DeadlineError when it never does."""
        with self._lock:
            self._drop()
            self._connect(deadline)

    def close(self) -> None:
        """Close the connection; a call another thread waits in fails. Idempotent."""
        connection = self._socket
        if connection is not None:
            # Not close(): its number could be another file's while that thread still waits on it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._drop()

    def call(self, command: str, deadline: Deadline, **arguments: Any) -> Any:
        """Execute one agent command and return its value; MachineError when the agent refuses."""
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self._lock:
            if self._socket is None:
                self._connect(deadline)
            try:
                self._send(b"", {"execute": command, "arguments": words} if words else {"execute": command})
                reply = self._reply(deadline)
            except TimeoutError:
                self._drop()
                raise deadline.error(f"the guest agent did not answer {command}") from None
            except BaseException:
                self._drop()
                raise
        if "error" in reply:
            raise MachineError(f"guest agent: {command}: {reply['error'].get('desc', reply['error'])}")
        return reply["return"]

    def run(self, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
        """Run a command in the guest and wait for its end; see Machine.run.

        MachineError when its output is longer than the agent keeps.
        """
        log.debug("guest: %s", shlex.join(argv))
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture_output": True}
        if stdin:
            arguments["input_data"] = base64.b64encode(stdin).decode()
        pid = self.call("guest-exec", deadline, **arguments)["pid"]
        pause = 0.004
        while not (status := self.call("guest-exec-status", deadline, pid=pid))["exited"]:
            deadline.check(f"in the guest: {shlex.join(argv)[:200]} still running")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        cut = [name for name, flag in _TRUNCATED.items() if status.get(flag)]
        if cut:
            raise MachineError(
                f"in the guest: too long for the agent, which cut {' and '.join(cut)} of "
                f"{shlex.join(argv)[:200]}"
            )
        return CommandResult(
            argv=tuple(argv),
            returncode=-status["signal"] if "signal" in status else status["exitcode"],
            stdout=base64.b64decode(status.get("out-data", "")),
            stderr=base64.b64decode(status.get("err-data", "")),
        )

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        """Return a guest file's bytes (about 2 MB/s: for logs, not for images).

        LongFileError for one longer than LONGEST_FILE: one that grows faster would have no end.
        """
        handle = self.call("guest-file-open", deadline, path=path, mode="r")
        content = bytearray()
        try:
            while True:
                part = self.call("guest-file-read", deadline, handle=handle, count=_CHUNK)
                content += base64.b64decode(part["buf-b64"])
                if len(content) > LONGEST_FILE:
                    raise LongFileError(f"in the guest: {path} is longer than {LONGEST_FILE} bytes")
                if part["eof"]:
                    return bytes(content)
        finally:
            self.call("guest-file-close", deadline, handle=handle)

    def _connect(self, deadline: Deadline) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # 0xFF flushes a half request an earlier connection may have left in the agent's parser;
        # the agent answers it with an error of its own, and may still owe older answers: read
        # on until the one with this token.
        token = secrets.randbits(31)
        try:
            self._socket.connect(str(self._path))
            self._send(b"\xff", {"execute": "guest-sync-delimited", "arguments": {"id": token}})
            while self._reply(deadline).get("return") != token:
                pass
        except TimeoutError:
            self._drop()
            raise deadline.error("no answer from the guest agent") from None
        except OSError as error:
            self._drop()
            raise self._lost() from error
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer = b""

    def _send(self, prefix: bytes, message: dict[str, Any]) -> None:
        if self._socket is None:
            raise self._lost()
        try:
            self._socket.sendall(prefix + json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._lost() from error

    def _reply(self, deadline: Deadline) -> dict[str, Any]:
        """Return the next reply; TimeoutError when the deadline passes first."""
        if self._socket is None:
            raise self._lost()
        while b"\n" not in self._buffer:
            if deadline.expired:
                raise TimeoutError
            self._socket.settimeout(max(deadline.remaining, 0.001))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise
            except OSError as error:
                raise self._lost() from error
            if not data:
                raise self._lost()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line.rpartition(b"\xff")[2])
        except json.JSONDecodeError as error:
            raise MachineError(f"the guest agent sent no JSON: {line[:80]!r}") from error
        return reply
