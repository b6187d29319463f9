"""Tables for programs: numbers as numbers, and a column of its own for each number that a cell holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from compare.tables.error_table import LINE, Table

Value: TypeAlias = str | int | float | None
_NUMBER: Final = r"[+-]?\d[\d,]*(?:\.\d+)?"
_RATIO: Final = rf"{_NUMBER}(?:/\d+)?"
# what a cell looks like, and what each number in it is called behind the column's name
_FORMS: Final[tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]] = (
    (re.compile(rf"({_RATIO})"), ("",)),
    (re.compile(rf"({_RATIO}) \(({_RATIO})\)"), ("pixel", "training")),
    (re.compile(rf"({_NUMBER}) to ({_NUMBER})"), ("low", "high")),
    (re.compile(rf"± ({_NUMBER}), (\d+) seeds"), ("standard deviation", "seeds")),
    (re.compile(rf"({_NUMBER}), balls ({_NUMBER})"), ("", "balls")),
)
_NOTE: Final = "note"
_SCALED: Final = ", pixel (training)"  # ends the names of columns of radii, whose two scales get names of their own
_EMPTY: Final = ("", "-")
_WORDS: Final = frozenset(
    {"certified for", "claim", "data", "key", LINE, "method", "network", "reason", "run", "state", "timing", "what"}
)
"""Columns that are words, whatever they look like."""


@final
@dataclass(frozen=True, slots=True)
class Values:
    """A table for programs.

    Args:
        columns: their names, each once where those of the table are.
        rows: a value for each column: None where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


def values_of(table: Table) -> Values:
    """Return a table's cells as values.

    A column of figures becomes one column for each number in its cells, such as `radius, pixel` and `radius,
    training`, or `cell interval, low` and `cell interval, high`; words among them, such as `not run`, go to a column
    `..., note`.
    """
    columns: list[str] = []
    cells: list[list[Value]] = [[] for _ in table.rows]
    for place, name in enumerate(table.columns):
        texts = [row[place] for row in table.rows]
        read = [{"": text} for text in texts] if name in _WORDS else [_read(text) for text in texts]
        if not any(isinstance(value, int | float) for one in read for value in one.values()):
            read = [{"": text} for text in texts]
        known = {part for one in read for part in one} or {""}
        parts = [part for part in _PARTS if part in known]
        columns += [_called(name, part) for part in parts]
        for row, one in zip(cells, read, strict=True):
            row += [one.get(part) for part in parts]
    return Values(tuple(columns), tuple(map(tuple, cells)))


def _called(name: str, part: str) -> str:
    if not part:
        return name
    return f"{name.removesuffix(_SCALED) if part in ('pixel', 'training') else name}, {part}"


def _read(text: str) -> Mapping[str, Value]:
    if text in _EMPTY:
        return {}
    for form, parts in _FORMS:
        found = form.fullmatch(text)
        if found is not None:
            return dict(zip(parts, map(_number, found.groups()), strict=True))
    return {_NOTE: text}


def _number(text: str) -> int | float:
    over, _, under = text.replace(",", "").partition("/")
    if under and int(under):
        return float(over) / int(under)
    return float(over) if "." in over else int(over)


_PARTS: Final = tuple(dict.fromkeys([*(part for _, parts in _FORMS for part in parts), _NOTE]))
