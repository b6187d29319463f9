"""Tables as text: Markdown, CSV, LaTeX, HTML and JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Final

import jinja2

from compare.tables.error_table import Table, TableRow
from compare.tables.values import values_of

_LATEX: Final = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "%": r"\%",
        "_": r"\_",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        "±": r"$\pm$",
    }
)
_CODE: Final = re.compile(r"`([^`]*)`")
_PACKAGE: Final = __name__.rpartition(".tables.")[0]  # `compare`, which a wheel has below ours
_NEEDED: Final = "% needs \\usepackage{booktabs,longtable}; tables with many columns need a wide page\n"


def as_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown, numbers to the right, with their notes below."""
    parts = []
    for table in tables:
        lines = [f"## {_piped(table.title)}", "", markdown_rows(table), "", *[f"- {note}" for note in table.notes], ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def markdown_rows(table: Table) -> str:
    """Return a table as Markdown, without its title and notes."""
    rows = [[_piped(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(table.columns))]
    columns = list(zip(widths, table.numeric, strict=True))
    rule = ["-" * (width - 1) + ":" if is_number else "-" * width for width, is_number in columns]
    return "\n".join(_padded(row, columns) for row in (rows[0], rule, *rows[1:]))


def _piped(cell: str) -> str:
    return _one_line(cell).replace("|", r"\|")


def _padded(row: Sequence[str], columns: Sequence[tuple[int, bool]]) -> str:
    cells = [
        cell.rjust(width) if is_number else cell.ljust(width)
        for cell, (width, is_number) in zip(row, columns, strict=True)
    ]
    return f"| {' | '.join(cells)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def as_csv(tables: Sequence[Table]) -> str:
    """Return the tables as CSV for programs, one after the other; the first column names the table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for table in tables:
        values = values_of(table)
        writer.writerow(["table", *values.columns])
        writer.writerows([table.title, *row] for row in values.rows)
    return out.getvalue()


def as_latex(tables: Sequence[Table]) -> str:
    """Return the tables as LaTeX, which may be longer than a page, numbers to the right, with their notes below."""
    parts = [_NEEDED]
    for table in tables:
        layout = "".join("r" if is_number else "l" for is_number in table.numeric)
        lines = [
            rf"\begin{{longtable}}{{{layout}}}",
            rf"\caption{{{_latex(table.title)}}}\\",
            r"\toprule",
            _joined(table.columns),
            r"\midrule",
            r"\endhead",
            *_spaced(table),
            r"\bottomrule",
            r"\end{longtable}",
        ]
        if table.notes:
            notes = [rf"\item {_latex(note)}" for note in table.notes]
            lines += [r"\begin{itemize}", *notes, r"\end{itemize}"]
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def _spaced(table: Table) -> Iterator[str]:
    """Yield the rows, with a space above each that is not a further line of the one before."""
    for number, (row, is_further) in enumerate(zip(table.rows, table.continued, strict=True)):
        if number and any(table.continued) and not is_further:
            yield r"\addlinespace"
        yield _joined(row)


def _joined(cells: TableRow) -> str:
    # braces, since a row that begins with a bracket would be read as an option of the line break before
    return " & ".join(f"{{{_latex(cell)}}}" if cell.startswith("[") else _latex(cell) for cell in cells) + r" \\"


def _latex(text: str) -> str:
    return _CODE.sub(r"\\texttt{\1}", _one_line(text).translate(_LATEX))


def as_html(tables: Sequence[Table]) -> str:
    """Return the tables as one HTML page that loads nothing."""
    return templates().get_template("tables/tables.html").render(tables=tables) + "\n"


def templates() -> jinja2.Environment:
    """Return the templates of pages and pictures; they escape what they are given."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(_PACKAGE, "."), jinja2.PackageLoader("abscert_plugin.report", ".")]  # for tables.js
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_json(tables: Sequence[Table]) -> str:
    """Return the tables as one JSON object for programs: numbers are numbers, and null is none."""
    found = [{"title": table.title, **asdict(values_of(table)), "notes": table.notes} for table in tables]
    return json.dumps({"tables": found}, allow_nan=False) + "\n"


FORMATS: Final[Mapping[str, Callable[[Sequence[Table]], str]]] = MappingProxyType(
    {"markdown": as_markdown, "csv": as_csv, "latex": as_latex, "html": as_html, "json": as_json}
)
