"""From what a person typed to values of the catalogue."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.catalogue.bases import base
from harness.catalogue.cpus import CpuModel, UnseenCpu, cpu_wanted
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.names import suggestion
from harness.catalogue.scenario import Driver
from harness.core.errors import UsageError
from harness.provision.criu_build import criu_of
from harness.provision.kernel_tree import kernel_of

T = TypeVar("T")

AUTO = "auto"  # of --base: whatever can be had


def criu_pair(text: str) -> tuple[CriuBuild, CriuBuild]:
    """Return the builds for dump and restore of "3.17.1" or "DUMP:RESTORE"; raises UsageError.

    Each is a name, or the directory or the program of a build.
    """
    return _pair(text, criu_of)


def kernel_pair(text: str) -> tuple[Kernel, Kernel]:
    """Return source's and target's kernel of "6.1" or "SRC:DST", each a name or a path; raises UsageError."""
    return _pair(text, kernel_of)


def cpu_pair(text: str) -> tuple[CpuModel | UnseenCpu, CpuModel | UnseenCpu]:
    """Return source's and target's CPU of "neoverse-v1" or "SRC:DST"; raises UsageError.

    Whether QEMU has the ones that are not in the catalogue is seen when their machine is looked at.
    """
    return _pair(text, cpu_wanted)


def _pair(text: str, find: Callable[[str], T]) -> tuple[T, T]:
    """Return what the halves of "ONE:OTHER" name, or twice what "ONE" does."""
    first, colon, second = text.partition(":")
    return find(first), find(second if colon else first)


def driver(text: str) -> Driver:
    """Return the driver of this name; raises UsageError."""
    known = {one.value: one for one in Driver}
    if text not in known:
        raise UsageError(f"unknown driver {text!r}", hint=suggestion(text, known))
    return known[text]


def check_base(text: str) -> None:
    """Raise UsageError unless ``text`` can be a --base: "auto", a known name, a file that is there."""
    path = Path(text)
    if text == AUTO or path.expanduser().is_file():
        return
    if "/" in text or ".tar" in path.suffixes:
        raise UsageError(f"--base {text}: no such file")
    base(text)
