"""Bars of the page: the errors of all ways to train in one setting, claim and radius, side by side."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, final

from abscert_plugin.report.figures import percent
from compare.plans.naming import names, setting, variant
from compare.results.verified_run import VerifiedRun, grouped
from compare.tables.error_table import scales
from compare.tables.selection import one_a_seed

_TOPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@final
@dataclass(frozen=True, slots=True)
class BarPart:
    """A part of a bar: what it counts, and its length in per cent of the axis."""

    kind: str
    width: float


@final
@dataclass(frozen=True, slots=True)
class Bar:
    """The error of a way to train."""

    name: str
    value: str
    parts: tuple[BarPart, ...]


@final
@dataclass(frozen=True, slots=True)
class Chart:
    """All ways to train, at one claim and radius; charts of one setting and claim have one axis.

    Args:
        setting: data set, network and protocol.
        title: claim and radius.
        top: the error at the end of the axis.
        bars: the least error first.
    """

    setting: str
    title: str
    top: str
    bars: tuple[Bar, ...]


def charts(found: Sequence[VerifiedRun]) -> list[Chart]:
    """Return one chart for each setting, claim and radius; the claim `cell` after the balls.

    Raises:
        RecordError: if records of different versions would be averaged.
    """
    settings = grouped(found, lambda verified: setting(verified.run))
    made = []
    for title in sorted(settings):
        by_radius = grouped(settings[title], lambda verified: verified.pixel_radius)
        radii = sorted(radius for radius in by_radius if radius is not None)
        made += _charts(title, [(radius, by_radius[radius]) for radius in radii])
        made += _charts(title, [(None, by_radius[None])] if None in by_radius else [])
    return made


def _charts(title: str, groups: Sequence[tuple[Fraction | None, Sequence[VerifiedRun]]]) -> list[Chart]:
    highest = max((_error(own) for _, group in groups for own in _ways(group).values()), default=0.0)
    top = next(end for end in _TOPS if end >= highest)
    return [_chart(title, radius, group, top) for radius, group in groups]


def _chart(title: str, radius: Fraction | None, group: Sequence[VerifiedRun], top: float) -> Chart:
    ways, called = _ways(group), names(verified.run for verified in group)
    ordered = sorted(ways, key=lambda key: (_error(ways[key]), called[key]))
    bars = tuple(_bar(called[key], ways[key], top) for key in ordered)
    claim = "claim cell" if radius is None else f"claim ball, radius {scales(radius)}"
    return Chart(title, claim, f"{100 * top:.0f} %", bars)


def _ways(group: Sequence[VerifiedRun]) -> dict[str, tuple[VerifiedRun, ...]]:
    ways = grouped(group, lambda verified: variant(verified.run))
    return {key: one_a_seed(own) for key, own in ways.items()}


def _error(seeds: Sequence[VerifiedRun]) -> float:
    return statistics.mean(verified.summary.verified_error for verified in seeds)


def _bar(name: str, seeds: Sequence[VerifiedRun], top: float) -> Bar:
    error = _error(seeds)
    if seeds[0].radius is None:
        parts: tuple[BarPart, ...] = (BarPart("cell", 100 * error / top),)
    else:
        refuted = statistics.mean(verified.summary.falsified / verified.summary.images for verified in seeds)
        parts = (BarPart("refuted", 100 * refuted / top), BarPart("open", 100 * (error - refuted) / top))
    return Bar(name, f"{percent(error)} %", parts)
