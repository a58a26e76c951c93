"""How many machines fit on this computer at a time."""

import os
import re
from pathlib import Path

# A guest takes no more than its memory of 1 GiB; QEMU's own is about 200 MiB, translated code the most of it.
MACHINE_BYTES = (1024 + 256) << 20
_MEMINFO = Path("/proc/meminfo")
# MemAvailable:   23598340 kB
_AVAILABLE = re.compile(r"^MemAvailable: +(\d+) kB$", re.MULTILINE)


def machines_at_once() -> int:
    """Return how many machines may run at a time: one for each core of this process, if memory allows."""
    return fitting(len(os.sched_getaffinity(0)), _MEMINFO.read_text("ascii"))


def fitting(cores: int, meminfo: str) -> int:
    """Return how many machines the cores and the memory of a /proc/meminfo's text carry, at least one."""
    found = _AVAILABLE.search(meminfo)
    by_memory = int(found[1]) * 1024 // MACHINE_BYTES if found else cores
    return max(1, min(cores, by_memory))
