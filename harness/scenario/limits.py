"""How long the phases of a scenario may take before they hang, on a machine as fast as it is just now."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.catalogue.workloads import Workload
from harness.guest.criu import CriuRun

# What the calibration takes under emulation on an idle host: a short program, run by the guest agent.
_NOMINAL_SECONDS = 0.15
_SLOWEST = 8.0
_DUMP_SECONDS = 45.0
# A restore takes less time than its dump; the dump tells how fast the machine is at the moment.
_RESTORE_PER_DUMP = 20
_RESTORE_LEAST_SECONDS = 15.0
# A tick under emulation: its sleep, plus this much for being scheduled late.
_TICK_GRACE_SECONDS = 4.0


class PhaseLimits:
    """Limits in seconds, multiplied by ``slowness``: how much slower than an idle host this machine is.

    It is 1 before a calibration and on anything faster, and at most 8.
    """

    def __init__(self) -> None:
        self.slowness = 1.0

    @contextmanager
    def calibration(self) -> Iterator[None]:
        """Take the time of the short program that is run inside the block."""
        started = time.monotonic()
        yield
        self.slowness = min(max(1.0, (time.monotonic() - started) / _NOMINAL_SECONDS), _SLOWEST)

    @property
    def dump(self) -> float:
        """Of a dump."""
        return _DUMP_SECONDS * self.slowness

    def restore(self, dump: CriuRun | None) -> float:
        """Of a restore after ``dump``."""
        return max(
            _RESTORE_LEAST_SECONDS * self.slowness, _RESTORE_PER_DUMP * (dump.seconds if dump else 0.0)
        )

    def watch(self, workload: Workload) -> float:
        """Of the ticks that a restored workload has to show."""
        return workload.watch_ticks * (workload.tick_seconds + _TICK_GRACE_SECONDS * self.slowness)
