"""How the pages of results are set: what a column says in every row goes into a line above; text is wrapped."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from abscert_plugin.claim import Claim
from compare.tables.error_table import LINE, NOT_RUN, Table

LONGEST = 160
TEXT = 140
GAINS: Final = ("Impr. ", "SpeedUp ")
_TIME: Final = ", Time"  # of a network whose error stands before it
_ESTIMATED: Final = re.compile(rf"{NOT_RUN}: (\S+ \w+) by estimate")
_UP_TO_ALL: Final = re.compile(r" to 100\.00$")  # of an interval of per cents
_SHORT = (  # headings; the notes say that radii are on the pixel scale, with the training scale in brackets
    (", pixel (training)", ""),
    ("others' radius", "theirs"),
    ("balls certified for", "certified for"),
    ("ball interval", "interval"),
    ("s verifying balls", "s verifying"),
)


def narrow(table: Table) -> str:
    """Return a table and its notes as Markdown: what is the same in every row stands above it.

    What a gain is made of, or a time is of, says already that it was not run. A table that is too wide comes in parts,
    by data set and network.
    """
    lines = _lines(table, table.title)
    if max(map(len, lines[2:])) > LONGEST:
        lines = [f"{table.title}.", *(line for part in _parts(table) for line in ("", *_lines(part, "")))]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)])


def _lines(table: Table, title: str) -> list[str]:
    """Return the lines of a table, with what is the same in all of its rows in the first one."""
    rows = [tuple(map(_said, table.columns, row)) for row in table.rows]
    places = range(len(table.columns))
    kept = [place for place in places if table.columns[place] == LINE or len({row[place] for row in rows}) > 1]
    same = [place for place in places if place not in kept and rows and rows[0][place]]
    told = ", ".join(f"{_heading(table.columns[place])} {rows[0][place]}" for place in same)
    above = f"{title}{f' ({told})' if told else ''}" if title else told[:1].upper() + told[1:]
    suffix = next((f" ({claim})" for claim in Claim if f"claim {claim}" in table.title), "\0")  # its title says it
    numeric = table.numeric
    return [
        f"{above}:",
        "",
        _row([_heading(table.columns[place].removesuffix(suffix)) for place in kept]),
        "|" + "|".join("--:" if numeric[place] else "---" for place in kept) + "|",
        *(_row([_cell(row[place]) for place in kept]) for row in rows),
    ]


def _parts(table: Table) -> Iterator[Table]:
    """Yield the rows of each data set and network by themselves."""
    places = [place for place, name in enumerate(table.columns) if name in ("data", "network")]
    for _, rows in groupby(table.rows, key=lambda row: [row[place] for place in places]):
        yield replace(table, rows=tuple(rows))


def _said(column: str, text: str) -> str:
    if (column.startswith(GAINS) and text == NOT_RUN) or (column.endswith(_TIME) and text.startswith(NOT_RUN)):
        return ""
    return _UP_TO_ALL.sub(" to 100", _ESTIMATED.sub(rf"{NOT_RUN}, \1", text))


def wrapped(page: str) -> str:
    """Return a page whose paragraphs have no line that is longer than a page; tables and code stay."""
    lines: list[str] = []
    paragraph: list[str] = []
    is_code = False
    for line in [*page.splitlines(), ""]:
        is_code ^= line.startswith("```")
        is_item = line.startswith("- ")
        stays = is_code or not line or line.startswith(("|", "    ", "#", "!", "```"))
        if paragraph and (stays or is_item):
            lines += _set(paragraph)
            paragraph = []
        if stays:
            lines.append(line)
        else:
            paragraph.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _set(paragraph: Sequence[str]) -> Sequence[str]:
    if all(len(line) <= TEXT for line in paragraph):
        return paragraph
    indent = "  " if paragraph[0].startswith("- ") else ""
    text = " ".join(line.strip() for line in paragraph)
    return textwrap.wrap(text, TEXT, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(text: str) -> str:
    if text.startswith(GAINS):  # it stands behind the method's own column
        return text.split(" ")[0]
    if text.endswith(_TIME):
        return _TIME.removeprefix(", ")
    for long, short in _SHORT:
        text = text.replace(long, short)
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
