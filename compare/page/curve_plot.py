"""The drawing of curves: where each mark lies on a plane of fixed size. The templates turn it into SVG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.report.figures import percent
from abscert_plugin.report.line_plot import Frame, Tick, round_places
from compare.page.curves import Curve, CurveChart, Level, Point

WIDTH: Final = 640
HEIGHT: Final = 420
LEFT, RIGHT, TOP, BOTTOM = 76, 12, 36, 86
"""The margins around the field; text of phones, larger in these units, has room in them."""
_FRAME: Final = Frame(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)

COLOURS: Final = (
    ("#1768ac", "#6cb0ff"),
    ("#b5471b", "#f0916a"),
    ("#2c7a4b", "#5dc892"),
    ("#8a3fa0", "#cf94e6"),
    ("#8a6200", "#e0b656"),
    ("#0b7a85", "#4fc6d0"),
    ("#b32d5b", "#f57fa8"),
    ("#555b66", "#a9b2bd"),
)
"""Of each method, on a light page and on a dark one."""

# around the point (0, 0); the shape tells methods apart where colours do not
_MARKS: Final = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
    "M-4 -4H4V4H-4Z",
    "M0 -5.2L5 3.8H-5Z",
    "M0 -5.8L5.8 0L0 5.8L-5.8 0Z",
    "M0 5.2L5 -3.8H-5Z",
    "M-1.6 -5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5V-1.6H-1.6Z",
    "M-2.8 -5H2.8L5 0L2.8 5H-2.8L-5 0Z",
    "M-5 -5L5 5V-5L-5 5Z",
)
_DASHES: Final = ("", "7 3", "2 3")
_TOPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@final
@dataclass(frozen=True, slots=True)
class Style:
    """How a method is drawn.

    Args:
        colour: its place in `COLOURS`.
        mark: the path of its points.
        dash: of its line.
    """

    colour: int
    mark: str
    dash: str


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """A point, and what is said of it."""

    x: float
    y: float
    text: str


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A curve.

    Args:
        name: what it is called.
        style: how it is drawn.
        path: the line of what is not certified.
        band: the area from what is falsified to what is not certified; empty where they are equal.
        ranges: the intervals of the points, as a path.
        marks: the points.
    """

    name: str
    style: Style
    path: str
    band: str
    ranges: str
    marks: tuple[Mark, ...]


@final
@dataclass(frozen=True, slots=True)
class Flat:
    """A claim `cell`: a line from side to side, since it has no radius."""

    name: str
    style: Style
    y: float
    value: str


@final
@dataclass(frozen=True, slots=True)
class Plot:
    """A chart, ready to be written."""

    title: str
    caption: str
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    lines: tuple[Line, ...]
    flats: tuple[Flat, ...]


def plots(charts: Sequence[CurveChart]) -> tuple[Plot, ...]:
    """Return the drawings of charts; one name has one style in all of them."""
    curves = {curve.name for chart in charts for curve in chart.curves}
    known = sorted(curves | {level.name for chart in charts for level in chart.levels})
    styles = {name: _style(place) for place, name in enumerate(known)}
    return tuple(_plot(chart, styles) for chart in charts)


def _style(place: int) -> Style:
    count = len(COLOURS)
    return Style(place % count, _MARKS[place % count], _DASHES[place // count % len(_DASHES)])


@final
@dataclass(frozen=True, slots=True)
class _Field:
    """What the field shows: radii from 0 to `end`, errors from 0 to `top`."""

    end: float
    top: float

    def x(self, radius: float) -> float:
        return _FRAME.x(radius / self.end)

    def y(self, error: float) -> float:
        return _FRAME.y(error / self.top)


def _plot(chart: CurveChart, styles: Mapping[str, Style]) -> Plot:
    points = [point for curve in chart.curves for point in curve.points]
    highest = max([*(point.interval[1] for point in points), *(level.error for level in chart.levels)])
    furthest = max(point.radius for point in points) or 1.0  # a ball of radius 0 alone
    field = _Field(1.04 * furthest, next(top for top in _TOPS if top >= highest))
    return Plot(
        chart.title,
        chart.caption,
        tuple(Tick(field.x(at), f"{at:.4g}", f"{2 * at:.4g}") for at in _places(furthest)),
        tuple(Tick(field.y(at), f"{100 * at:.3g} %") for at in _places(field.top)),
        tuple(_line(curve, field, styles[curve.name]) for curve in chart.curves),
        tuple(_flat(level, field, styles[level.name]) for level in chart.levels),
    )


def _places(end: float) -> list[float]:
    """Return round numbers from 0 to `end`."""
    return [at for at in round_places(0.0, end) if at <= end * (1 + 1e-9)]


def _line(curve: Curve, field: _Field, style: Style) -> Line:
    high = [(field.x(point.radius), field.y(point.high)) for point in curve.points]
    low = [(field.x(point.radius), field.y(point.low)) for point in curve.points]
    ranges = "".join(_range(point, field) for point in curve.points)
    marks = tuple(Mark(*at, _said(curve.name, point)) for at, point in zip(high, curve.points, strict=True))
    band = "" if low == high else _path([*high, *reversed(low)]) + "Z"
    return Line(curve.name, style, _path(high), band, ranges, marks)


def _path(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def _range(point: Point, field: _Field) -> str:
    """Return an upright line with a foot at each end."""
    x, (low, high) = field.x(point.radius), (field.y(end) for end in point.interval)
    return f"M{x - 3:g} {low:g}h6M{x:g} {low:g}V{high:g}M{x - 3:g} {high:g}h6"


def _said(name: str, point: Point) -> str:
    if point.radius == 0:
        error = f"clean error {percent(point.high)} %"
    else:
        radius = f"radius {point.radius:.4g} pixel ({2 * point.radius:.4g} training)"
        error = f"{radius}: {percent(point.high)} % not certified, {percent(point.low)} % falsified"
    low, high = point.interval
    kind = "95 % interval" if point.seeds == 1 else f"{point.seeds} seeds,"
    return f"{name}, {error}; {kind} {percent(low)} % to {percent(high)} %; {point.images:,} images"


def _flat(level: Level, field: _Field, style: Style) -> Flat:
    return Flat(level.name, style, field.y(level.error), f"{percent(level.error)} %")


PALETTE: Final[Mapping[str, str]] = MappingProxyType(
    {"page": "#ffffff", "ink": "#191c20", "quiet": "#59616b", "line": "#dfe3e8"}
)
"""Of a picture that stands alone; on the page its own variables take their place."""
