"""Why a machine ended, from what it left: exit code, output, console, and the disk its memory is on."""

import contextlib
import shutil
import signal
from pathlib import Path

from harness.core.errors import HarnessError, MachineDiedError, StorageError
from harness.machines.console import Console

_FULL_DISK = 16_000_000  # bytes: with less than this free, the disk is what a machine died of


def cause(code: int, output: str, console: Console, written: Path | None) -> HarnessError:
    """Return the error for a QEMU that ended with ``code`` (negative: by that signal) after ``output``.

    ``written`` is the memory file it wrote to, None for one that only read it: a write to a
    mapped file on a full disk kills the process, or makes the guest fail in any way.
    """
    if written and (full := _full_disk(written)):
        return full
    if panic := console.panic():
        return MachineDiedError(f"the guest kernel panicked: {panic}")
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    said = output.strip().splitlines()
    last = f": {said[-1]}" if said else f"; {console.last_words()}"
    return MachineDiedError(f"QEMU {how} in the middle{last}")


def _full_disk(memory: Path) -> StorageError | None:
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(memory.parent).free
        if free < _FULL_DISK:
            return StorageError(
                f"no space left for the memory of the machine, {memory} ({free / 1e6:.0f} MB free)",
                hint="free some, run `criu-pac cache prune`, or set CRIU_PAC_CACHE to a directory with space",
            )
    return None
