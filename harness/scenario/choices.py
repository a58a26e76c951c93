"""From what a person typed to values of the catalogue."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.catalogue.bases import base
from harness.catalogue.cpus import CpuModel, UnseenCpu, cpu_wanted
from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.kernels import Kernel
from harness.catalogue.names import named, suggestion
from harness.catalogue.scenario import Driver, KeyModule
from harness.core.errors import UsageError
from harness.guest.workload import load_workload
from harness.provision.criu_build import criu_of
from harness.provision.kernel_tree import kernel_of
from harness.scenario.matrix import Dimensions

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


def module(text: str) -> KeyModule:
    """Return the key module of this name; raises UsageError."""
    return named({one.value: one for one in KeyModule}, "module", text)


def cycles(text: str) -> int:
    """Return the number of dumps and restores in a row; raises UsageError."""
    if not (text.isdecimal() and int(text) >= 1):
        raise UsageError(f"--cycles {text}: must be a number of at least 1")
    return int(text)


def dimensions(given: Mapping[str, Iterable[str]], *directories: Path) -> Dimensions:
    """Return the values typed for each dimension, by its name; raises UsageError and WorkloadError.

    ``directories`` hold workloads besides the harness's own.
    """
    find: Mapping[str, Callable[[str], object]] = {
        "criu": criu_pair,
        "kernel": kernel_pair,
        "cpu": cpu_pair,
        "module": module,
        "driver": driver,
        "base": base,
        "workload": lambda text: load_workload(text, *directories),
        "cycles": cycles,
    }
    # A mapping of unlike values; each function above gives what its dimension holds.
    values: dict[str, Any] = {
        name: tuple(dict.fromkeys(find[name](text) for text in texts)) for name, texts in given.items()
    }
    return Dimensions(**values)


def every_nth(items: Sequence[T], number: int, count: int) -> list[T]:
    """Return every ``count``-th item from the ``number``-th, from 1, on."""
    return list(items[number - 1 :: count])


def part(
    items: Sequence[T], shard: str | None, split: Callable[[Sequence[T], int, int], list[T]] = every_nth
) -> list[T]:
    """Return part I of N as ``split`` makes them, for a ``shard`` of "I/N"; all without one.

    Raises UsageError.
    """
    if shard is None:
        return list(items)
    number, slash, count = shard.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {shard}: write it like 1/4")
    return split(items, int(number), int(count))


def check_base(text: str) -> None:
    """Raise UsageError unless ``text`` can be a --base: "auto", a known name, a file that is there."""
    path = Path(text)
    if text == AUTO or path.expanduser().is_file():
        return
    if "/" in text or ".tar" in path.suffixes:
        raise UsageError(f"--base {text}: no such file")
    base(text)
