"""A cactus plot: how many instances each solver decides within how many seconds, on a logarithmic axis of time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from abscert_plugin.report.line_plot import FRAME, Tick, round_places

_LEAST: Final = 0.01  # seconds: what takes less is drawn there


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """A solver's curve: its name, how many instances it decides, and the steps as an SVG path."""

    name: str
    count: int
    path: str


@final
@dataclass(frozen=True, slots=True)
class Cactus:
    """The plot: its curves, and the ticks of both axes."""

    curves: tuple[Curve, ...]
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]


def cactus(times: Mapping[str, Sequence[float]], total: int) -> Cactus:
    """Return the plot of solvers.

    Args:
        times: seconds of what each solver has decided, in any order.
        total: how many instances there are, which is the right end of the axis.
    """
    seconds = [max(value, _LEAST) for found in times.values() for value in found] or [1.0]
    low = math.floor(math.log10(min(seconds)))
    high = max(math.ceil(math.log10(max(seconds))), low + 1)

    def x(count: int) -> float:
        return FRAME.x(count / max(total, 1))

    def y(value: float) -> float:
        share = (math.log10(max(value, _LEAST)) - low) / (high - low)
        return FRAME.y(share)

    def path(values: Sequence[float]) -> str:
        steps = [f"{x(place):g} {y(value):g}H{x(place + 1):g}" for place, value in enumerate(sorted(values))]
        return "M" + "L".join(steps) if steps else ""

    places = sorted({round(at) for at in round_places(0.0, float(max(total, 1))) if at <= total})
    return Cactus(
        curves=tuple(Curve(name, len(values), path(values)) for name, values in times.items()),
        xs=tuple(Tick(x(at), f"{at:,}") for at in places),
        ys=tuple(Tick(y(10.0**power), f"{10.0**power:g} s") for power in range(low, high + 1)),
    )
