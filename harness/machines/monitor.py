"""QMP, QEMU's own control channel: used in short sessions, each within one thread."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError, MachineError

_SECONDS = 30.0


class Monitor:
    """One session with QEMU. ``lost`` makes the error to raise when QEMU is gone."""

    def __init__(self, protocol: QEMUMonitorProtocol, lost: Callable[[], HarnessError]) -> None:
        self._protocol = protocol
        self._lost = lost

    @classmethod
    @contextmanager
    def session(cls, path: Path, lost: Callable[[], HarnessError]) -> Iterator["Monitor"]:
        """Connect to the socket ``path`` for the length of the context."""
        protocol = QEMUMonitorProtocol(str(path), nickname=None)
        protocol.settimeout(_SECONDS)
        try:
            try:
                protocol.connect()
            except (QMPError, OSError, EOFError) as error:
                raise lost() from error
            yield cls(protocol, lost)
        finally:
            with contextlib.suppress(QMPError, OSError, EOFError):
                protocol.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Execute one command and return its value.

        Raises MachineDiedError when QEMU is gone, MachineError when it refuses or stays silent.
        """
        try:
            reply = self._protocol.cmd_raw(command, arguments or None)
        except TimeoutError as error:
            raise MachineError(f"QEMU did not answer {command} in {_SECONDS:g} s") from error
        except (QMPError, OSError, EOFError) as error:
            raise self._lost() from error
        if "error" in reply:
            raise MachineError(f"QEMU refused {command}: {reply['error'].get('desc')}")
        return reply.get("return")

    def migrate(self, command: str, state: Path, deadline: Deadline) -> None:
        """Save ("migrate") or load ("migrate-incoming") the machine's state without its memory.

        Memory stays in the RAM file (x-ignore-shared): the state file is below 1 MB.
        """
        self.execute(
            "migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}]
        )
        self.execute(command, uri=f"file:{state}")

        def over() -> bool | None:
            answer = self.execute("query-migrate")
            if answer.get("status") == "failed":
                raise MachineError(f"{command} failed: {answer.get('error-desc')}")
            return True if answer.get("status") == "completed" else None

        deadline.poll(over, interval=0.003, last_seen=f"{command} not completed")
