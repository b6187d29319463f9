"""The reference of the commands, out of what `--help` is made of: a page for each, with every option."""

from collections.abc import Iterator
from typing import Any

import typer

from abscert_plugin.cli import manual
from abscert_plugin.cli.app import build_app

_HEADINGS = "######"


def commands() -> dict[str, Any]:
    """Return the commands that stand below `abscert`, by name."""
    return dict(sorted(_tree().commands.items()))


def pages() -> dict[str, str]:
    """Return the pages by the commands' names: text, usage, arguments and options; subcommands are sections."""
    return {name: "\n".join(_sections(command, f"abscert {name}", 1)) for name, command in commands().items()}


def _tree() -> Any:
    return typer.main.get_command(build_app())


def _sections(command: Any, path: str, depth: int) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    yield f"{_HEADINGS[:depth]} {path}\n"
    for paragraph in (command.help or "").split("\n\n"):
        yield f"{_escaped(manual.named(' '.join(paragraph.split())))}\n"
    below = dict(getattr(command, "commands", {}))
    if command.epilog and not below:
        yield f"```sh\n{command.epilog}\n```\n"
    if not below:
        yield from _options(command, context)
    for name, one in sorted(below.items()):
        yield from _sections(one, f"{path} {name}", depth + 1)


def _options(command: Any, context: Any) -> Iterator[str]:
    for title, rows in manual.option_rows(command, context).items():
        lines = [f"`{name}`\n: {_escaped(' '.join(text.split()))}\n" for name, text in rows if "--help" not in name]
        yield from (f"**{title}**\n", *lines) if lines else ()


def _escaped(text: str) -> str:
    """Return a text of `--help` as markdown: code between backticks stays, all else stands as it is written."""
    parts = text.split("`")
    plain = [_without_marks(part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "`".join(plain)


def _without_marks(text: str) -> str:
    for letter in "\\*_<>[]$":
        text = text.replace(letter, f"\\{letter}")
    return text.replace("--", "\\-\\-")
