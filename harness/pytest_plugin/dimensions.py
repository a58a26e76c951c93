"""From options and pins to the cells of a test."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue.cpus import cpu as cpu_named
from harness.catalogue.names import suggestion
from harness.catalogue.scenario import Scenario
from harness.core.errors import UsageError
from harness.scenario.choices import dimensions
from harness.scenario.matrix import DEFAULT_BASE, SELECTIONS, Dimensions, Excluded, matrix

WORKLOADS_INI = "criu_pac_workloads"
# What each dimension's values look like; the spelling of `criu-pac matrix`.
METAVARS = {
    "criu": "VERSION|DUMP:RESTORE|DIR",
    "kernel": "VERSION|SRC:DST",
    "cpu": "MODEL|SRC:DST",
    "module": "none|plugin|...",
    "driver": "criu|runc|...",
    "base": "NAME",
    "workload": "NAME|DIR",
    "cycles": "N",
}
PIN = "pin_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The values that ``source``, a pin or an option as it was written, leaves to a dimension."""

    dimension: str
    values: tuple[str, ...]
    source: str


def option_limits(config: pytest.Config) -> list[Limit]:
    """Return what the command line says of dimensions."""
    given = {name: tuple(config.getoption(f"criu_pac_{name}") or ()) for name in METAVARS}
    return [
        Limit(dimension=name, values=values, source=" ".join(f"--{name} {one}" for one in values))
        for name, values in given.items()
        if values
    ]


def pin_limits(marks: Iterable[pytest.Mark]) -> list[Limit]:
    """Return what the pins of a test say, the closest first; raises UsageError for a wrong pin."""
    limits = []
    for mark in marks:
        if not mark.name.startswith(PIN):
            continue
        name = mark.name.removeprefix(PIN)
        written = ", ".join([repr(one) for one in mark.args] + [f"{key}=..." for key in mark.kwargs])
        source = f"{mark.name}({written})"
        if name not in METAVARS:
            raise UsageError(
                f"unknown pin {source}", hint=suggestion(mark.name, [PIN + one for one in METAVARS])
            )
        if not mark.args or mark.kwargs:
            raise UsageError(
                f"{source}: write it like {PIN}{name}({METAVARS[name]!r}), with one value or several"
            )
        limits.append(Limit(dimension=name, values=tuple(str(one) for one in mark.args), source=source))
    return limits


def within(limits: Iterable[Limit], directories: Sequence[Path]) -> Dimensions:
    """Return the values that all ``limits`` leave; raises UsageError naming those that contradict each other.

    ``directories`` hold workloads besides the harness's own.
    """
    left: dict[str, tuple[Any, ...]] = {}
    sources: dict[str, list[str]] = {}
    for limit in limits:
        name = limit.dimension
        found = dimensions({name: limit.values}, *directories)
        _check_catalogue(found)
        values = getattr(found, name)
        kept = tuple(one for one in left.get(name, values) if one in values)
        if not kept:
            others = " and ".join(sources[name])
            raise UsageError(f"{others} and {limit.source} contradict each other: no {name} is in both")
        left[name] = kept
        sources.setdefault(name, []).append(limit.source)
    return Dimensions(**left)


def selection(config: pytest.Config) -> str | None:
    """Return the selection that the cells start from; raises UsageError for an unknown one."""
    name: str | None = config.getoption("criu_pac_selection")
    if name is not None and name not in SELECTIONS:
        raise UsageError(f"unknown selection {name!r}", hint=suggestion(name, SELECTIONS))
    return name


def workload_directories(config: pytest.Config) -> list[Path]:
    """Return the directories of the project that hold workloads; raises UsageError for one that is none."""
    directories = [Path(one) for one in config.getini(WORKLOADS_INI)]
    for one in directories:
        if not one.is_dir():
            raise UsageError(f"{WORKLOADS_INI}: {one} is no directory")
    return directories


def cells_of(config: pytest.Config, marks: Iterable[pytest.Mark]) -> tuple[list[Scenario], list[Excluded]]:
    """Return the cells that a test with these marks is run for, and those left out with a reason.

    Raises UsageError for contradictions, also for pins that leave nothing whatever the options.
    """
    directories, pins = workload_directories(config), pin_limits(marks)
    wanted = within([*pins, *option_limits(config)], directories)
    cells, excluded = matrix(selection(config), wanted, DEFAULT_BASE)
    if not cells:
        alone, reasons = matrix(selection(config), within(pins, directories), DEFAULT_BASE)
        if not alone:
            written = " and ".join(one.source for one in pins)
            raise UsageError(f"{written} leave nothing to run: {reasons[0].reason}")
    return cells, excluded


def _check_catalogue(values: Dimensions) -> None:
    """Raise UsageError for a CPU or kernel to be looked at: tests are collected where nothing is booted."""
    for cpu in (one for pair in values.cpu for one in pair):
        cpu_named(cpu.name)
    for kernel in (one for pair in values.kernel for one in pair):
        if kernel.path:
            raise UsageError(
                f"kernel {kernel.path}: tests run on the kernels of the catalogue",
                hint="`criu-pac matrix` takes any",
            )


def command(config: pytest.Config, nodeid: str) -> list[str]:
    """Return the words that run one test again, with the options its cell came from."""
    words = ["pytest", nodeid]
    if name := selection(config):
        words += ["--selection", name]
    for limit in option_limits(config):
        words += [word for value in limit.values for word in (f"--{limit.dimension}", value)]
    return words
