"""The three plots of docs/RESULTS.md, as SVG that loads nothing: the same bytes from the same records."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from abscert_plugin.report.line_plot import round_places

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 205, 44, 52
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b", "#7f7f7f")
INK, QUIET, LINE = "#22262b", "#59616b", "#dfe3e8"
_LOG_TICKS = (1, 2, 5)


@dataclass(frozen=True)
class Series:
    """Points of one thing.

    Args:
        name: what the legend calls it.
        points: (x, y), by x.
        colour: place in COLOURS.
        joined: whether a line joins them.
        filled: whether their marks are filled; dashed and hollow is what others published.
        labels: a word beside each point; none where the legend says it.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    joined: bool = True
    filled: bool = True
    labels: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Axis:
    """An axis: its name, and whether equal steps are equal ratios."""

    name: str
    is_log: bool = False


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Return the drawing."""
    points = [point for one in series for point in one.points]
    across, x_ticks = _scale([at for at, _ in points], x, LEFT, WIDTH - RIGHT)
    up, y_ticks = _scale([at for _, at in points], y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 22, title, size=14, colour=INK),
    ]
    for at in y_ticks:
        parts += [_rule(LEFT, up(at), WIDTH - RIGHT, up(at)), _text(LEFT - 8, up(at) + 4, f"{at:g}", anchor="end")]
    for at in x_ticks:
        foot = HEIGHT - BOTTOM
        parts += [_rule(across(at), foot, across(at), foot + 5), _text(across(at), foot + 19, f"{at:g}", "middle")]
    parts += [
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x.name, "middle"),
        f'<text x="16" y="{(TOP + HEIGHT - BOTTOM) / 2:g}" fill="{QUIET}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2:g})">{escape(y.name)}</text>',
    ]
    taken = [(across(x), up(y), 8.0) for one in series for x, y in one.points]
    for one in series:
        parts += _drawn(one, across, up, taken)
    for place, one in enumerate(series):
        at = TOP + 8 + 19 * place
        parts += [_mark(WIDTH - RIGHT + 22, at, one), _text(WIDTH - RIGHT + 34, at + 4, one.name)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(
    one: Series, across: Callable[[float], float], up: Callable[[float], float], taken: list[tuple[float, float, float]]
) -> list[str]:
    """Return the line, marks and labels; `taken` is where others are: left end, height and width."""
    colour = COLOURS[one.colour]
    places = [(across(x), up(y)) for x, y in one.points]
    parts = []
    if one.joined and len(places) > 1:
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
        dash = "" if one.filled else ' stroke-dasharray="5 4"'
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
    parts += [_mark(x, y, one) for x, y in places]
    for (x, y), label in zip(places, one.labels, strict=False):
        width = 6.6 * len(label)
        right, left, over = x + 8, x - 8 - width, x - width / 2
        near = [(right, y), (left, y), (over, y - 13), (over, y + 13)]
        tried = [*near, *((at, y + step) for step in (-13, 13, -26, 26) for at in (right, left))]
        at, height = next((place for place in tried if _is_free(*place, width, taken)), tried[0])
        taken.append((at, height, width))
        parts.append(_text(at, height + 4, label))
    return parts


def _is_free(left: float, height: float, width: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    if left < LEFT or left + width > WIDTH - RIGHT + 30:
        return False
    return all(
        abs(height - other) >= 11 or left + width <= start or left >= start + wide for start, other, wide in taken
    )


def _mark(x: float, y: float, one: Series) -> str:
    colour = COLOURS[one.colour]
    fill = colour if one.filled else "#ffffff"
    return f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>'


def _rule(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" stroke="{LINE}"/>'


def _text(x: float, y: float, said: str, anchor: str = "start", size: int = 12, colour: str = QUIET) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(said)}</text>'


def _scale(
    values: Sequence[float], axis: Axis, begin: float, end: float
) -> tuple[Callable[[float], float], Sequence[float]]:
    """Return where a value lies, and the ticks."""
    if axis.is_log:
        powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        every = [step * 10.0**power for power in powers for step in _LOG_TICKS]
        low = max(at for at in every if at <= min(values) * (1 + 1e-9))
        high = min(at for at in every if at >= max(values) * (1 - 1e-9))
        ticks = [at for at in every if low <= at <= high]
    else:
        ticks = round_places(0.0, max(values))
        low, high = ticks[0], ticks[-1]

    def turn(value: float) -> float:
        return math.log10(value) if axis.is_log else value

    def where(value: float) -> float:
        share = (turn(value) - turn(low)) / (turn(high) - turn(low))
        return round(begin + share * (end - begin), 1)

    return where, ticks
