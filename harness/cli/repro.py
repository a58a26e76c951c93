"""`criu-pac repro`: the bug, and the same again with the cure."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.catalogue.bases import Base
from harness.catalogue.cpus import DEFAULT_CPU, HOST_CPU
from harness.catalogue.criu_builds import DEFAULT_CRIU, SYSTEM, CriuBuild
from harness.catalogue.kernels import DEFAULT_KERNEL
from harness.catalogue.scenario import Driver, MachineSpec
from harness.catalogue.workloads import Workload
from harness.cli import backend, host
from harness.cli.parallel import ParallelArms, default_parallelism
from harness.cli.running import RESULTS, base_record, new_directory, prepared_bases
from harness.cli.session import Verbosity, provisioned
from harness.core.errors import ExitCode, HostError, UsageError
from harness.provision.context import Provision
from harness.reporting import progress
from harness.reporting.jsonl import append_result
from harness.reporting.record import write_record
from harness.reporting.table import print_results
from harness.scenario import choices
from harness.scenario.arms import CONTROL_NO_PAC, Arm, native_keys_arm, repro_arms, repro_exit
from harness.scenario.options import RunOptions
from harness.scenario.result import ScenarioResult

if TYPE_CHECKING:
    from harness.scenario.lab import Lab
    from harness.scenario.native_lab import NativeLab

_TIMEOUT = 120.0
_KEPT = "the machines are kept; Ctrl-C ends them"
_KEPT_HOST = "this host is kept as the last arm left it; Ctrl-C puts it back"
_GLANCE = 0.5  # seconds between two looks at whether there was an interrupt

BaseOption = Annotated[
    str,
    typer.Option(
        metavar="auto|ubuntu-24.04|debian-13|debian-12|ubuntu-20.04|TAR",
        help="Userland of the container: the first that can be had, a named one, or a root file system.",
    ),
]
QemuOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Another qemu-system-aarch64 than the provided one.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for, understood; ``timeout`` in seconds per arm."""

    native: bool
    machines: tuple[MachineSpec, MachineSpec]
    criu: tuple[CriuBuild, CriuBuild]
    base: str
    workload: Workload
    driver: Driver
    control: bool
    keep: bool
    timeout: float
    qemu: Path | None
    beside: CriuBuild | None = None

    def arms(self, base: Base) -> tuple[Arm, ...]:
        """Return the arms on ``base``; raises UsageError."""
        arms = repro_arms(
            source=self.machines[0],
            target=self.machines[1],
            criu_dump=self.criu[0],
            criu_restore=self.criu[1],
            base=base,
            workload=self.workload,
            driver=self.driver,
            control=self.control,
        )
        if self.native:  # a CPU without PAC is another machine
            arms = tuple(one for one in arms if one.name != CONTROL_NO_PAC)
        return (*arms, native_keys_arm(arms[0], self.beside)) if self.beside else arms

    def command(self, base: Base) -> str:
        """Return the command line that runs the same again, with nothing left to choose."""
        words = ["criu-pac", "repro"]
        if self.native:
            words += ["--machine", host.NATIVE]
        else:
            words += ["--cpu", _halves(machine.cpu.name for machine in self.machines)]
            words += ["--kernel", _halves(machine.kernel.spelled for machine in self.machines)]
        if not self.beside:  # else the host chooses the same again
            words += ["--criu", _halves(build.spelled for build in self.criu)]
        words += ["--base", str(base.tar or base.name)]
        words += ["--workload", self.workload.spelled, "--driver", self.driver.value]
        words += ["--timeout", f"{self.timeout:g}"]
        words += ["--control"] * self.control
        words += ["--qemu", str(self.qemu)] if self.qemu else []
        return shlex.join(words)


def _halves(names: Iterable[str]) -> str:
    """Return "ONE", or "ONE:OTHER" where two names differ."""
    return ":".join(dict.fromkeys(names))


def repro(  # noqa: PLR0913 -- typer makes one option of each parameter
    *,
    machine: host.MachineOption = host.AUTO,
    cpu: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|SRC:DST",
            help=f"CPU model, also any of QEMU's, or {HOST_CPU} (KVM); two: restore on another. "
            f"Default: {DEFAULT_CPU.name}; on arm64 {HOST_CPU} where KVM has PAC.",
        ),
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|PATH|SRC:DST",
            help=f"Kernel; two: restore on another machine. Default: {DEFAULT_KERNEL.name}.",
        ),
    ] = None,
    criu: Annotated[
        str | None,
        typer.Option(
            metavar=f"VERSION|PATH|{SYSTEM}|DUMP:RESTORE",
            help=f"CRIU, for dump and restore; {SYSTEM}: the one installed on this arm64 host. "
            f"Default: {DEFAULT_CRIU.name}; natively one that runs.",
        ),
    ] = None,
    base: BaseOption = choices.AUTO,
    workload: Annotated[str, typer.Option(metavar="NAME|DIR", help="The process that is dumped.")] = (
        "python-sleeper"
    ),
    driver: Annotated[
        str, typer.Option(metavar="criu|runc|docker|podman", help="Who calls CRIU.")
    ] = Driver.CRIU.value,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="More arms, which must survive: a CPU without PAC (not natively), an unprotected userland.",
        ),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help=f"Where results.jsonl and evidence go; default: ./{RESULTS}/<time>."
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep the machines until Ctrl-C, to look around; natively what the last arm left."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For one arm as a whole.")] = _TIMEOUT,
    qemu: QemuOption = None,
    verbose: Verbosity = 0,
) -> int:
    """Dump and restore a process with stock CRIU, and again with the PAC key module."""
    if not 0 < timeout < float("inf"):
        raise UsageError(f"--timeout {timeout:g}: must be a number of seconds above 0")
    if results is not None and results.exists() and not results.is_dir():
        raise UsageError(f"--results {results}: not a directory")
    choices.check_base(base)
    engine = driver != Driver.CRIU.value  # it would be given another CRIU than this host's
    emulated = {"--cpu": cpu, "--kernel": kernel, "--qemu": qemu, "--driver": engine}
    native = host.is_wanted(machine, emulated)
    cpus = choices.cpu_pair(cpu) if cpu else None
    kernels = choices.kernel_pair(kernel or DEFAULT_KERNEL.name)
    wanted = partial(
        Request,
        native=native,
        criu=choices.criu_pair(criu or DEFAULT_CRIU.name),
        base=base,
        workload=backend.workload(workload),
        driver=choices.driver(driver),
        control=control,
        keep=keep,
        timeout=timeout,
        qemu=qemu,
    )
    with provisioned(verbose) as provision:
        if native:
            with backend.open_native_lab(provision) as host_lab:
                request = _on_host(wanted(machines=(host_lab.spec,) * 2), host_lab, choose=criu is None)
                host_lab.begin()
                return _run(request, provision, host_lab, results, verbose=verbose > 0)
        with backend.open_lab(provision, qemu) as lab:
            with progress.shown(verbose=verbose > 0):
                cpus = cpus or choices.cpu_pair(host.emulated_cpu(lab))
                source, target = (backend.machine_of(lab, *one) for one in zip(cpus, kernels, strict=True))
            return _run(wanted(machines=(source, target)), provision, lab, results, verbose=verbose > 0)


def _on_host(request: Request, lab: "NativeLab", *, choose: bool) -> Request:
    """Return the request with, to ``choose``, a CRIU that shows the bug on the host."""
    if choose:
        build, beside, why = backend.builds_that_show(lab)
        host.tell(why)
        request = replace(request, criu=(build, build), beside=beside)
    if request.control:
        host.tell("a control without PAC needs another CPU: --machine qemu has it")
    return request


def _run(
    request: Request, provision: Provision, lab: "Lab | NativeLab", results: Path | None, *, verbose: bool
) -> int:
    started = datetime.now(UTC)
    with progress.shown(verbose=verbose):
        chosen, _ = backend.choose_base(request.base, provision)
        arms = request.arms(chosen.base)
        bases = prepared_bases(arms, provision, chosen)
        # A QEMU that cannot be used is an error of the command, not a result of every arm.
        _ = lab.qemu_version
    command = request.command(chosen.base)
    directory = results.absolute() if results else new_directory(started)
    options = RunOptions(
        results=directory,
        timeout=request.timeout,
        keep=request.keep,
        command=command,
        builds=_all_builds(arms) if request.native else (),  # one container for all of them
    )

    def record() -> None:
        used = {**lab.manifest(), "bases": {name: base_record(one) for name, one in bases.items()}}
        write_record(directory, command=command, started=f"{started:%Y-%m-%dT%H:%M:%SZ}", used=used)

    def stop() -> None:
        provision.fetcher.cancel()  # arms may be making their template, which nothing else ends
        lab.close()

    record()  # now, so that an interrupted run says what it was, and again when everything is known
    with ParallelArms(
        arms,
        lambda arm: backend.run_arm(arm, bases[arm.scenario.base.name], lab, options),
        stop,
        at_once=1 if request.native else default_parallelism(len(arms)),
        linger=request.keep,
    ) as running:
        with progress.shown(verbose=verbose):
            finished = _collected(arms, running, lambda result: append_result(directory, result))
        record()
        code = _report(finished, directory)
        if request.keep:
            _wait_for_interrupt(_KEPT_HOST if request.native else _KEPT)
        return code


def _all_builds(arms: Sequence[Arm]) -> tuple[CriuBuild, ...]:
    builds = [build for arm in arms for build in (arm.scenario.criu_dump, arm.scenario.criu_restore)]
    return tuple({build.name: build for build in builds}.values())


def _collected(
    arms: Sequence[Arm], running: ParallelArms, finished: Callable[[ScenarioResult], object]
) -> list[ScenarioResult]:
    """Return the results in the order of the arms, each given to ``finished`` as soon as it is there."""
    results = {}
    for result in running.results():
        finished(result)
        results[result.arm] = result
    return [results[arm.name] for arm in arms]


def _report(results: Sequence[ScenarioResult], directory: Path) -> int:
    code, sentence = repro_exit(results)
    failed = code == ExitCode.INFRASTRUCTURE
    print_results(results, None if failed else sentence)
    sys.stdout.flush()
    typer.echo(f"results and evidence: {directory}", err=True)
    if failed:
        raise HostError(sentence)
    return code


def _wait_for_interrupt(told: str) -> None:
    """Say what is kept, and keep the command alive, and with it its machines, until Ctrl-C."""
    try:
        # In here: whoever reads it may be quick.
        typer.echo(told, err=True)
        while True:
            # Not signal.pause: a signal that comes just before a wait begins does not end it.
            time.sleep(_GLANCE)
    except KeyboardInterrupt:
        typer.echo("", err=True)
