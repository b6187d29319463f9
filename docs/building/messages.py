"""What the code says to whoever uses it: the messages of its errors, as they stand in the source."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

GAP: Final = "…"
"""Stands in a message for what varies."""
_LEAST: Final = 12  # letters that a message has to have beside its gaps


def texts(path: Path) -> Iterator[str]:
    """Yield every text of a source file, with a gap for each value in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (text := _text(node)) is not None:
            yield " ".join(text.split())


def raised(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the class and the message of every error that a source file raises, but for those that only pass one on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
            continue
        name, text = ast.unparse(node.exc.func), _text(node.exc.args[0])
        if name.endswith("Error") and text is not None and sum(map(str.isalpha, text)) >= _LEAST:
            yield name, " ".join(text.split())


def page(found: Mapping[str, Path]) -> str:
    """Return the page that lists every message, by the part of the project that gives it."""
    rooms: dict[str, set[str]] = {}
    for module, path in found.items():
        room = ".".join(module.split(".")[:2])
        rooms.setdefault(room, set()).update(text for name, text in raised(path) if not name.startswith("_"))
    lines = [
        "# Every message\n",
        f"As they stand in the code; `{GAP}` is what varies. [Errors](../../errors.md) says what to do.\n",
    ]
    for room, those in sorted(rooms.items()):
        if those:
            lines += [f"## {room}\n", *(f"- {_code(text)}" for text in sorted(those, key=_letters)), ""]
    return "\n".join(lines)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    return None


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower()


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    inner = f" {text} " if fence == "``" else text
    return f"{fence}{inner}{fence}"
