"""`criu-pac module`: build, install and remove the PAC key module, and look at what it has saved."""

import json
import platform
import secrets
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.groups import command_group
from harness.cli.session import Verbosity, provisioned, session
from harness.core.deadline import Deadline
from harness.core.errors import ExitCode, UsageError
from harness.core.process import CommandResult, run
from harness.key_module import install as installation
from harness.key_module.build import PLUGIN_NAME, build_check, build_plugin, check_key, plugin_key
from harness.key_module.inspect import describe
from harness.key_module.keyfile import foreign_images, read_key_file
from harness.key_module.status import machine_status
from harness.provision.context import Provision
from harness.reporting.facts import print_facts

app = command_group("The PAC key module: a CRIU plugin that carries keys for CRIU versions that do not.")

ARM64 = "aarch64"

Root = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Work on the root file system in DIR instead of this machine's."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which files would be written or removed.")]
Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="A directory with CRIU's images.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("build")
def build(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE")] = Path(PLUGIN_NAME),
    verbose: Verbosity = 0,
) -> int:
    """Compile the plugin for arm64 (glibc 2.31 and later). No compiler has to be installed."""
    with provisioned(verbose) as provision:
        build_plugin(output, provision.cache.root / "zig")
    typer.echo(f"{output}: copy it into the library directory of CRIU on an arm64 machine")
    return 0


@app.command("install")
def install(
    *,
    root: Root = None,
    dry_run: DryRun = False,
    policy: Annotated[
        str | None, typer.Option(metavar="|".join(installation.POLICIES), help="Write a policy file, too.")
    ] = None,
    verbose: Verbosity = 0,
) -> int:
    """Put the module where this machine's CRIU, runc and podman load plugins from."""
    where = _root(root)
    with provisioned(verbose) as provision:
        plan = installation.plan_install(where, _plugin(provision), policy=policy)
        _carry_out(plan, where, dry_run=dry_run)
    return 0


@app.command("uninstall")
def uninstall(*, root: Root = None, dry_run: DryRun = False) -> int:
    """Remove what `install` has written."""
    where = _root(root)
    with session(0):
        plan = installation.plan_uninstall(where)
        _carry_out(plan, where, dry_run=dry_run)
    if not plan.changes:
        typer.echo("nothing is installed")
    return 0


@app.command("inspect")
def inspect(images: Images, *, as_json: AsJson = False) -> int:
    """Show what the key file of an images directory holds; keys appear as fingerprints of this call."""
    with session(0):
        facts = describe(read_key_file(images), secrets.token_bytes(32))
        facts["foreign images"] = foreign_images(read_key_file(images), images)
    _show(facts, as_json=as_json)
    return 0


@app.command("verify")
def verify(images: Images, *, verbose: Verbosity = 0) -> int:
    """Let the module say whether it would restore an images directory on this machine; exit code 1: no.

    Elsewhere than on arm64 only the file and its binding to the images are checked.
    """
    if platform.machine() != ARM64:
        with session(verbose):
            foreign = foreign_images(read_key_file(images), images)
        for name in foreign:
            typer.echo(f"{name} is not the image that the keys were saved with")
        here = platform.machine()
        typer.echo(f"this machine is {here}, not {ARM64}: whether it could take the keys was not checked")
        return ExitCode.REGRESSION if foreign else ExitCode.OK
    with provisioned(verbose) as provision:
        answer = ask_module(provision, images)
    typer.echo(answer.text.rstrip() or answer.error_text.rstrip())
    return answer.returncode


def ask_module(provision: Provision, images: Path) -> CommandResult:
    """Return what the module says to an images directory on this arm64 machine; exit code 1: no.

    Raises HostError where the program that asks it can be neither found nor compiled.
    """
    cache = provision.cache
    built = cache.artifact(
        "key-module-check", check_key()[:32], lambda work: _build_check(work / "check", cache.root)
    )
    return run([built / "check", images], Deadline.after(60, "the check of the images"))


@app.command("status")
def status(*, root: Root = None, as_json: AsJson = False, verbose: Verbosity = 0) -> int:
    """Show this machine: CPU, CRIU and engines, and where the module is installed."""
    with provisioned(verbose) as provision:
        facts = machine_status(root or Path("/"), _plugin(provision))
    _show(facts, as_json=as_json)
    return 0


def _root(root: Path | None) -> Path:
    if root is None and platform.machine() != ARM64:
        raise UsageError(
            f"this machine is {platform.machine()} and the module is for {ARM64}",
            hint="give --root DIR for the root file system of an arm64 machine, or use `module build`",
        )
    where = root or Path("/")
    if not where.is_dir():
        raise UsageError(f"--root {where}: no such directory")
    return where


def _plugin(provision: Provision) -> bytes:
    cache = provision.cache
    built = cache.artifact(
        "key-module", plugin_key()[:32], lambda work: _build_plugin(work / PLUGIN_NAME, cache.root)
    )
    return (built / PLUGIN_NAME).read_bytes()


def _build_plugin(output: Path, cache_root: Path) -> None:
    build_plugin(output, cache_root / "zig")


def _build_check(output: Path, cache_root: Path) -> None:
    build_check(output, cache_root / "zig")


def _carry_out(plan: installation.Plan, root: Path, *, dry_run: bool) -> None:
    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    if not dry_run:
        installation.apply(plan, root)
    for change in plan.changes:
        typer.echo(f"would {change}" if dry_run else f"{change}")


def _show(facts: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        print_facts(facts)
