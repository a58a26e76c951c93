"""The command `criu-pac`: its options, its exit codes and its last line when something is wrong."""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from harness import __version__
from harness.cli import build, cache, doctor, handover, keys, matrix, module, repro, shell
from harness.core.errors import ExitCode, HarnessError

PROGRAM = "criu-pac"

# click's own classes: typer brings click along in some versions and depends on it in others.
_ClickUsageError: type[Exception] = typer.BadParameter.__bases__[0]
_ClickError: type[Exception] = _ClickUsageError.__bases__[0]

app = typer.Typer(
    name=PROGRAM,
    help="Reproduce what CRIU does to processes under ARM64 pointer authentication, and test the cure.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("repro")(repro.repro)
app.command("matrix")(matrix.matrix)
app.command("dump")(handover.dump)
app.command("restore")(handover.restore)
app.command("show")(matrix.show)
app.command("diff")(matrix.diff)
app.command("report")(matrix.report)
app.command("shell")(shell.shell)
app.command("doctor")(doctor.doctor)
app.add_typer(cache.app, name="cache")
app.add_typer(build.app, name="build")
app.add_typer(module.app, name="module")
app.add_typer(keys.app, name="keys")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.get_help()  # printed as it is made, by typer with rich
        raise typer.Exit(ExitCode.USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None: of this process) and return its exit code."""
    try:
        code = app(
            args=None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False
        )
    except HarnessError as error:
        return _fail(str(error), error.exit_code)
    except _ClickError as error:
        message = getattr(error, "format_message", error.__str__)()
        return _fail(message, ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 -- a fault of the harness must not end like a regression (1)
        traceback.print_exc()
        return _fail(f"internal error: {type(error).__name__}: {error}", ExitCode.INFRASTRUCTURE)
    if code == ExitCode.INTERRUPTED:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    return int(code or ExitCode.OK)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"{PROGRAM}: error: {line}; exit code {code}\n")
    return code
