"""The command ``facemargin``: finds its subcommands and turns expected errors into one line and exit code 2.

Each subcommand is an entry point of the group ``facemargin.commands`` and is imported when it is called or listed, so
that training and service stay strangers. This module owns no subcommand.
"""

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from facemargin import __version__
from facemargin.errors import FacemarginError, MissingExtraError

COMMAND_GROUP = "facemargin.commands"
EXTRAS = {"training": "train", "service": "serve", "facemargin.client": "client"}
"""Which extra brings the packages that the subcommands of a package import."""


def command_entry_points() -> dict[str, EntryPoint]:
    """The installed subcommands by name."""
    return {entry.name: entry for entry in entry_points(group=COMMAND_GROUP)}


def _missing_extra(entry: EntryPoint, error: ModuleNotFoundError) -> MissingExtraError:
    extra = next((extra for package, extra in EXTRAS.items() if entry.module.startswith(f"{package}.")), "train")
    return MissingExtraError(entry.name, extra, error.name or "?")


class CommandsByEntryPoint(typer.core.TyperGroup):
    """A command group whose members are entry points, loaded when first needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the installed subcommands, sorted."""
        return sorted(command_entry_points())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one subcommand; None (an unknown command) where no entry point has that name."""
        entry = command_entry_points().get(cmd_name)
        if entry is None:
            return None
        try:
            loaded = entry.load()
        except ModuleNotFoundError as error:
            raise _missing_extra(entry, error) from error
        if isinstance(loaded, typer.Typer):
            command = typer.main.get_command(loaded)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command()(loaded)
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=CommandsByEntryPoint,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, evaluate, export and serve face embeddings with margin softmax losses.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"facemargin {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, evaluate, export and serve face embeddings with margin softmax losses."""


def main() -> None:
    """Run the command line; expected errors become one line on stderr and exit code 2."""
    try:
        app(prog_name="facemargin")
    except FacemarginError as error:
        typer.echo(f"facemargin: error: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        entry = command_entry_points().get(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
        if entry is None or (error.name or "").split(".")[0] in ("facemargin", "training", "service"):
            raise
        typer.echo(f"facemargin: error: {_missing_extra(entry, error)}", err=True)
        sys.exit(2)
