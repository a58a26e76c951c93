"""`criu-pac shell`: a console in a fresh machine."""

import sys
from typing import Annotated

import typer

from harness.catalogue.cpus import DEFAULT_CPU, cpu_wanted
from harness.catalogue.criu_builds import DEFAULT_CRIU
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.cli import backend
from harness.cli.repro import BaseOption, QemuOption
from harness.cli.session import Verbosity, provisioned
from harness.core.errors import UsageError
from harness.provision.criu_build import criu_of
from harness.provision.kernel_tree import kernel_of
from harness.reporting import progress
from harness.scenario.choices import AUTO, check_base


def shell(
    *,
    cpu_name: Annotated[
        str, typer.Option("--cpu", metavar="MODEL", help="CPU model of the machine, also any of QEMU's.")
    ] = DEFAULT_CPU.name,
    kernel_name: Annotated[
        str, typer.Option("--kernel", metavar="VERSION|PATH", help="Kernel of the machine.")
    ] = DEFAULT_KERNEL.name,
    criu: Annotated[
        str, typer.Option(metavar="VERSION|PATH", help="CRIU in the machine.")
    ] = DEFAULT_CRIU.name,
    base: BaseOption = AUTO,
    qemu: QemuOption = None,
    verbose: Verbosity = 0,
) -> int:
    """Open a root shell in a fresh clone; Ctrl-] leaves it, and the machine is gone."""
    model, guest, build = cpu_wanted(cpu_name), kernel_of(kernel_name), criu_of(criu)
    check_base(base)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("criu-pac shell needs a terminal")
    with provisioned(verbose) as provision, backend.open_lab(provision, qemu) as lab:
        with progress.shown(verbose=verbose > 0):
            prepared, _ = backend.choose_base(base, provision)
            spec = backend.machine_of(lab, model, guest)
            machine = lab.clone_for_shell(spec.cpu, spec.kernel, prepared, build)
        typer.echo(f"{model.name}, kernel {guest.name}, {build.label}. Ctrl-] leaves.", err=True)
        machine.console.interact()
    return 0
