"""The one tree of errors; each class says who is to blame and how a command ends.

HarnessError
├── UsageError            the person asked for something that does not exist     (exit 64)
├── HostError             the computer the harness runs on                       (exit 2)
│   ├── NoPacError       it does not authenticate pointers: nothing can be shown (exit 3)
│   ├── NetworkError      nothing answered, or offline and not in the cache
│   └── StorageError      no space, no permission, a damaged file
├── ArchiveError          a package archive or registry gave something unusable  (exit 2)
│   ├── SignatureError    a signature or a signer is not the expected one
│   ├── IntegrityError    bytes do not match their digest or size
│   └── NotInArchiveError asked for and not there
├── MachineError          the emulated machine or its guest system               (exit 2)
│   ├── BootError         it never became ready
│   ├── MachineDiedError  QEMU ended or the guest kernel panicked
│   ├── LongFileError     a guest's file is longer than the agent reads
│   └── EngineError       the container engine in the guest
├── CriuError             CRIU itself could not be run                           (exit 2)
├── WorkloadError         the workload broke its contract                        (exit 2)
└── DeadlineError         a phase outlived its deadline                          (exit 2)
"""

from enum import Enum
from pathlib import Path
from typing import ClassVar


class Blame(Enum):
    """Who is to blame for an error."""

    USER = "user"
    HOST = "host"
    ARCHIVE = "archive"
    MACHINE = "machine"
    CRIU = "criu"
    WORKLOAD = "workload"


class ExitCode:
    """Exit codes of every command (architecture: outcome, prediction, verdict)."""

    OK = 0
    REGRESSION = 1
    INFRASTRUCTURE = 2
    INVALID = 3
    USAGE = 64
    INTERRUPTED = 130


class HarnessError(Exception):
    """Base of everything the harness raises on purpose.

    ``message`` names the thing and the place, ``hint`` the way out, ``log`` the file to read.
    """

    blame: ClassVar[Blame] = Blame.HOST
    exit_code: ClassVar[int] = ExitCode.INFRASTRUCTURE

    def __init__(self, message: str, *, hint: str | None = None, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append(self.hint)
        if self.log:
            parts.append(f"log: {self.log}")
        return "; ".join(parts)


class UsageError(HarnessError):
    """An unknown name or a contradiction in what was asked for."""

    blame = Blame.USER
    exit_code = ExitCode.USAGE


class HostError(HarnessError):
    """The computer the harness runs on lacks something."""


class NoPacError(HostError):
    """The host was to be the machine and does not authenticate pointers: nothing would be proven."""

    exit_code = ExitCode.INVALID


class NetworkError(HostError):
    """Nothing answered, or the harness is offline and the cache does not hold the file."""


class StorageError(HostError):
    """No space left, no permission, or a damaged file on the host."""


class ArchiveError(HarnessError):
    """A package archive or an image registry gave something unusable."""

    blame = Blame.ARCHIVE


class SignatureError(ArchiveError):
    """A signature does not verify, or the signer is not one of the keys expected for the archive."""


class IntegrityError(ArchiveError):
    """Bytes do not have the digest or the size their signed index says."""


class NotInArchiveError(ArchiveError):
    """Something asked for is in none of the places looked at."""


class MachineError(HarnessError):
    """The emulated machine or its guest system failed."""

    blame = Blame.MACHINE


class BootError(MachineError):
    """The machine never became ready."""


class MachineDiedError(MachineError):
    """QEMU ended, or the guest kernel panicked, while it was needed."""


class LongFileError(MachineError):
    """A file of the guest is longer than what is read through its agent."""


class EngineError(MachineError):
    """The container engine in the guest refused or failed."""


class CriuError(HarnessError):
    """CRIU could not be run at all (a failed dump or restore is an outcome, not an error)."""

    blame = Blame.CRIU


class WorkloadError(HarnessError):
    """The workload broke its contract: no READY, an early exit, a broken workload.toml."""

    blame = Blame.WORKLOAD


class DeadlineError(HarnessError):
    """A phase outlived its deadline; the message tells what was seen last."""

    blame = Blame.MACHINE
