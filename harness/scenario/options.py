"""How scenarios are run, as opposed to what they are."""

from dataclasses import dataclass
from pathlib import Path

from harness.catalogue.criu_builds import CriuBuild
from harness.catalogue.workloads import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """``results`` gets the evidence; ``timeout`` is for one arm as a whole, in seconds.

    Making a template or downloading is not counted: an arm starts with its clone.

    ``keep`` leaves the machines of finished scenarios running until the command ends and
    prints how to reach them. ``command`` is the command line that reproduces the run. The
    machines hold ``builds`` and ``workloads`` besides those a scenario names, so that one template
    serves several.
    """

    results: Path
    timeout: float = 120.0
    keep: bool = False
    command: str = ""
    builds: tuple[CriuBuild, ...] = ()
    workloads: tuple[Workload, ...] = ()
