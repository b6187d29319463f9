"""How the pages of results are set: what a column says in every row goes into a line above; text is wrapped."""

import re
import textwrap
from collections.abc import Sequence

from compare.tables.error_table import LINE, Table

LONGEST = 160
TEXT = 140
_SHORT = (  # headings; the notes say that radii are on the pixel scale, with the training scale in brackets
    (", pixel (training)", ""),
    ("Impr. over ", "Impr. "),
    ("SpeedUp over ", "SpeedUp "),
    ("balls certified for", "certified for"),
    ("ball interval", "interval"),
    ("s verifying balls", "s verifying"),
)


def narrow(table: Table) -> str:
    """Return a table and its notes as Markdown: what is the same in every row stands above it."""
    places = range(len(table.columns))
    kept = [place for place in places if table.columns[place] == LINE or len({row[place] for row in table.rows}) > 1]
    same = [place for place in places if place not in kept and table.rows and table.rows[0][place]]
    told = ", ".join(f"{_heading(table.columns[place])} {table.rows[0][place]}" for place in same)
    above = f"{table.title}{f' ({told})' if told else ''}:"
    numeric = table.numeric
    lines = [
        _row([_heading(table.columns[place]) for place in kept]),
        "|" + "|".join("--:" if numeric[place] else "---" for place in kept) + "|",
        *(_row([_cell(row[place]) for place in kept]) for row in table.rows),
    ]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([above, "", *lines, "", *notes])


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
    for long, short in _SHORT:
        text = text.replace(long, short)
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
