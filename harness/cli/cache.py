"""`criu-pac cache`: what is kept, making room, and bringing the lock of packages up to date."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.groups import command_group
from harness.cli.session import Verbosity, provisioned
from harness.core.errors import UsageError
from harness.provision.lock import LockedGroup, lock_path, read_lock
from harness.provision.packages import update_lock
from harness.provision.sizes import size
from harness.reporting import inventory, progress

app = command_group("The cache of downloads, images and templates.")


@app.command("list")
def list_entries(*, verbose: Verbosity = 0) -> int:
    """Show what the cache holds, least recently used first."""
    with provisioned(verbose) as provision:
        typer.echo(f"{provision.cache.root}", err=True)
        inventory.print_inventory(
            provision.cache.list_entries(), templates_max=provision.settings.templates_max
        )
    return 0


@app.command("prune")
def prune(
    *,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove the least recently used until this is left, like 5G."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything; the default.")] = False,
    verbose: Verbosity = 0,
) -> int:
    """Remove what is not in use."""
    if max_size is not None and everything:
        raise UsageError("--max-size and --all contradict each other")
    limit = 0 if max_size is None else size(max_size)
    with provisioned(verbose) as provision:
        removed = provision.cache.prune(limit)
    typer.echo(f"removed {len(removed)} entries, {sum(entry.size for entry in removed) / 1e6:.1f} MB")
    return 0


@app.command("update")
def update(
    *,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the lock here instead of into the checkout.")
    ] = None,
    verbose: Verbosity = 0,
) -> int:
    """Resolve every package group anew and write the lock; print what changed."""
    target = output or _lock_of_checkout()
    with provisioned(verbose) as provision:
        before = provision.lock
        with progress.shown(verbose=verbose > 0):
            update_lock(provision, target)
    changes = list(lock_changes(before, read_lock(target)))
    for line in changes:
        typer.echo(line)
    typer.echo(f"{target}: {len(changes)} changes", err=True)
    return 0


def _lock_of_checkout() -> Path:
    """Return the lock in this checkout; UsageError for an installed package, which is not edited."""
    path = lock_path()
    if not (path.parents[2] / "pyproject.toml").is_file():
        raise UsageError(
            f"{path} belongs to an installed package", hint="run it in a checkout, or give --output FILE"
        )
    return path


def lock_changes(before: Mapping[str, LockedGroup], after: Mapping[str, LockedGroup]) -> Iterator[str]:
    """Yield one line for each package that came, went, or changed between two locks."""
    for group in sorted(before.keys() | after.keys()):
        old = {one.name: one for one in before[group].packages} if group in before else {}
        new = {one.name: one for one in after[group].packages} if group in after else {}
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                yield f"{group}: {name} {old[name].version} is gone"
            elif name not in old:
                yield f"{group}: {name} {new[name].version} is new"
            elif old[name].version != new[name].version:
                yield f"{group}: {name} {old[name].version} -> {new[name].version}"
            elif old[name].sha256 != new[name].sha256:
                yield f"{group}: {name} {new[name].version} has other contents"
