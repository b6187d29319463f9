"""How help is laid out: options in groups with their defaults, an example, whole summaries, as wide as the terminal."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, final

import typer
from typer.core import TyperCommand, TyperGroup

from abscert_plugin.cli.console import OUT
from abscert_plugin.cli.names import IN_HELP

CLAIM: Final = "Claim"
DATA: Final = "Data"
NETWORK: Final = "Network"
METHOD: Final = "Method"
TRAINING: Final = "Training"
MODEL_INPUT: Final = "Model input (files of others)"
CONTENT: Final = "Content"
OUTPUT: Final = "Output"
RUNNING: Final = "Running"
QUERIES: Final = "VNN-LIB queries"
ADVANCED: Final = "Advanced"
_OTHER: Final = "Other"
_ARGUMENTS: Final = "Arguments"
GROUPS: Final = (
    _ARGUMENTS,
    CLAIM,
    DATA,
    NETWORK,
    METHOD,
    TRAINING,
    MODEL_INPUT,
    CONTENT,
    OUTPUT,
    RUNNING,
    QUERIES,
    ADVANCED,
    _OTHER,
)
"""The groups of options, in the order in which help has them; another package's own come after them."""

TRAIN: Final = "Train"
VERIFY: Final = "Verify"
DEPLOY: Final = "Deploy"
COMPARE: Final = "Compare"
_COMMANDS: Final = "Commands"

SETTINGS: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": 140}
"""What every command's context is made with, by way of the first one's."""
_BESIDE: Final = 34
"""Columns of the names where the terminal is wide enough to have what they mean beside them."""
_WIDE: Final = 76
_STUCK: Final = "\0"
_FORMER_DEFAULT: Final = re.compile(r"  \[default: [^]]*\](?=  \[default: )")
"""What a text of help says of a default, where the command has another one."""
_METAVARS: Final = {
    "str": "TEXT",
    "path": "PATH",
    "int": "N",
    "integer": "N",
    "float": "X",
    "list[str]": "TEXT",
    "list[path]": "PATH",
}
Row: TypeAlias = tuple[str, str]


@final
class Command(TyperCommand):
    """A command whose help has its options in groups and an example (its epilog: commands, one a line)."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _write_head(self, ctx, formatter)
        _write_options(self, ctx, formatter)
        _write_examples(formatter, "Example", [("", line) for line in (self.epilog or "").splitlines()])


@final
class Group(TyperGroup):
    """A command of commands, whose help has a whole summary of each (its epilog: TITLE: COMMAND, one a line)."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the words after the command's name; where there are none, print help."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _write_head(self, ctx, formatter)
        pairs = [line.partition(": ")[::2] for line in (self.epilog or "").splitlines()]
        _write_examples(formatter, "What people do", pairs)
        groups: dict[str, list[Row]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                groups.setdefault(command.rich_help_panel or _COMMANDS, []).append((name, _summary(command)))
        for title, rows in groups.items():
            _write_rows(formatter, title, rows, max(len(name) for rows in groups.values() for name, _ in rows) + 4)
        _write_options(self, ctx, formatter)


@final
class Commands(typer.Typer):
    """The commands of a program or group, whose help is laid out as this module says."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{"cls": Group, "pretty_exceptions_enable": False, "rich_markup_mode": None, **settings},
        )

    def command(self, *names: Any, **settings: Any) -> Any:
        """Register a command, as `typer.Typer.command`."""
        return super().command(*names, **{"cls": Command, **settings})


def _summary(command: Any) -> str:
    """Return the first paragraph of a command's help."""
    paragraph = (command.help or "").strip().split("\n\n")[0]
    return named(" ".join(paragraph.split()))


def named(text: str) -> str:
    """Return a text of help with the names of the tables in their places."""
    for word, names in IN_HELP.items():
        if word in text:
            text = text.replace(word, ", ".join(names()))
    return text


def _write_head(command: Any, ctx: Any, formatter: Any) -> None:
    places = [_usage(argument) for argument in command.get_params(ctx) if argument.param_type_name == "argument"]
    if isinstance(command, TyperGroup):
        places.append("COMMAND")
    formatter.write(f"{_bold('Usage')}: {' '.join([ctx.command_path, *places, '[OPTIONS]'])}\n")
    for paragraph in (command.help or "").strip().split("\n\n"):
        formatter.write("\n")
        _write_wrapped(formatter, named(" ".join(paragraph.split())), "  ", "  ")


def _usage(argument: Any) -> str:
    shown = _shown(argument, "", is_argument=True)
    return shown if argument.required else f"[{shown}]"


def option_rows(command: Any, ctx: Any) -> dict[str, list[Row]]:
    """Return what help says of each argument and option, by their groups, in order."""
    groups: dict[str, list[Row]] = {title: [] for title in GROUPS}
    for option in command.get_params(ctx):
        record = option.get_help_record(ctx)
        if record is None:
            continue
        is_argument = option.param_type_name == "argument"
        title = getattr(option, "rich_help_panel", None) or (_ARGUMENTS if is_argument else _OTHER)
        text = named(_FORMER_DEFAULT.sub("", record[1]))
        groups.setdefault(title, []).append((_shown(option, record[0], is_argument), text))
    return {title: rows for title, rows in groups.items() if rows}


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    for title, rows in option_rows(command, ctx).items():
        _write_rows(formatter, title, rows, _BESIDE)


def _shown(option: Any, record: str, is_argument: bool) -> str:
    """Return an option with a word for its value, or an argument's name."""
    name = option.name.upper() if is_argument else ", ".join(sorted((*option.opts, *option.secondary_opts), key=len))
    if is_argument:
        return name + ("..." if option.nargs != 1 else "")
    if getattr(option, "is_flag", False):
        return name
    kind = record.rpartition(" ")[2].strip("<>[]")
    return f"{name} {option.metavar or _METAVARS.get(kind.lower(), kind)}"


def _write_rows(formatter: Any, title: str, rows: Iterable[Row], beside: int) -> None:
    """Write names with what they mean beside them, or below them in a narrow terminal."""
    formatter.write(f"\n{_bold(title)}:\n")
    for name, text in rows:
        head = f"  {name}"
        if formatter.width >= _WIDE or beside < _BESIDE:
            if len(head) > beside - 2:
                formatter.write(f"{head}\n")
                head = ""
            _write_wrapped(formatter, text, head.ljust(beside), " " * beside)
        else:
            formatter.write(f"{head}\n")
            _write_wrapped(formatter, text, "      ", "      ")


def _write_examples(formatter: Any, title: str, pairs: Sequence[Row]) -> None:
    """Write commands, each broken as a shell takes it."""
    if not pairs:
        return
    formatter.write(f"\n{_bold(title)}:\n")
    for what, command in pairs:
        if what:
            formatter.write(f"  {what}:\n")
        indent = "      " if what else "  "
        together = re.sub(r" (?!-)", _STUCK, command)  # an option stays with its value
        width = max(formatter.width - len(indent) - 6, 20)
        lines = textwrap.wrap(together, width, break_long_words=False, break_on_hyphens=False)
        formatter.write(indent + f" \\\n{indent}    ".join(lines).replace(_STUCK, " ") + "\n")


def _write_wrapped(formatter: Any, text: str, first: str, others: str) -> None:
    lines = textwrap.wrap(
        text,
        formatter.width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    formatter.write("\n".join(lines or [first.rstrip()]) + "\n")


def _bold(title: str) -> str:
    return typer.style(title, bold=True) if OUT.is_terminal and not OUT.no_color else title
