"""A line over whole numbers on a plane of fixed size: where its points and ticks lie; a template turns it into SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

WIDTH: Final = 560
HEIGHT: Final = 260
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 34
_TICKS: Final = 5
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@final
@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, and its text; `beside` is the same on another scale, where there is one."""

    at: float
    text: str
    beside: str = ""


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """A field on a plane of fixed size, within margins.

    Args:
        width, height: of the plane.
        left, right, top, bottom: the margins.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def x(self, share: float) -> float:
        """Return the place at a share of the field's width, 0 to 1, from its left side."""
        return round(self.left + share * (self.width - self.left - self.right), 2)

    def y(self, share: float) -> float:
        """Return the place at a share of the field's height, 0 to 1, from its foot."""
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 2)


FRAME: Final = Frame(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)
"""Of pages of one training, and of lists of instances."""


@final
@dataclass(frozen=True, slots=True)
class LinePlot:
    """A drawn line.

    Args:
        title: what it shows.
        path: the line, as an SVG path.
        xs, ys: the ticks of both axes.
        mark: where the point that is marked lies; None for none.
        said: what the mark says.
    """

    title: str
    path: str
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    mark: tuple[float, float] | None
    said: str


def line_plot(
    title: str,
    points: Sequence[tuple[int, float]],
    last: int,
    marked: int | None,
    is_share: bool,
    unit: str = "epoch",
) -> LinePlot:
    """Return the drawing of points (number, value), from 0 upwards; a value below 0 lowers the axis.

    Args:
        title: what it shows.
        points: in order of their number, which is 1 or more; at least one.
        last: the number at the right end of the axis.
        marked: the number of the point that is marked; None for none.
        is_share: whether values are shares, 0 to 1, written in per cent.
        unit: what is numbered.
    """
    values = [value for _, value in points]
    ticks = round_places(min(0.0, *values), max(values))
    low, high = ticks[0], ticks[-1]
    end = max(last, 2)

    def x(number: int) -> float:
        return FRAME.x((number - 1) / (end - 1))

    def y(value: float) -> float:
        return FRAME.y((value - low) / (high - low))

    where = dict(points)
    mark = None if marked is None or marked not in where else (x(marked), y(where[marked]))
    text = _text(where[marked], is_share) if mark is not None and marked is not None else ""
    places = sorted({1, *(round(at) for at in round_places(0.0, float(end)) if 1 <= at <= end)})
    return LinePlot(
        title=title,
        path="M" + "L".join(f"{x(number):g} {y(value):g}" for number, value in points),
        xs=tuple(Tick(x(at), f"{at:,}") for at in places if at == 1 or x(at) - x(1) > 2 * _TICKS),
        ys=tuple(Tick(y(at), _text(at, is_share)) for at in ticks),
        mark=mark,
        said=f"{unit} {marked}: {text}" if text else "",
    )


def round_places(low: float, high: float) -> list[float]:
    """Return round numbers, about five of them, of which the first is at most `low` and the last at least `high`.

    >>> round_places(0.0, 0.9)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low if high > low else 1.0
    unit = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(unit * part for part in _STEPS if unit * part >= span / _TICKS * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * place:.12g}") for place in range(first, max(last, first + 1) + 1)]


def _text(value: float, is_share: bool) -> str:
    return f"{100 * value:.4g} %" if is_share else f"{value:.4g}"
