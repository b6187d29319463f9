"""The `abscert` command: its subcommands, and how errors reach the user."""

import io
import os
import sys
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.text import Text

import abscert_plugin
from abscert_plugin.cli import advise, artifact, card, check, data, demo, guard, queries, query, show, train, verify
from abscert_plugin.cli.console import LOG
from abscert_plugin.errors import AbscertError
from abscert_plugin.plugins import leave_out, registered

ENTRY_POINTS: Final = "abscert.commands"
BAD_INPUT: Final = 2
_OWN_PACKAGES: Final = ("abscert_plugin", "baselines", "compare")
_INTERNAL: Final = 70  # sysexits' EX_SOFTWARE: a fault of ours, not of the input
_LONGEST: Final = 800  # characters of an error, in which whole values of a file may stand
_UsageError: Final = typer.BadParameter.__bases__[0]  # of an unknown option, a missing one, and so on: typer hides it


def build_app() -> typer.Typer:
    """Return the command with its own subcommands and those that other packages have registered.

    A package adds a subcommand through the entry-point group `abscert.commands`; each entry is a function that
    takes the `typer.Typer` and registers what it has.
    """
    app = typer.Typer(
        name="abscert",
        help="Train classifiers on pixel intervals, export them as ONNX, and verify the ONNX file by running it.",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(_options)
    for module in (train, artifact, verify, query, check, guard, card, show, queries, data, advise, demo):
        module.register(app)
    for point, register in registered(ENTRY_POINTS):
        try:
            register(app)
        except Exception as error:  # noqa: BLE001 - whatever another package raises: it stops no other command
            leave_out(point, f"{type(error).__name__}: {error}")
    return app


def main() -> None:
    """Run the command; every error is one line on stderr and a status: 2 for bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr is: files and their names hold what UTF-8 does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(build_app()(standalone_mode=False))
    except AbscertError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", BAD_INPUT)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OWN_PACKAGES:
            raise
        _fail(f"this command needs {error.name}, which is not installed; install it with pip", BAD_INPUT)
    except MemoryError:
        _fail("out of memory; use a smaller --batch-size", BAD_INPUT)
    except Exception as error:  # the last line of defence: a user never sees a traceback
        if isinstance(error, _UsageError):
            usage: Any = error
            command = usage.ctx.command_path if usage.ctx is not None else "abscert"
            _fail(f"{usage.format_message().rstrip('.')}; `{command} --help` lists what there is", BAD_INPUT)
        if os.environ.get("ABSCERT_DEBUG"):
            raise
        _fail(
            f"internal error, please report it ({type(error).__name__}: {error}); ABSCERT_DEBUG=1 shows where",
            _INTERNAL,
        )


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"abscert-plugin {abscert_plugin.__version__}")
        raise typer.Exit


def _print_name(asked: bool) -> None:
    if asked:
        typer.echo("abscert-plugin")
        raise typer.Exit


def _options(
    context: typer.Context,
    name: Annotated[  # noqa: ARG001 - its callback does the work
        bool,
        typer.Option("--name", help="Print the name of this solver and exit.", is_eager=True, callback=_print_name),
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Train classifiers on pixel intervals, export them as ONNX, and verify the ONNX file by running it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _fail(message: str, status: int) -> NoReturn:
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if len(line) > _LONGEST:  # what is wrong stands at its start, what to do at its end
        line = f"{line[: _LONGEST // 2]} [...] {line[-_LONGEST // 2 :]}"
    LOG.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
    sys.exit(status)
