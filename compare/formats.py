"""Tables as text: Markdown, CSV, LaTeX and JSON."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Final

from compare.tables import Table

_ESCAPES: Final = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$"})
_MATHS: Final = str.maketrans({"±": r"$\pm$", "`": "'"})


def as_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown, with their notes below."""
    parts = []
    for table in tables:
        lines = [f"## {table.title}", ""]
        lines += [_piped(table.columns), "|" + "---|" * len(table.columns)]
        lines += [_piped(row) for row in table.rows]
        lines += ["", *[f"- {note}" for note in table.notes], ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def as_csv(tables: Sequence[Table]) -> str:
    """Return the tables as CSV, one after the other; the first column names the table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.columns])
        writer.writerows([table.title, *row] for row in table.rows)
    return out.getvalue()


def as_latex(tables: Sequence[Table]) -> str:
    """Return the tables as LaTeX tabulars."""
    parts = []
    for table in tables:
        rows = [_joined(table.columns), r"\hline", *[_joined(row) for row in table.rows]]
        body = "\n".join(rows)
        notes = "\n".join(f"% {note}" for note in table.notes)
        layout = "l" * len(table.columns)
        parts.append(f"% {table.title}\n{notes}\n\\begin{{tabular}}{{{layout}}}\n{body}\n\\end{{tabular}}\n")
    return "\n".join(parts)


def _joined(cells: Sequence[str]) -> str:
    return " & ".join(cell.translate(_ESCAPES).translate(_MATHS) for cell in cells) + r" \\"


def as_json(tables: Sequence[Table]) -> str:
    """Return the tables as one JSON object."""
    return json.dumps({"tables": [asdict(table) for table in tables]}) + "\n"


FORMATS: Final[Mapping[str, Callable[[Sequence[Table]], str]]] = MappingProxyType(
    {"markdown": as_markdown, "csv": as_csv, "latex": as_latex, "json": as_json}
)
