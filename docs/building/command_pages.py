"""The reference of the commands, out of what `--help` is made of: a page for each, with every option."""

from collections.abc import Iterator
from typing import Any

import typer

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
    command.get_help(context)  # which fills in the names of networks and the like
    yield f"{_HEADINGS[:depth]} {path}\n"
    yield f"{_paragraphs(command.help)}\n"
    below = dict(getattr(command, "commands", {}))
    if not below:
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```text\n{path} {usage}\n```\n"
        yield from _options(command, context)
    if command.epilog:
        yield f"```sh\n{_example(command.epilog)}\n```\n"
    for name, one in sorted(below.items()):
        yield from _sections(one, f"{path} {name}", depth + 1)


def _options(command: Any, context: Any) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for option in command.params:
        record = option.get_help_record(context)
        if record is None or "--help" in option.opts:
            continue
        is_argument = option.param_type_name == "argument"
        title = getattr(option, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
        names, text = (" ".join(part.split()) for part in record)
        groups.setdefault(title, []).append(f"`{names}`\n: {_escaped(text) or 'Flag.'}\n")
    for title, lines in groups.items():
        yield f"**{title}**\n"
        yield from lines


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(_escaped(" ".join(part.split())) for part in (text or "").split("\n\n"))


def _example(epilog: str) -> str:
    lines = (line.strip() for line in epilog.replace("\b", "").splitlines())
    return "\n".join(line.removeprefix("Example:").strip() for line in lines if line)


def _escaped(text: str) -> str:
    """Return a text of `--help` as markdown: code between backticks stays, all else stands as it is written."""
    parts = text.split("`")
    plain = [_without_marks(part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "`".join(plain)


def _without_marks(text: str) -> str:
    for letter in "\\*_<>[]$":
        text = text.replace(letter, f"\\{letter}")
    return text.replace("--", "\\-\\-")
