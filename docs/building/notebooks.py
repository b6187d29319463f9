"""Notebooks: run by this interpreter without Jupyter, written with what they showed, and read as pages."""

import ast
import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

from myst_parser.parsers.sphinx_ import MystParser

_FORMS: Final = (("text/html", "_repr_html_"), ("image/png", "_repr_png_"), ("text/plain", "__repr__"))
_FORMAT: Final = {"nbformat": 4, "nbformat_minor": 5}


def run(path: Path) -> dict[str, Any]:
    """Run a notebook's cells of code in order in one namespace; return it with the outputs that they gave.

    Raises:
        Exception: whatever a cell raises, with the cell's number in a note.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        try:
            outputs = list(_outputs("".join(cell["source"]), names, f"{path.name}, cell {count}", count))
        except Exception as error:
            error.add_note(f"in {path.name}, cell {count}")
            raise
        cell.update(execution_count=count, outputs=outputs)
    return {**notebook, **_FORMAT}


def _outputs(source: str, names: dict[str, Any], place: str, count: int) -> Iterator[dict[str, Any]]:
    tree = ast.parse(source, place)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, place, "exec"), names)  # noqa: S102 - a notebook is run as it is written
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), place, "eval"), names)  # noqa: S307
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
    if value is not None:
        yield {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": _shown(value)}


def _shown(value: object) -> dict[str, Any]:
    data = {}
    for kind, method in _FORMS:
        found = getattr(value, method, None)
        shown = found() if found is not None else None
        if shown is not None:
            data[kind] = (
                base64.b64encode(shown).decode() if isinstance(shown, bytes) else shown.splitlines(keepends=True)
            )
    return data


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as one page: its words, its code, and below each cell what it showed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_block(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _block(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text'])}\n```"
    data = output["data"]
    if "image/png" in data:
        image = f'<img alt="what the cell shows" src="data:image/png;base64,{data["image/png"]}">'
        return f"```{{raw}} html\n<p>{image}</p>\n```"
    if "text/html" in data:
        return f"````{{raw}} html\n{''.join(data['text/html'])}\n````"
    return f"```text\n{''.join(data['text/plain'])}\n```"


class NotebookParser(MystParser):
    """Lets Sphinx read a notebook as the page that it stands for."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        """Parse a notebook's text."""
        super().parse(as_markdown(json.loads(inputstring)), document)


def main() -> None:
    """Run the notebooks that are named, and write each with what it showed."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(json.dumps(run(path), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
