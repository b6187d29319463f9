"""Certified error against radius, from records: one curve for each way to train, the claims `ball` and `cell` apart."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import msgspec

from abscert_plugin.verification.summary import clopper_pearson
from compare.plans.naming import names, setting, variant
from compare.plans.planned_run import Run
from compare.results.verified_run import VerifiedRun, grouped
from compare.tables.error_table import scales
from compare.tables.selection import Count, mislabelled, not_verified, one_a_seed

_EACH: Final = "each network trained for the radius that it is verified at"


@final
@dataclass(frozen=True, slots=True)
class Point:
    """The error at one radius, averaged over seeds.

    Args:
        radius: of the ball, on the pixel scale.
        low: share of images that are falsified, 0 to 1: the error is no less.
        high: share of images that are not certified, 0 to 1: the error is no more.
        interval: of `high`: 95 % (Clopper and Pearson) for one seed, from least to greatest for several.
        images: how many there are of each seed.
        seeds: how many.
    """

    radius: float
    low: float
    high: float
    interval: tuple[float, float]
    images: int
    seeds: int


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """The claim `ball` of one way to train, by radius.

    Args:
        name: what it is called.
        points: by radius. One of radius 0, where a ball is the image itself, has the clean error.
    """

    name: str
    points: tuple[Point, ...]


@final
@dataclass(frozen=True, slots=True)
class Level:
    """The claim `cell` of one way to train; it has no radius.

    Args:
        name: what it is called.
        error: share of images whose cell is not certified, 0 to 1, averaged over seeds.
    """

    name: str
    error: float


@final
@dataclass(frozen=True, slots=True)
class CurveChart:
    """All ways to train in one setting.

    Args:
        title: data set, network and protocol.
        caption: what the networks were trained for.
        curves: of the claim `ball`, those of the greatest error last.
        levels: of the claim `cell`, the same way.
    """

    title: str
    caption: str
    curves: tuple[Curve, ...]
    levels: tuple[Level, ...]


def curve_charts(found: Iterable[VerifiedRun]) -> tuple[CurveChart, ...]:
    """Return one chart for each setting that has a verified ball.

    Raises:
        RecordError: if records of different versions would be averaged.
    """
    groups = grouped(found, lambda verified: setting(verified.run))
    charts = [_chart(title, groups[title]) for title in sorted(groups)]
    return tuple(chart for chart in charts if chart.curves)


def _chart(title: str, group: Sequence[VerifiedRun]) -> CurveChart:
    balls = [verified for verified in group if verified.radius is not None]
    pools, alone = _pooled(balls)
    called = names(verified.run for verified in group)
    families = names(_family(pool[0].run) for pool in pools.values())
    suffix = f", {_EACH}" if alone and pools else ""
    curves = [Curve(families[key] + suffix, _points(pool)) for key, pool in pools.items()]
    curves += [Curve(called[key], (_clean(own), *_points(own))) for key, own in alone.items()]
    cells = grouped((verified for verified in group if verified.radius is None), lambda verified: variant(verified.run))
    levels = [Level(called[key], _mean(some).high) for key, some in cells.items()]
    return CurveChart(
        title,
        _caption([own[0].run for own in alone.values()]),
        tuple(sorted(curves, key=lambda curve: (curve.points[-1].high, curve.name))),
        tuple(sorted(levels, key=lambda level: (level.error, level.name))),
    )


def _pooled(balls: Sequence[VerifiedRun]) -> tuple[Mapping[str, list[VerifiedRun]], Mapping[str, list[VerifiedRun]]]:
    """Return what networks trained for several radii came to, each verified at its own alone, and all others."""
    alone = grouped(balls, lambda verified: variant(verified.run))
    pools: dict[str, dict[str, list[VerifiedRun]]] = {}
    for key, own in alone.items():
        if {verified.radius for verified in own} == {own[0].run.trained_for}:
            pools.setdefault(variant(_family(own[0].run)), {})[key] = own
    joined = {family: members for family, members in pools.items() if len(members) > 1}
    for members in joined.values():
        for key in members:
            del alone[key]
    return {family: [one for own in members.values() for one in own] for family, members in joined.items()}, alone


def _family(run: Run) -> Run:
    return msgspec.structs.replace(run, radius="0")


def _caption(alone: Sequence[Run]) -> str:
    """Return what networks were trained for; empty where their names say it."""
    radii = {run.trained_for.pixel for run in alone}
    if not radii:
        return f"{_EACH[0].upper()}{_EACH[1:]}."
    if len(radii) > 1:
        return ""
    return f"Methods that train for a radius: for {scales(radii.pop())}."


def _points(own: Sequence[VerifiedRun]) -> tuple[Point, ...]:
    by_radius = grouped(own, lambda verified: verified.pixel_radius)
    return tuple(sorted(map(_mean, by_radius.values()), key=lambda point: point.radius))


def _mean(some: Sequence[VerifiedRun]) -> Point:
    return _point(float(some[0].pixel_radius or 0), one_a_seed(some), not_verified)


def _clean(own: Sequence[VerifiedRun]) -> Point:
    """Return the error of radius 0, of the images that were verified at the least radius."""
    least = min(verified.pixel_radius for verified in own if verified.pixel_radius is not None)
    some = [verified for verified in own if verified.pixel_radius == least]
    return _point(0.0, one_a_seed(some), mislabelled)


def _point(radius: float, seeds: Sequence[VerifiedRun], count: Count) -> Point:
    summaries = [verified.summary for verified in seeds]
    errors = [count(summary) / summary.images for summary in summaries]
    images = summaries[0].images
    error = statistics.mean(errors)
    falsified = statistics.mean(summary.falsified / summary.images for summary in summaries)
    return Point(
        radius=radius,
        low=falsified if radius else error,
        high=error,
        interval=(min(errors), max(errors)) if len(errors) > 1 else clopper_pearson(count(summaries[0]), images),
        images=images,
        seeds=len(errors),
    )
