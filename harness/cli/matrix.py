"""`criu-pac matrix` and what goes with its results: show, diff, report."""

import contextlib
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from harness.catalogue.bases import base as base_named
from harness.catalogue.names import named
from harness.catalogue.outcome import Verdict
from harness.catalogue.scenario import Driver, KeyModule, Scenario
from harness.cli import backend, choices, host
from harness.cli.parallel import ParallelArms, default_parallelism
from harness.cli.repro import QemuOption
from harness.cli.running import base_record, new_directory, prepared_bases
from harness.cli.session import Verbosity, provisioned, session
from harness.core.errors import ExitCode, UsageError
from harness.provision.context import Provision
from harness.reporting import cells, page
from harness.reporting.jsonl import FILE_NAME, append_result, read_results
from harness.reporting.record import write_record
from harness.scenario.arms import Arm
from harness.scenario.matrix import SELECTIONS, Dimensions, arms_of, matrix_exit
from harness.scenario.matrix import matrix as cells_of
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult

if TYPE_CHECKING:
    from harness.scenario.lab import Lab
    from harness.scenario.native_lab import NativeLab

T = TypeVar("T")

_DEFAULT_BASE = "debian-13"

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
    criu: Annotated[Values, _option("VERSION|DUMP:RESTORE|DIR", "CRIU; may be repeated.")] = None,
    kernel: Annotated[Values, _option("VERSION|SRC:DST", "Kernel; may be repeated.")] = None,
    cpu: Annotated[Values, _option("MODEL|SRC:DST", "CPU model; may be repeated.")] = None,
    module: Annotated[Values, _option("none|plugin|...", "Key module; may be repeated.")] = None,
    driver: Annotated[Values, _option("criu|runc|...", "Who calls CRIU; may be repeated.")] = None,
    base: Annotated[Values, _option("NAME", "Userland of the container; may be repeated.")] = None,
    workload: Annotated[Values, _option("NAME", "What is dumped; may be repeated.")] = None,
    cycles: Annotated[
        list[int] | None, typer.Option(metavar="N", min=1, help="Dumps and restores in a row; repeatable.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Cells at a time; default: one per core.")
    ] = None,
    machine: Annotated[
        str, typer.Option(metavar="qemu|native", help="Emulated machines, or this host as all of them.")
    ] = host.QEMU,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only say which cells there are.")] = False,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For one cell as a whole.")] = 180.0,
    qemu: QemuOption = None,
    verbose: Verbosity = 0,
) -> int:
    """Run many cells in parallel and compare each with its prediction.

    Given dimensions replace the selection's; without a selection, the others take their defaults.
    """
    wanted = Dimensions(
        criu=_each(criu, choices.criu_pair),
        kernel=_each(kernel, choices.kernel_pair),
        cpu=_each(cpu, choices.cpu_pair),
        module=_each(module, lambda name: named({one.value: one for one in KeyModule}, "module", name)),
        driver=_each(driver, choices.driver),
        base=_each(base, base_named),
        workload=_each(workload, backend.workload),
        cycles=tuple(cycles or ()),
    )
    native = host.is_wanted(machine, {"--kernel": kernel, "--cpu": cpu, "--qemu": qemu, "-n": at_once})
    with contextlib.ExitStack() as stack:
        if native:
            provision = stack.enter_context(provisioned(verbose))
            host_lab = stack.enter_context(backend.open_native_lab(provision))
            wanted = _on_host(wanted, host_lab, choose=selection is None)
        chosen, excluded = cells_of(selection, wanted, base_named(_DEFAULT_BASE))
        part = _part(chosen, shard)
        for one in excluded:
            typer.echo(f"left out {one.scenario.id}: {one.reason}", err=True)
        if list_only:
            for cell in part:
                typer.echo(cell.id)
            return ExitCode.OK
        if not part:
            raise UsageError("no cell is left to run")
        builds = {build.name: build for cell in part for build in (cell.criu_dump, cell.criu_restore)}
        options = RunOptions(results=Path(), timeout=timeout, builds=tuple(builds.values()))
        lab: Lab | NativeLab
        if native:
            host_lab.begin()
            lab = host_lab
        else:
            provision = stack.enter_context(provisioned(verbose))
            lab = stack.enter_context(backend.open_lab(provision, qemu))
        directory = results.absolute() if results else new_directory(datetime.now(UTC))
        command = _command(selection, wanted, shard, native=native)
        runner = _Runner(provision, lab, replace(options, results=directory), command, native=native)
        return runner.run(arms_of(part), at_once)


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


def report(results: Results) -> int:
    """Write report.html and junit.xml again from results."""
    with session(0):
        file = _file(results)
        for path in page.write_reports(file.parent, read_results(file)):
            typer.echo(path)
    return ExitCode.OK


def _file(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path


def _each(given: Iterable[str] | None, find: Callable[[str], T]) -> tuple[T, ...]:
    return tuple(find(one) for one in given or ())


def _part(cells_: Sequence[Scenario], shard: str | None) -> list[Scenario]:
    """Return every N-th cell from the I-th on: neighbours, which cost alike, go to different parts."""
    if shard is None:
        return list(cells_)
    number, slash, count = shard.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {shard}: write it like 1/4")
    return list(cells_[int(number) - 1 :: int(count)])


def _command(selection: str | None, wanted: Dimensions, shard: str | None, *, native: bool = False) -> str:
    words = ["criu-pac", "matrix"]
    if native:
        words += ["--machine", host.NATIVE]
    if selection:
        words += ["--selection", selection]
    if shard:
        words += ["--shard", shard]
    for dump, restore in wanted.criu:
        spelled = dump.spelled if dump == restore else f"{dump.spelled}:{restore.spelled}"
        words += ["--criu", spelled]
    for name in () if native else ("kernel", "cpu"):
        for first, second in getattr(wanted, name):
            words += [f"--{name}", first.name if first == second else f"{first.name}:{second.name}"]
    for name in ("module", "driver"):
        words += [word for one in getattr(wanted, name) for word in (f"--{name}", one.value)]
    for name in ("base", "workload"):
        words += [word for one in getattr(wanted, name) for word in (f"--{name}", one.name)]
    words += [word for one in wanted.cycles for word in ("--cycles", str(one))]
    return shlex.join(words)


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
