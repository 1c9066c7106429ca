"""The command line. Every command imports what it needs when it runs, so that help and errors come at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from mpsearch import __version__
from mpsearch.cli import export, look, profile, search, tools
from mpsearch.core.errors import BadInput, MpsearchError

app = typer.Typer(
    name="mpsearch",
    help="Search which number format goes where in a model: a verified Pareto front of accuracy against cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    search.run,
    search.resume,
    search.describe,
    look.front,
    look.compare,
    export.export,
    export.verify,
    look.list_,
    look.schema,
    profile.profile,
    tools.new,
    tools.sync,
    tools.ui,
):
    app.command(command.__name__.rstrip("_"))(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mpsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version  # the callback has answered


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code: one message and no traceback for anything but a bug."""
    if not sys.warnoptions:  # what libraries will change is for developers, who have -W
        warnings.simplefilter("ignore", FutureWarning)
    try:
        app(args=arguments, prog_name="mpsearch")
    except MpsearchError as error:
        sys.stdout.flush()
        errors = error.errors if isinstance(error, BadInput) else (str(error),)
        head = "mpsearch: " if len(errors) == 1 else f"mpsearch: {len(errors)} errors\n"
        print((head + "\n".join(errors)).replace("\n", "\n  "), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("mpsearch: stopped", file=sys.stderr)
        sys.exit(130)
