"""A process that ends with the one that started it, from its first instruction on."""

import functools
import shutil

from harness.core.deadline import Deadline
from harness.core.errors import HarnessError
from harness.core.process import run

# The signal is for a parent that dies from now on; one that died just before is no longer $PPID.
_CHECK = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


def leash(parent: int) -> tuple[str, ...]:
    """Return the words before a command that kill it when the thread of ``parent`` that starts it ends.

    QEMU's own exit-with-parent leaves a gap: a parent killed in the tens of milliseconds before
    QEMU asks for the signal leaves it running for good. setpriv (util-linux) asks before QEMU
    starts. Empty where the host has no such setpriv.
    """
    program = _setpriv()
    return (program, "--pdeathsig", "KILL", "/bin/sh", "-c", _CHECK, "sh", str(parent)) if program else ()


@functools.cache
def _setpriv() -> str | None:
    program = shutil.which("setpriv")
    if program is None:
        return None
    try:
        # busybox has a setpriv that cannot do it.
        told = run([program, "--help"], Deadline.after(5, "setpriv --help"))
    except HarnessError:
        return None
    return program if b"--pdeathsig" in told.stdout + told.stderr else None
