"""Commands with commands of their own."""

import typer

from harness.core.errors import ExitCode


def command_group(help_text: str) -> typer.Typer:
    """Return a group that shows its help, as wrong usage, when it is called without a command."""
    app = typer.Typer(help=help_text, invoke_without_command=True)

    @app.callback()
    def _options(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            context.get_help()  # printed as it is made, by typer with rich
            raise typer.Exit(ExitCode.USAGE)

    return app
