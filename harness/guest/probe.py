"""Observations in the guest through pacprobe, the program in harness/guest/probe."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from harness.core.deadline import Deadline
from harness.guest.probe_results import (
    KeyChange,
    KeyedPacState,
    KeyFingerprints,
    MachineFacts,
    Reseed,
    Started,
    ThreadsReport,
    WatchReport,
    parse,
)
from harness.machines.protocol import Machine
from harness.provision.toolchain import AARCH64_LINUX, SHARED_C, compile_c, source_key

T = TypeVar("T")

PROBE = "/opt/criu-pac/bin/pacprobe"
SALT = "/run/criu-pac/salt"  # 32 bytes that make the fingerprints of one scenario comparable

_SOURCES = Path(__file__).parent / "probe"
# Without branch protection: the probe must run and read keys the same way on every CPU.
_FLAGS = ("-D_GNU_SOURCE", "-O2", "-s", "-std=gnu11", "-mbranch-protection=none")


def probe_key() -> str:
    """Return a digest of everything the probe's bytes depend on."""
    return source_key([*_sources(), *_SOURCES.glob("*.h"), SHARED_C / "sha256.h"], AARCH64_LINUX, *_FLAGS)


def build_probe(output: Path, cache_root: Path) -> Path:
    """Compile the probe for arm64 guests; HostError when the compiler is missing or fails."""
    return compile_c(_sources(), output, target=AARCH64_LINUX, flags=_FLAGS, cache_root=cache_root)


def _sources() -> list[Path]:
    return sorted([*_SOURCES.glob("*.c"), SHARED_C / "sha256.c"])


class Probe:
    """The probe in one machine, in its initial namespaces or, with ``prefix``, in a container's.

    Every method raises MachineError with the probe's own words when it fails.
    """

    def __init__(self, machine: Machine, prefix: Sequence[str] = ()) -> None:
        self._machine = machine
        self._prefix = tuple(prefix)

    def machine(self, deadline: Deadline) -> MachineFacts:
        """Return what CPU and kernel offer."""
        return self._ask(MachineFacts, deadline, "machine")

    def new_identity(self, deadline: Deadline) -> None:
        """Give a clone the host's time, random numbers of its own, and a salt for fingerprints.

        Clones of one template start with one random state; equal PAC keys in two of them would
        look like survival.
        """
        now = str(time.time_ns() // 1000)
        self._ask(
            Reseed, deadline, "reseed", "--time", now, "--new-salt", SALT, stdin=secrets.token_bytes(64)
        )

    def threads(self, pid: int, deadline: Deadline, *, frames: bool = False) -> ThreadsReport:
        """Stop a process and its descendants one by one, read every thread, let them run on."""
        more = ("--frames",) if frames else ()
        return self._ask(ThreadsReport, deadline, "threads", str(pid), "--salt", SALT, *more)

    def watch(self, pid: int, ticks: int, deadline: Deadline) -> WatchReport:
        """Follow a thread over ``ticks`` writes to learn which frames it returns through."""
        limit = str(max(1, int(deadline.remaining * 1000)))  # the probe answers when it is over
        return self._ask(
            WatchReport,
            Deadline.after(deadline.remaining + 5, deadline.what),
            "watch",
            str(pid),
            "--ticks",
            str(ticks),
            "--deadline",
            limit,
        )

    def fresh(self, deadline: Deadline) -> KeyFingerprints | None:
        """Return the fingerprints of a freshly executed process's keys; None without PAC."""
        return self._ask(KeyedPacState, deadline, "fresh", "--salt", SALT).keys

    def new_keys(self, pid: int, save: str, deadline: Deadline) -> KeyChange:
        """Give a process fresh random keys, its own saved in the guest file ``save``."""
        return self._ask(KeyChange, deadline, "newkeys", str(pid), "--save", save)

    def load_keys(self, pid: int, save: str, deadline: Deadline) -> KeyChange:
        """Give a process the keys saved in ``save``."""
        return self._ask(KeyChange, deadline, "loadkeys", str(pid), save)

    def launch(self, output: str, argv: Sequence[str], deadline: Deadline) -> int:
        """Start a program as leader of its own session, output into ``output``; return its pid."""
        return self._ask(Started, deadline, "launch", output, *argv).pid

    def _ask(self, kind: type[T], deadline: Deadline, *words: str, stdin: bytes = b"") -> T:
        result = self._machine.run([*self._prefix, PROBE, *words], deadline, stdin=stdin)
        return parse(kind, words[0], result.text or result.error_text)
