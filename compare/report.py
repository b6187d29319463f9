"""One HTML page of a comparison: charts, tables, methods; it loads nothing."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, final

import jinja2

import abscert_plugin
from baselines.table import methods
from compare.collect import Outcome, outcomes
from compare.tables import tables_of

_TOPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: what it counts, and its length in per cent of the axis."""

    kind: str
    width: float


@final
@dataclass(frozen=True, slots=True)
class Bar:
    """A method's errors in one setting."""

    name: str
    label: str
    value: str
    parts: tuple[Part, ...]


@final
@dataclass(frozen=True, slots=True)
class Chart:
    """Methods in one setting: data, network, claim, radius."""

    title: str
    top: str
    bars: tuple[Bar, ...]


def render_report(results: Path) -> str:
    """Return the page of a results folder.

    Raises:
        RecordError: as `outcomes` and `tables_of`.
    """
    found, others = outcomes(results)
    tables = tables_of(results, found, others)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("compare", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    used = {outcome.run.method for outcome in found} | {place.run.method for place in others}
    runs = len({outcome.run.key for outcome in found})
    return environment.get_template("report.html").render(
        counts=f"{runs} runs with figures, {len(others)} without.",
        charts=charts(found),
        tables=tables,
        methods=[entry for name, entry in methods().items() if name in used],
        version=abscert_plugin.__version__,
    )


def charts(found: Sequence[Outcome]) -> list[Chart]:
    """Return one chart for each setting, of all methods that were run in it."""
    ordered = sorted(found, key=_setting)
    return [_chart(list(group)) for _, group in groupby(ordered, key=_setting)]


def _setting(outcome: Outcome) -> tuple[str, ...]:
    length = "" if outcome.radius is None else f"{float(outcome.radius.pixel):.9f}"
    return outcome.run.protocol, outcome.run.data, outcome.run.network, outcome.summary.claim, length


def _chart(group: Sequence[Outcome]) -> Chart:
    first = group[0]
    by_name = groupby(sorted(group, key=_name), key=_name)
    rows = [(name, list(some)) for name, some in by_name]
    errors = {name: statistics.mean(one.summary.verified_error for one in some) for name, some in rows}
    top = next(end for end in _TOPS if end >= max(errors.values()))
    bars = tuple(_bar(name, some, top) for name, some in sorted(rows, key=lambda row: errors[row[0]]))
    length = "" if first.radius is None else f", radius {float(first.radius.pixel):.4g} pixel"
    claim = f"claim {first.summary.claim}{length}"
    title = f"{first.run.data}, {first.run.network}, {claim}, protocol {first.run.protocol}"
    return Chart(title, f"{top:.0%}", bars)


def _name(outcome: Outcome) -> str:
    run = outcome.run
    cells = "" if run.cells is None else f", {run.cells} cells"
    return f"{run.method}{cells} {run.given_options}".strip()


def _bar(name: str, group: Sequence[Outcome], top: float) -> Bar:
    error = statistics.mean(one.summary.verified_error for one in group)
    if group[0].summary.claim == "cell":
        parts: tuple[Part, ...] = (Part("cell", 100 * error / top),)
    else:
        refuted = statistics.mean(one.summary.falsified / one.summary.images for one in group)
        parts = (Part("refuted", 100 * refuted / top), Part("open", 100 * (error - refuted) / top))
    return Bar(name, f"{name}: {error:.2%}", f"{error:.2%}", parts)
