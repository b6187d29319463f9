"""The figures that the paper prints in its Tables 1 to 5, read from published.toml and validated."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, final

import msgspec

from abscert_plugin.choices import expected_one_of
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.errors import ConfigError
from abscert_plugin.wording import plain_words

FILE: Final = "published.toml"
_HERE: Final = __name__.rpartition(".")[0]  # a wheel has this package below ours
MISSING: Final = "-"
"""The cell of a figure that the paper does not have, as printed."""


class Quantity(StrEnum):
    """What a figure is of."""

    VERIFIED_ERROR = "verified_error"
    ACCURACY = "accuracy"
    TRAINING_SECONDS = "training_seconds"
    VERIFICATION_SECONDS = "verification_seconds"
    IMPROVEMENT = "improvement"
    TRAINING_SPEED_UP = "training_speed_up"
    VERIFICATION_SPEED_UP = "verification_speed_up"
    TOTAL_SPEED_UP = "total_speed_up"


GAINS: Final = frozenset(
    {
        Quantity.IMPROVEMENT,
        Quantity.TRAINING_SPEED_UP,
        Quantity.VERIFICATION_SPEED_UP,
        Quantity.TOTAL_SPEED_UP,
    }
)
"""The quantities that compare two methods."""


class Unit(StrEnum):
    """The unit of a figure; a gain in speed is so many times."""

    PERCENT = "%"
    SECONDS = "s"
    SECONDS_PER_EPOCH = "s/epoch"
    TIMES = "times"


@final
@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One cell of a table of the paper.

    A verified error of `abstrain` is one of the claim `cell`, whatever the radius; one of another method is of balls.

    Args:
        table: the table's number, 1 to 5.
        row, column: the headings as printed, outer heading first.
        data: the data set, by this project's name.
        network: the network, by this project's name.
        activation: its activation function; Tables 1, 2, 3 and 5 do not print it (the file says how it was read).
        method: the training method that the figure is of, by this project's name.
        quantity: what was measured.
        unit: its unit.
        value: the number with its printed decimals; None where the paper prints a dash.
        printed_radius: the radius as printed; None for an average over the radii.
        radius: the same on the scale of `method`.
        against: the competitor, for an improvement or a speed-up.
        against_radius: the printed radius on the scale of `against`; other images than `radius` where scales differ.
    """

    table: int
    row: str
    column: str
    data: str
    network: str
    activation: str
    method: str
    quantity: Quantity
    unit: Unit
    value: Decimal | None
    printed_radius: str | None
    radius: Radius | None
    against: str | None
    against_radius: Radius | None


class _PrintedColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    printed: str
    method: str
    activation: str
    quantity: Quantity
    unit: Unit
    network: str | None = None
    against: str | None = None


class _PrintedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cells: tuple[Any, ...]  # numbers, or MISSING: a union that msgspec does not know
    radius: str | None = None


class _PrintedBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    data: str
    rows: tuple[_PrintedRow, ...]
    network: str | None = None
    row: str | None = None
    column: str | None = None


class _PrintedPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    table: Annotated[int, msgspec.Meta(ge=1, le=5)]
    columns: tuple[_PrintedColumn, ...]
    block: tuple[_PrintedBlock, ...]


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scales: Mapping[str, RadiusScale]
    part: tuple[_PrintedPart, ...]


@cache
def published() -> tuple[PublishedFigure, ...]:
    """Return every cell of the paper's Tables 1 to 5, in reading order of the file.

    Raises:
        ConfigError: if the file is missing or broken.

    >>> len(published())
    471
    """
    try:
        text = resources.files(_HERE).joinpath(FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read compare/tables/{FILE}; install the package again") from error
    return parse_figures(text)


def find(
    *,
    data: str | None = None,
    network: str | None = None,
    activation: str | None = None,
    method: str | None = None,
    radius: Radius | None = None,
    quantity: Quantity | None = None,
) -> tuple[PublishedFigure, ...]:
    """Return the figures that agree with everything that is given; what two tables print is there twice.

    Names are this project's.

    Args:
        data: the data set.
        network: the network.
        activation: its activation function.
        method: the training method that the figure is of.
        radius: equal on the pixel scale, exactly, to the figure's own; averages over the radii have none.
        quantity: what was measured.

    >>> [str(figure.value) for figure in find(
    ...     data="mnist", network="dm-small", activation="relu", method="abstrain",
    ...     radius=Radius.parse("0.15"), quantity=Quantity.VERIFIED_ERROR)]
    ['1.01']
    """
    wanted = {"data": data, "network": network, "activation": activation, "method": method, "quantity": quantity}
    asked = {name: value for name, value in wanted.items() if value is not None}
    return tuple(
        figure
        for figure in published()
        if all(getattr(figure, name) == value for name, value in asked.items())
        and (radius is None or (figure.radius is not None and figure.radius.pixel == radius.pixel))
    )


def parse_figures(text: str) -> tuple[PublishedFigure, ...]:
    """Return the figures that a file laid out as published.toml holds.

    Raises:
        ConfigError: if it is not TOML, an entry is unknown, missing or of the wrong kind, or a row and its columns
            differ in number.
    """
    try:
        file = msgspec.convert(tomllib.loads(text, parse_float=Decimal), _File)
        return tuple(figure for part in file.part for figure in _figures(part, file.scales))
    except (ValueError, ArithmeticError, RecursionError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"compare/tables/{FILE} is broken: {plain_words(error)}") from error


def _figures(part: _PrintedPart, scales: Mapping[str, RadiusScale]) -> Iterator[PublishedFigure]:
    for block in part.block:
        for row in block.rows:
            place = f"table {part.table}, row {_headings(block.row, row.radius)}"
            if len(row.cells) != len(part.columns):
                raise ConfigError(f"{place}: expected {len(part.columns)} cells, got {len(row.cells)}")
            for column, cell in zip(part.columns, row.cells, strict=True):
                try:
                    yield _figure(part.table, block, row, column, cell, scales)
                except ConfigError as error:
                    raise ConfigError(f"{place}, column {column.printed}: {error}") from error


def _figure(
    table: int,
    block: _PrintedBlock,
    row: _PrintedRow,
    column: _PrintedColumn,
    cell: object,
    scales: Mapping[str, RadiusScale],
) -> PublishedFigure:
    if (column.against is not None) != (column.quantity in GAINS):
        raise ConfigError(f"expected `against` with a gain and only there, got {column.against} with {column.quantity}")
    network = block.network or column.network
    if network is None or (block.network and column.network):
        raise ConfigError("expected a network in the block or in the column, in one of them")
    return PublishedFigure(
        table=table,
        row=_headings(block.row, row.radius),
        column=_headings(block.column, column.printed),
        data=block.data,
        network=network,
        activation=column.activation,
        method=column.method,
        quantity=column.quantity,
        unit=column.unit,
        value=_value(cell),
        printed_radius=row.radius,
        radius=_radius(row.radius, column.method, scales),
        against=column.against,
        against_radius=_radius(row.radius, column.against, scales),
    )


def _headings(*printed: str | None) -> str:
    return ", ".join(heading for heading in printed if heading)


def _value(cell: object) -> Decimal | None:
    if cell == MISSING:
        return None
    if not isinstance(cell, Decimal) or not cell.is_finite() or cell < 0:
        raise ConfigError(f'expected a number with its decimals, such as 5.10, or "{MISSING}", got {cell!r}')
    return cell


def _radius(printed: str | None, method: str | None, scales: Mapping[str, RadiusScale]) -> Radius | None:
    if method is None:
        return None
    if method not in scales:
        raise ConfigError(expected_one_of("a method", scales, method))
    return None if printed is None else Radius.parse(printed, scales[method])
