"""The `abscert` command: its subcommands, and how errors reach the user."""

import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from errno import ENOSPC
from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.text import Text

import abscert_plugin
from abscert_plugin.choices import did_you_mean, expected_one_of
from abscert_plugin.cli import manual
from abscert_plugin.cli.console import LOG
from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.plugins import leave_out, registered

_FULL: Final = "free some where it writes, and run it again: what was written stays"
_HELP: Final = (
    "Train classifiers on pixel intervals, export them as ONNX, and verify the ONNX file by proofs and by running it. "
    "`abscert COMMAND -h` has a command's options and an example; `abscert --install-completion` lets the shell "
    "complete commands, options, names and run folders."
)
GUIDE: Final = """Verify an ONNX file: abscert verify model.onnx --data mnist --claim ball --radius 0.1
Train a network: abscert train --data digits --method reachable --radius 0.1 --out runs/ball
Guard it, so that it certifies by itself: abscert guard runs/ball --radius 0.1 --out runs/ball/guard.onnx
Compare methods: abscert compare run digits-smoke --out results"""
"""What people do, a line each: what, a colon, a command."""
ENTRY_POINTS: Final = "abscert.commands"
_MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "demo": "demo",
        "data": "data",
        "advise": "advise",
        "train": "train",
        "tune": "tune",
        "verify": "verify",
        "show": "show",
        "check": "check",
        "queries": "queries",
        "supports": "query",
        "bench": "bench",
        "export": "artifact",
        "wrap": "artifact",
        "guard": "guard",
        "card": "card",
    }
)
"""The module beside this one that has each of our subcommands, in the order of help."""
BAD_INPUT: Final = 2
_OWN_PACKAGES: Final = ("abscert_plugin", "baselines", "compare")
_INTERNAL: Final = 70  # sysexits' EX_SOFTWARE: a fault of ours, not of the input
_LONGEST: Final = 800  # characters of an error, in which whole values of a file may stand
_NO_COMMAND: Final = re.compile("No such command '(.*)'")
_NO_CHOICE: Final = re.compile("Invalid value for '(.*?)': .*'(.*?)' is not one of (.*)")
_OF_NUMBERS: Final = (  # what typer's own library says of values
    (re.compile("Input should be a valid integer.*"), "expected a whole number"),
    (re.compile("Input should be a valid number.*"), "expected a number"),
    (re.compile("Input should be greater than or equal to (.*)"), r"expected at least \1"),
    (re.compile("Value error, "), ""),
)
_UsageError: Final = typer.BadParameter.__bases__[0]  # of an unknown option, a missing one, and so on: typer hides it


def build_app(asked: str | None = None) -> typer.Typer:
    """Return the command with its own subcommands and those that other packages have registered.

    A package adds a subcommand through the entry-point group `abscert.commands`; each entry is a function that
    takes the `typer.Typer` and registers what it has.

    Args:
        asked: the subcommand that will be run, where that is known. Where one of ours, or an entry point, has that name
            it is all there is, since to import the others takes longer than many a command does.
    """
    app = manual.Commands(name="abscert", context_settings=manual.SETTINGS)
    app.callback(help=_HELP, epilog=GUIDE)(_options)
    if (own := _MODULES.get(asked or "")) is not None:
        _add_own(app, [own])
        return app
    other = asked if asked in entry_points(group=ENTRY_POINTS).names else None
    if other is None:
        _add_own(app, dict.fromkeys(_MODULES.values()))
    for point, register in registered(ENTRY_POINTS, other):
        try:
            register(app)
        except Exception as error:  # noqa: BLE001 - whatever another package raises: it stops no other command
            leave_out(point, f"{type(error).__name__}: {error}")
    return app


def _add_own(app: typer.Typer, modules: Iterable[str]) -> None:
    for module in modules:
        import_module(f"abscert_plugin.cli.{module}").register(app)


def main() -> None:
    """Run the command; every error is one line on stderr and a status: 2 for bad input."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr is: files and their names hold what UTF-8 does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _refuse_empty(sys.argv[1:])
        sys.exit(build_app(next(iter(sys.argv[1:]), None))(standalone_mode=False, prog_name="abscert"))
    except AbscertError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        advice = f"; {_FULL}" if error.errno == ENOSPC else ""
        _fail(f"{place}{error.strerror or error}{advice}", BAD_INPUT)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OWN_PACKAGES:
            raise
        _fail(f"this command needs {error.name}, which is not installed; install it with pip", BAD_INPUT)
    except MemoryError:
        _fail("out of memory; use a smaller --batch-size", BAD_INPUT)
    except Exception as error:  # the last line of defence: a user never sees a traceback
        if isinstance(error, _UsageError):
            _fail(_usage_fault(error), BAD_INPUT)
        if os.environ.get("ABSCERT_DEBUG"):
            raise
        _fail(
            f"internal error, please report it ({type(error).__name__}: {error}); ABSCERT_DEBUG=1 shows where",
            _INTERNAL,
        )


def _refuse_empty(words: Sequence[str]) -> None:
    """Raise ConfigError for a value without a letter: as a folder it would be the one that the user stands in."""
    for before, word in pairwise(["abscert", *words]):
        option, sign, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if sign and not value:
            raise ConfigError(f"expected a value after {option}, got an empty one; is a variable of the shell not set?")


def _usage_fault(error: Any) -> str:
    """Return what is wrong with the words of a command, and the word that may have been meant."""
    command = error.ctx.command_path if error.ctx is not None else "abscert"
    message = error.format_message().split(" Did you mean ")[0].rstrip(".")  # typer guesses commands alone
    choice = _NO_CHOICE.search(message)
    if choice is not None:
        return expected_one_of(choice[1], re.findall("'(.*?)'", choice[3]), choice[2])
    for pattern, words in _OF_NUMBERS:
        message = pattern.sub(words, message)
    guess = ""
    if hasattr(error, "possibilities"):
        message = error.message
        known = [word for option in error.ctx.command.get_params(error.ctx) for word in option.opts if word[:2] == "--"]
        guess = did_you_mean(error.option_name, known)
    elif (unknown := _NO_COMMAND.match(message)) is not None:
        guess = did_you_mean(unknown[1], error.ctx.command.commands)
    return f"{message}{guess or f'; `{command} --help` lists what there is'}"


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"abscert-plugin {abscert_plugin.__version__}")
        raise typer.Exit
    return asked


def _print_name(asked: bool) -> bool:
    if asked:
        typer.echo("abscert-plugin")
        raise typer.Exit
    return asked


def _options(
    name: Annotated[
        bool,
        typer.Option("--name", help="Print the name of this solver and exit.", is_eager=True, callback=_print_name),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that stand in place of a command."""


def _fail(message: str, status: int) -> NoReturn:
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(message.split()))
    if len(line) > _LONGEST:  # what is wrong stands at its start, what to do at its end
        line = f"{line[: _LONGEST // 2]} [...] {line[-_LONGEST // 2 :]}"
    LOG.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
    sys.exit(status)
