"""`criu-pac dump` and `criu-pac restore`: one checkpoint, two hosts."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.catalogue.bases import base as base_named
from harness.catalogue.criu_builds import SYSTEM, CriuBuild
from harness.catalogue.names import named
from harness.catalogue.outcome import Outcome
from harness.catalogue.scenario import Driver, KeyModule, MachineSpec, Scenario
from harness.catalogue.workloads import Workload
from harness.cli import backend, host
from harness.cli.running import new_directory
from harness.cli.session import Verbosity, provisioned
from harness.core.errors import CriuError, ExitCode, HostError, UsageError
from harness.provision.criu_build import criu_of
from harness.reporting import progress
from harness.reporting.jsonl import append_result
from harness.reporting.table import print_results
from harness.scenario.arms import EXIT_CODES
from harness.scenario.options import RunOptions

if TYPE_CHECKING:
    from harness.provision.prepared_base import PreparedBase

_BASE = "debian-13"  # made of locked packages, so the same files on both hosts
_TIMEOUT = 120.0
_DUMP, _RESTORE = "dump", "restore"

TimeoutOption = Annotated[float, typer.Option(metavar="SECONDS", help="For the work as a whole.")]


def dump(
    *,
    to: Annotated[Path, typer.Option(metavar="DIR", help="The directory to make: new, or empty.")],
    criu: Annotated[
        str | None, typer.Option(metavar="VERSION|PATH", help="CRIU; default: as in repro.")
    ] = None,
    module: Annotated[str, typer.Option(metavar="none|plugin", help="The key module.")] = "none",
    base: Annotated[str, typer.Option(metavar="NAME", help="Userland of the container.")] = _BASE,
    workload: Annotated[str, typer.Option(metavar="NAME", help="What is dumped.")] = "python-sleeper",
    timeout: TimeoutOption = _TIMEOUT,
    verbose: Verbosity = 0,
) -> int:
    """Dump a process on this host into a directory, to be copied and restored on another host."""
    from harness.scenario import handover  # noqa: PLC0415 -- as in backend

    if criu == SYSTEM:
        raise UsageError(
            f"--criu {SYSTEM}: the other host has one of its own", hint="name a version or a path"
        )
    chosen, process = _module(module), backend.workload(workload)
    build = criu_of(criu) if criu else None
    with provisioned(verbose) as provision, backend.open_native_lab(provision) as lab:
        if build is None:
            build, _, why = backend.builds_that_show(lab)
            host.tell(why)
        prepared = backend.prepare_base(base_named(base), provision)
        run = handover.Dumping(
            _DUMP,
            _scenario(lab.spec, build, chosen, process, prepared),
            prepared,
            lab,
            RunOptions(results=handover.new_directory(to.absolute()), timeout=timeout),
        )
        run.directory, run.userland = to.absolute(), lab.userland(prepared)
        lab.begin()
        with progress.shown(verbose=verbose > 0):
            result = run.run()
    if run.saved:
        typer.echo(f"checkpoint of {workload} in {to}: copy it whole, it holds the task's memory and keys")
        return ExitCode.OK
    said = f"nothing was saved: {result.reason}"
    if result.outcome is Outcome.INVALID:
        typer.echo(said, err=True)
        return ExitCode.INVALID
    raise HostError(said) if result.outcome is Outcome.INFRA_ERROR else CriuError(said)


def restore(
    *,
    source: Annotated[Path, typer.Option("--from", metavar="DIR", help="A directory that dump made.")],
    criu: Annotated[
        str | None, typer.Option(metavar=f"VERSION|PATH|{SYSTEM}", help="CRIU; default: the dump's.")
    ] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go.")] = None,
    timeout: TimeoutOption = _TIMEOUT,
    verbose: Verbosity = 0,
) -> int:
    """Restore on this host what ``dump`` saved on this or another one; refuse what cannot work."""
    from harness.scenario import handover  # noqa: PLC0415 -- as in backend
    from harness.scenario.observed_machine import host_seen  # noqa: PLC0415 -- as in backend

    checkpoint, archive = handover.load(source.absolute())
    dumped, build = criu_of(checkpoint.criu), criu_of(criu or checkpoint.criu)
    with provisioned(verbose) as provision, backend.open_native_lab(provision) as lab:
        prepared = backend.prepare_base(base_named(checkpoint.base), provision)
        process = backend.workload(checkpoint.workload)
        start = _scenario(lab.spec, dumped, _module(checkpoint.module), process, prepared)
        scenario = handover.arriving(start, host_seen(checkpoint.host), build)
        if why := handover.refusal(scenario, checkpoint, lab.facts, lab.userland(prepared)):
            raise UsageError(f"{source} is not restored on this host: {why}")
        directory = results.absolute() if results else new_directory(datetime.now(UTC))
        run = handover.Restoring(
            _RESTORE, scenario, prepared, lab, RunOptions(results=directory, timeout=timeout)
        )
        run.checkpoint, run.archive = checkpoint, archive
        lab.begin()
        with progress.shown(verbose=verbose > 0):
            result = run.run()
    append_result(directory, result)
    print_results([result], None)
    typer.echo(f"{result.reason}\nresults and evidence: {directory}", err=True)
    return EXIT_CODES[result.verdict]


def _module(name: str) -> KeyModule:
    return named({one.value: one for one in KeyModule}, "module", name)


def _scenario(
    spec: MachineSpec, build: CriuBuild, module: KeyModule, workload: Workload, base: "PreparedBase"
) -> Scenario:
    return Scenario(
        source=spec,
        target=spec,
        criu_dump=build,
        criu_restore=build,
        module=module,
        workload=workload,
        base=base.base,
        driver=Driver.CRIU,
    )
