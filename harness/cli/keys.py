"""`criu-pac keys`: keys of a process by ptrace, for CRIU versions that the plugin cannot serve."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.groups import command_group
from harness.cli.session import session
from harness.key_module.keyfile import read_unbound_file, write_unbound_file
from harness.key_module.ptrace_keys import load, save

app = command_group("Save and load keys by ptrace: around a dump and `criu restore --leave-stopped`.")

Pid = Annotated[int, typer.Argument(metavar="PID", min=1, help="The process; its descendants are included.")]


@app.command("save")
def save_keys(
    pid: Pid,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A new file, mode 0600.")],
) -> int:
    """Save the keys of a process that is about to be dumped. The file is as secret as the keys."""
    with session(0):
        file = save(pid)
        write_unbound_file(output, file)
    typer.echo(f"keys of {len(file.threads)} threads saved in {output}")
    return 0


@app.command("load")
def load_keys(
    pid: Pid, file: Annotated[Path, typer.Argument(metavar="FILE", help="From `criu-pac keys save`.")]
) -> int:
    """Load saved keys into a restored process, which should still be stopped."""
    with session(0):
        count = load(pid, read_unbound_file(file))
    typer.echo(f"keys of {count} threads loaded; `kill -CONT {pid}` lets the process run")
    return 0
