"""Tables out of records: methods side by side, claims in columns of their own, the paper's figures beside ours."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, TypeAlias, final

from abscert_plugin.errors import RecordError
from compare.collect import Outcome, outcomes
from compare.published import Quantity, find
from compare.results import Place

Row: TypeAlias = tuple[str, ...]
NOT_RUN: Final = "not run"
_PROTOCOLS: Final = {
    "sound": "Protocol `sound`: one loop and one verifier for all; the epoch is chosen on a validation split.",
    "paper": "Protocol `paper`: the paper's epochs and radii; its figures are kept apart from those of `sound`.",
}
_SCALES: Final = (
    "Radii are on the pixel scale, with the training scale (the paper's epsilon for its own method) beside."
)
_CLAIMS: Final = (
    "The claim `cell` says nothing of a ball: it equals the deployed file's test error. The error of the claim `ball` "
    "counts every image that is not certified; an attack's error is a lower bound of it."
)


@final
@dataclass(frozen=True)
class Table:
    """A table: text cells, the same number in every row.

    Args:
        title: what it shows.
        columns: their headings.
        rows: the cells.
        notes: what a reader must know, below it.
    """

    title: str
    columns: Row
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build_tables(results: Path) -> tuple[Table, ...]:
    """Return the tables of a results folder.

    Raises:
        RecordError: as `outcomes` and `tables_of`.
    """
    return tables_of(results, *outcomes(results))


def tables_of(results: Path, found: Sequence[Outcome], others: Sequence[Place]) -> tuple[Table, ...]:
    """Return the tables of what was read from a results folder.

    Raises:
        RecordError: if there is nothing, or rows of one cell are of different versions.
    """
    if not found and not others:
        raise RecordError(
            f"expected runs in {results}, found none; `abscert compare run PLAN --out {results}` makes them"
        )
    protocols = sorted({outcome.run.protocol for outcome in found})
    tables = [_errors([outcome for outcome in found if outcome.run.protocol == name], name) for name in protocols]
    return (*tables, *([_open_runs(others)] if others else []))


def _errors(found: Sequence[Outcome], protocol: str) -> Table:
    ordered = sorted(found, key=_cell_key)
    rows = [_row(list(group)) for _, group in groupby(ordered, key=_cell_key)]
    columns = (
        "data",
        "network",
        "method",
        "cells",
        "claim",
        "radius (training)",
        "images",
        "seeds",
        "error %",
        "95 % interval or spread",
        "unknown %",
        "clean error %",
        "attacked %",
        "s an epoch",
        "s verifying",
        "paper %",
        "difference",
    )
    devices = sorted({outcome.device for outcome in found})
    notes = (_PROTOCOLS[protocol], _SCALES, _CLAIMS, f"Machine: {'; '.join(devices)}.")
    return Table(f"Verified errors, protocol {protocol}", columns, tuple(rows), notes)


def _cell_key(outcome: Outcome) -> tuple[str, ...]:
    """Return what a table's row is of: everything but the seed."""
    run, radius = outcome.run, outcome.radius
    length = "" if radius is None else f"{float(radius.pixel):.9f}"
    trained = (
        f"{run.radius} {run.radius_scale} {run.epochs} {run.batch_size} {run.learning_rate} {run.limit} {run.timeout}"
    )
    claim = outcome.summary.claim
    return (run.data, run.network, str(run.activation), claim, length, run.method_title, f"{run.cells}", trained)


def _row(group: Sequence[Outcome]) -> Row:
    first = group[0]
    versions = {outcome.version for outcome in group}
    if len(versions) > 1:
        named = ", ".join(sorted(versions))
        raise RecordError(f"records of {first.run.title} are of versions {named}; those are not averaged")
    errors = [100 * outcome.summary.verified_error for outcome in group]
    mean = statistics.mean(errors)
    if len(group) > 1:
        spread = f"± {statistics.stdev(errors):.2f}"
    else:
        low, high = first.summary.interval
        spread = f"{100 * low:.2f} to {100 * high:.2f}"
    radius = first.radius
    printed = _published(first)

    def average(values: Sequence[float], digits: int = 2) -> str:
        return f"{statistics.mean(values):.{digits}f}"

    return (
        first.run.data,
        first.run.network,
        first.run.method_title,
        "" if first.run.cells is None else str(first.run.cells),
        first.summary.claim,
        "" if radius is None else f"{float(radius.pixel):.4g} ({2 * float(radius.pixel):.4g})",
        f"{first.summary.images:,}",
        str(len(group)),
        f"{mean:.2f}",
        spread,
        average([100 * outcome.summary.unknown / outcome.summary.images for outcome in group]),
        average([100 * outcome.summary.clean_error for outcome in group]),
        average([100 * outcome.attacked_error for outcome in group]) if first.summary.claim == "ball" else "",
        average([outcome.epoch_seconds for outcome in group], 1),
        average([outcome.certifying_seconds for outcome in group], 1),
        "" if printed is None else f"{printed:.2f}",
        "" if printed is None else f"{mean - printed:+.2f}",
    )


def _published(outcome: Outcome) -> float | None:
    """Return what the paper prints for a method, data set, network and radius; its own method's is of cells."""
    run = outcome.run
    is_own = run.method == "abstrain"
    if is_own != (outcome.summary.claim == "cell"):
        return None
    figures = find(
        data=run.data,
        network=run.network,
        activation=run.activation or ("param-ramp" if run.method == "lbp" else "relu"),
        method=run.method,
        radius=outcome.radius or run.trained_for,
        quantity=Quantity.VERIFIED_ERROR,
    )
    return next((float(figure.value) for figure in figures if figure.value is not None), None)


def _open_runs(others: Sequence[Place]) -> Table:
    rows = tuple((place.run.key, place.run.title, str(place.state), place.reason) for place in others)
    return Table("Runs without figures", ("key", "run", "state", "reason"), rows, ())
