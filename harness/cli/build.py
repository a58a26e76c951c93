"""`criu-pac build`: programs for the machines, from sources a person has."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.groups import command_group
from harness.cli.session import Verbosity, provisioned
from harness.provision.criu_build import build_criu
from harness.reporting import progress

app = command_group("Build programs for the machines from source.")


@app.command("criu")
def criu(
    *,
    source: Annotated[
        str, typer.Option(metavar="DIR|TAR|GIT", help="A source tree, an archive of one, a repository.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="A new directory, to be named in --criu.")
    ],
    ref: Annotated[
        str | None, typer.Option(metavar="REF", help="Commit, tag or branch of a repository.")
    ] = None,
    restorer_branch_protection: Annotated[
        bool, typer.Option("--restorer-branch-protection", help="Compile with -mbranch-protection=standard.")
    ] = False,
    verbose: Verbosity = 0,
) -> int:
    """Cross-compile CRIU for arm64, without root and without a compiler on this host."""
    with provisioned(verbose) as provision, progress.shown(verbose=verbose > 0):
        built = build_criu(
            source, ref, output, provision, restorer_branch_protection=restorer_branch_protection
        )
    keys = "saves keys itself" if built.native_keys else "leaves keys alone"
    typer.echo(f"{output}: CRIU {built.version}, {built.plugin_hooks} plugin hooks, {keys}")
    typer.echo(f"criu-pac repro --criu {output}")
    return 0
