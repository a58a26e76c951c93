"""`criu-pac matrix` and what goes with its results: show, diff, report."""

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.catalogue.criu_builds import SYSTEM, CriuBuild
from harness.catalogue.outcome import Verdict
from harness.catalogue.scenario import Driver, Scenario
from harness.cli import backend, host
from harness.cli.parallel import ParallelArms, default_parallelism
from harness.cli.repro import QemuOption
from harness.cli.running import base_record, new_directory, prepared_bases
from harness.cli.session import Verbosity, provisioned, session
from harness.core.errors import ExitCode, UsageError
from harness.provision.context import Provision
from harness.reporting import cells, page, progress
from harness.reporting.jsonl import FILE_NAME, append_result, merge_results, read_results
from harness.reporting.record import write_record
from harness.scenario import choices
from harness.scenario.arms import Arm
from harness.scenario.matrix import (
    CELL_SECONDS,
    DEFAULT_BASE,
    SELECTIONS,
    Dimensions,
    Excluded,
    arms_of,
    matrix_exit,
)
from harness.scenario.matrix import matrix as cells_of
from harness.scenario.matrix import shard as shard_of
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult

if TYPE_CHECKING:
    from harness.scenario.lab import Lab
    from harness.scenario.native_lab import NativeLab

Values = list[str] | None
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results directory or its results.jsonl.")]


def _option(metavar: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=text)
    return option


def matrix(  # noqa: PLR0913 -- typer makes one option of each parameter
    *,
    selection: Annotated[
        str | None, typer.Option(metavar="|".join(SELECTIONS), help="The cells to start from.")
    ] = None,
    criu: Annotated[Values, _option(f"VERSION|PATH|{SYSTEM}|DUMP:RESTORE", "CRIU; may be repeated.")] = None,
    kernel: Annotated[Values, _option("VERSION|PATH|SRC:DST", "Kernel; may be repeated.")] = None,
    cpu: Annotated[
        Values, _option("MODEL|SRC:DST", "CPU model, also any of QEMU's; may be repeated.")
    ] = None,
    module: Annotated[Values, _option("none|plugin|...", "Key module; may be repeated.")] = None,
    driver: Annotated[Values, _option("criu|runc|...", "Who calls CRIU; may be repeated.")] = None,
    base: Annotated[Values, _option("NAME", "Userland of the container; may be repeated.")] = None,
    workload: Annotated[Values, _option("NAME|DIR", "What is dumped; may be repeated.")] = None,
    cycles: Annotated[
        list[int] | None, typer.Option(metavar="N", min=1, help="Dumps and restores in a row; repeatable.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Cells at a time; default: as many as fit.")
    ] = None,
    machine: Annotated[
        str, typer.Option(metavar="qemu|native", help="Emulated machines, or this host as all of them.")
    ] = host.QEMU,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only say which cells there are.")] = False,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go.")] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="For one cell as a whole.")
    ] = CELL_SECONDS,
    qemu: QemuOption = None,
    verbose: Verbosity = 0,
) -> int:
    """Run many cells in parallel and compare each with its prediction.

    Given dimensions replace the selection's; without a selection, the others take their defaults.
    """
    given = {"kernel": kernel, "cpu": cpu, "module": module, "driver": driver, "base": base}
    given |= {"workload": workload, "cycles": [str(count) for count in cycles or ()]}
    choices.part((), shard)  # before anything is looked at
    builds_asked, unusable = _criu(criu or ())
    wanted = choices.dimensions({name: values or () for name, values in given.items()})
    wanted = replace(wanted, criu=builds_asked)
    native = host.is_wanted(machine, {"--kernel": kernel, "--cpu": cpu, "--qemu": qemu, "-n": at_once})
    with contextlib.ExitStack() as stack:
        provision = stack.enter_context(provisioned(verbose))
        lab: Lab | NativeLab
        if native:
            lab = host_lab = stack.enter_context(backend.open_native_lab(provision))
            wanted = _on_host(wanted, host_lab, choose=selection is None)
            chosen, excluded = cells_of(selection, wanted, DEFAULT_BASE)
        else:
            lab = emulated = stack.enter_context(backend.open_lab(provision, qemu))
            with progress.shown(verbose=verbose > 0):
                looked_at = cache(partial(backend.machine_of, emulated))
                chosen, excluded = cells_of(selection, wanted, DEFAULT_BASE, looked_at)
        part = choices.part(chosen, shard, shard_of)
        _tell_left_out(excluded)
        # Said like an error, but the other cells go on.
        for error in unusable:
            typer.echo(f"criu-pac: error: its cells are left out: {error}", err=True)
        unless_worse = ExitCode.USAGE if unusable else ExitCode.OK
        if list_only:
            for cell in part:
                typer.echo(cell.id)
            return unless_worse
        if not part:
            raise UsageError("no cell is left to run")
        if native:
            host_lab.begin()
        options = _options(part, results, timeout)
        command = _command(selection, wanted, shard, native=native)
        runner = _Runner(provision, lab, options, command, native=native)
        return runner.run(arms_of(part), at_once) or unless_worse


def _tell_left_out(excluded: Sequence[Excluded]) -> None:
    """Say which cells are left out and why; of many with one reason, how many."""
    by_reason: dict[str, list[Excluded]] = {}
    for one in excluded:
        by_reason.setdefault(one.reason, []).append(one)
    for reason, ones in by_reason.items():
        which = ones[0].scenario.id if len(ones) == 1 else f"{len(ones)} cells like {ones[0].scenario.id}"
        typer.echo(f"left out {which}: {reason}", err=True)


def _options(cells_: Sequence[Scenario], results: Path | None, timeout: float) -> RunOptions:
    """Return how the cells are run: their machines hold what any of them needs."""
    builds = {build.name: build for cell in cells_ for build in (cell.criu_dump, cell.criu_restore)}
    workloads = {cell.workload.name: cell.workload for cell in cells_}
    return RunOptions(
        results=results.absolute() if results else new_directory(datetime.now(UTC)),
        timeout=timeout,
        builds=tuple(builds.values()),
        workloads=tuple(workloads.values()),
    )


def _on_host(wanted: Dimensions, lab: "NativeLab", *, choose: bool) -> Dimensions:
    """Return the dimensions with the host as every machine and, to ``choose``, a CRIU that shows the bug."""
    if any(one is not Driver.CRIU for one in wanted.driver):
        raise UsageError("--driver: engines would be given another CRIU than this host's; criu only")
    spec, criu = lab.spec, wanted.criu
    if choose and not criu:
        build, beside, why = backend.builds_that_show(lab)
        host.tell(why)
        criu = tuple((one, one) for one in (build, beside) if one)
    return replace(
        wanted,
        criu=criu,
        cpu=((spec.cpu, spec.cpu),),
        kernel=((spec.kernel, spec.kernel),),
        driver=(Driver.CRIU,),
    )


class _Runner:
    """Runs the cells of one command into one results directory."""

    def __init__(
        self,
        provision: Provision,
        lab: "Lab | NativeLab",
        options: RunOptions,
        command: str,
        *,
        native: bool = False,
    ) -> None:
        self._provision = provision
        self._lab = lab
        self._options = options
        self._command = command
        self._native = native

    def run(self, arms: Sequence[Arm], at_once: int | None) -> int:
        """Run, report, and return the exit code."""
        directory, started = self._options.results, datetime.now(UTC)
        bases = prepared_bases(arms, self._provision)
        _ = self._lab.qemu_version  # one that cannot be used is an error of the command

        def stop() -> None:
            self._provision.fetcher.cancel()
            self._lab.close()

        def record() -> None:
            used = {**self._lab.manifest(), "bases": {name: base_record(one) for name, one in bases.items()}}
            write_record(directory, command=self._command, started=f"{started:%Y-%m-%dT%H:%M:%SZ}", used=used)

        def one(arm: Arm) -> ScenarioResult:
            options = replace(self._options, command=_command_of(arm, native=self._native))
            return backend.run_arm(arm, bases[arm.scenario.base.name], self._lab, options)

        record()
        verdicts: list[Verdict] = []
        ids = [arm.scenario.id for arm in arms]
        parallel = 1 if self._native else at_once or default_parallelism(len(arms))
        with (
            cells.cells_shown(ids) as shown,
            ParallelArms(arms, one, stop, at_once=parallel) as running,
        ):
            for result in running.results():
                append_result(directory, result)
                verdicts.append(result.verdict)
                shown.update(result.record())
        record()
        records = read_results(directory / FILE_NAME)
        cells.print_cells(records)
        written = page.write_reports(directory, records)
        typer.echo(f"results: {directory}; page: {written[0]}", err=True)
        return matrix_exit(verdicts)


def show(results: Results) -> int:
    """Print the cells of a results directory again."""
    with session(0):
        cells.print_cells(read_results(_file(results)))
    return ExitCode.OK


def diff(old: Results, new: Annotated[Path, typer.Argument(metavar="NEW", help="The later results.")]) -> int:
    """List the cells whose outcome changed between two results; exit code 1 if any did."""
    with session(0):
        lines = cells.differences(read_results(_file(old)), read_results(_file(new)))
    for line in lines:
        typer.echo(line)
    return ExitCode.REGRESSION if lines else ExitCode.OK


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Results directories or their results.jsonl.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Where the results of several are put together."),
    ] = None,
) -> int:
    """Write report.html, junit.xml and allure/ again from results; of several, of all with a results.jsonl.

    Evidence stays where it is and is referred to from DIR; of a cell that several hold, the last one counts.
    """
    files = [_file(one) for one in results]
    if output is None and len(files) > 1:
        raise UsageError(f"{len(files)} results", hint="give --output DIR for what they make together")
    with session(0):
        if output is None:
            directory, records = files[0].parent, read_results(files[0])
        else:
            directory, records = output, merge_results(files, output)
        for path in page.write_reports(directory, records):
            typer.echo(path)
    return ExitCode.OK


def _file(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path


def _criu(given: Sequence[str]) -> tuple[tuple[tuple[CriuBuild, CriuBuild], ...], list[UsageError]]:
    """Return the builds to use, and the errors of paths that are none; raises UsageError if all are.

    A name that is unknown is an error of the command; a build that somebody's own job has made badly
    must not keep the others from being looked at.
    """
    found, unusable = [], []
    for text in given:
        try:
            found.append(choices.criu_pair(text))
        except UsageError as error:
            if "/" not in text:
                raise
            unusable.append(error)
    if unusable and not found:
        raise unusable[0]
    return tuple(found), unusable


def _command(selection: str | None, wanted: Dimensions, shard: str | None, *, native: bool = False) -> str:
    words = ["criu-pac", "matrix"]
    if native:
        words += ["--machine", host.NATIVE]
    if selection:
        words += ["--selection", selection]
    if shard:
        words += ["--shard", shard]
    for name, pairs in (("criu", wanted.criu), ("kernel", () if native else wanted.kernel)):
        for one, other in pairs:
            words += [f"--{name}", _pair(one.spelled, other.spelled)]
    for first, second in () if native else wanted.cpu:
        words += ["--cpu", _pair(first.name, second.name)]
    for name in ("module", "driver"):
        words += [word for one in getattr(wanted, name) for word in (f"--{name}", one.value)]
    words += [word for one in wanted.base for word in ("--base", one.name)]
    words += [word for one in wanted.workload for word in ("--workload", one.spelled)]
    words += [word for one in wanted.cycles for word in ("--cycles", str(one))]
    return shlex.join(words)


def _pair(one: str, other: str) -> str:
    return one if one == other else f"{one}:{other}"


def _command_of(arm: Arm, *, native: bool = False) -> str:
    """Return the command that runs one cell again."""
    cell = arm.scenario
    one = Dimensions(
        criu=((cell.criu_dump, cell.criu_restore),),
        kernel=((cell.source.kernel, cell.target.kernel),),
        cpu=((cell.source.cpu, cell.target.cpu),),
        module=(cell.module,),
        driver=(cell.driver,),
        base=(cell.base,),
        workload=(cell.workload,),
        cycles=(cell.cycles,),
    )
    return _command(None, one, None, native=native)
