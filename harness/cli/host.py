"""The choice between this host and an emulated machine."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from harness.catalogue.cpus import DEFAULT_CPU, HOST_CPU
from harness.catalogue.names import suggestion
from harness.cli import backend
from harness.core.errors import HostError, UsageError

if TYPE_CHECKING:
    from harness.scenario.lab import Lab

AUTO, NATIVE, QEMU = "auto", "native", "qemu"

MachineOption = Annotated[
    str,
    typer.Option(
        metavar=f"{AUTO}|{NATIVE}|{QEMU}",
        help="This host itself, or an emulated machine; auto: this host where it is arm64 and shows PAC.",
    ),
]


def is_wanted(machine: str, emulated: Mapping[str, object]) -> bool:
    """Return whether to run on the host; ``emulated`` are the options that only mean something elsewhere.

    Raises UsageError for an unknown ``machine`` and for "native" with one of those options.
    """
    if machine not in {AUTO, NATIVE, QEMU}:
        raise UsageError(f"unknown machine {machine!r}", hint=suggestion(machine, (AUTO, NATIVE, QEMU)))
    given = [name for name, value in emulated.items() if value]
    if machine == NATIVE:
        if given:
            raise UsageError(f"{', '.join(given)}: of an emulated machine only, and --machine is {NATIVE}")
        return True
    return machine == AUTO and not given and _host_can()


def _host_can() -> bool:
    """Return whether the host can be the machine; tell why not where one could expect it."""
    from harness.machines import native  # noqa: PLC0415 -- help and cache start without it

    if not native.is_aarch64():
        return False
    why = None if native.shows_pac() else "its kernel and CPU offer no pointer authentication"
    try:
        _ = why or native.root_words()
    except HostError as error:
        why = error.message
    if why:
        tell(f"an emulated machine is used, not this host: {why}")
    return not why


def emulated_cpu(lab: "Lab") -> str:
    """Return the CPU of a machine that the person names none for: this host's own where KVM gives it PAC."""
    from harness.machines import native  # noqa: PLC0415 -- as above

    if not native.is_aarch64():
        return DEFAULT_CPU.name
    try:
        why = None if backend.kvm_has_pac(lab) else "KVM gives its guests no pointer authentication here"
    except HostError as error:
        why = error.message
    chosen = DEFAULT_CPU.name if why else HOST_CPU
    tell(f"--cpu {chosen}: {why or 'KVM gives its guests pointer authentication here'}")
    return chosen


def tell(text: str) -> None:
    """Say what was chosen for the person, and why."""
    typer.echo(f"note: {text}", err=True)
