"""The chart of an advice: combinations and images that nothing can tell apart, against the number of cells."""

from collections.abc import Callable, Sequence
from typing import Final

from abscert_plugin.report.templates import environment
from abscert_plugin.training.advise import Advice, AdviceRow
from abscert_plugin.training.edges import EdgeChoice

_WIDTH: Final = 300
_HEIGHT: Final = 180
_LEFT: Final = 50
_TOP: Final = 40
_COLOURS: Final = {EdgeChoice.UNIFORM: "#0072b2", EdgeChoice.QUANTILE: "#d55e00", EdgeChoice.SPARSE: "#009e73"}
_PANELS: Final[Sequence[tuple[str, Callable[[AdviceRow], float]]]] = (
    ("straddling pixels, %", lambda row: 100 * row.straddling),
    ("combinations an image, mean log2", lambda row: row.log2_mean),
    ("images that share cells, %", lambda row: 100 * row.shared),
)


def advice_chart(advice: Advice) -> str:
    """Return the chart as an SVG that loads nothing: a panel a figure, a line a kind of edges, a ring at the advice."""
    panels = [_panel(advice, number, title, figure) for number, (title, figure) in enumerate(_PANELS)]
    return (
        environment()
        .get_template("advice.svg.jinja")
        .render(
            title=f"{advice.data}: cells for balls of radius {advice.radius:.4g} (pixel scale)",
            reason=advice.reason,
            panels=panels,
            colours={str(how): colour for how, colour in _COLOURS.items()},
            size=(len(panels) * (_WIDTH + _LEFT + 20), _HEIGHT + _TOP + 60),
            frame=(_WIDTH, _HEIGHT, _TOP),
        )
    )


def _panel(advice: Advice, number: int, title: str, figure: Callable[[AdviceRow], float]) -> dict[str, object]:
    most = max(row.cells for row in advice.rows)
    top = max(figure(row) for row in advice.rows) or 1.0
    left = _LEFT + number * (_WIDTH + _LEFT + 20)

    def place(row: AdviceRow) -> tuple[float, float]:
        across = (row.cells - 1) / max(1, most - 1)
        return round(left + _WIDTH * across, 1), round(_TOP + _HEIGHT * (1 - figure(row) / top), 1)

    lines = {
        str(how): [place(row) for row in advice.rows if row.edges is how or row.cells == 1]
        for how in dict.fromkeys(row.edges for row in advice.rows)
    }
    return {
        "title": title,
        "left": left,
        "top": f"{top:.4g}",
        "most": most,
        "lines": lines,
        "ring": None if advice.advised is None else place(advice.advised),
    }
