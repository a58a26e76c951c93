"""What a machine is to everything above it, whether emulated or the host itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from harness.core.deadline import Deadline
from harness.core.errors import MachineError
from harness.core.process import CommandResult

_SHOWN = 120  # characters of a command in an error


class Machine(Protocol):
    """A running arm64 Linux with root access; commands run in its initial namespaces."""

    @property
    def directory(self) -> Path:
        """The private host directory of this machine: its sockets and logs."""

    @property
    def docker_url(self) -> str:
        """Where the host reaches this machine's container engine, for the docker package."""

    @property
    def way_in(self) -> str:
        """How a person gets to a machine that is kept."""

    def run(self, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
        """Run a command to its end; a non-zero exit is not an error.

        Raises DeadlineError when it outlives the deadline (the command may still run then)
        and MachineDiedError when the machine is gone.
        """

    def read_file(self, path: str, deadline: Deadline) -> bytes:
        """Return a file's bytes; MachineError when it cannot be read."""

    def close(self) -> None:
        """End the machine and remove what it left on the host. Idempotent."""


def check(machine: Machine, argv: Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> CommandResult:
    """Run a command that has to succeed; MachineError with its last error lines otherwise."""
    result = machine.run(argv, deadline, stdin=stdin)
    if result.returncode != 0:
        last = (result.error_text or result.text).splitlines()[-3:]
        raise MachineError(
            f"in the machine: {_short(argv)} ended with {result.returncode}: {' | '.join(last)}"
        )
    return result


def _short(argv: Sequence[str]) -> str:
    """Return the command for an error of one line: a script is told by its first line."""
    first = " ".join(argv).strip().partition("\n")[0]
    return first if len(first) <= _SHOWN else f"{first[:_SHOWN]}..."
