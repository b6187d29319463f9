"""Tables out of records: every run's verified errors, the claims in columns of their own, and the runs without any."""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, final

import msgspec

from compare.plans.naming import names, variant
from compare.plans.planned_run import Run
from compare.results.stored_run import StoredRun, need_runs
from compare.results.verified_run import VerifiedRun, grouped
from compare.tables.selection import mislabelled, not_verified, one_a_seed, rate

TableRow: TypeAlias = tuple[str, ...]
NOT_RUN: Final = "not run"
LINE: Final = "line"
"""Heading of the column that says what a line of a row is, where rows have several."""
PROTOCOL_NOTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sound": "Protocol `sound`: one loop and one verifier for all; what is chosen is chosen on a validation split.",
        "cpu": "Protocol `cpu`: the paper's networks, radii and cells for few epochs, as the heading says, so that two "
        "cores can train them; one loop and one verifier for all, with the batches, rates, epochs and seconds an image "
        "that the plan gives each method, and a validation split that chooses.",
        "paper": "Protocol `paper`: the paper's epochs and radii; its figures are kept apart from those of `sound`.",
    }
)
SCALES: Final = (
    "Radii are on the pixel scale, with the training scale (the paper's epsilon for its own method) in brackets."
)
CLAIMS: Final = (
    "The claim `cell` says nothing of a ball: it is the deployed file's test error, and the images whose label no "
    "proof shows for every order of the sums. The error of the claim `ball` counts every image that is not certified."
)
_COLUMNS: Final = (
    "data",
    "network",
    "method",
    "cells",
    "radius, pixel (training)",
    "images",
    "cell error %",
    "cell interval",
    "ball error %",
    "ball interval",
    "certified for",
    "unknown %",
    "attacked %",
    "clean error %",
    "s/epoch",
    "s verifying balls",
)
_READING: Final = (
    "A row is a way to train, verified at one radius. Blank: it does not apply, since a network of plain images has no "
    "cells. Interval: 95 % of one seed's images (Clopper and Pearson), or the standard deviation over seeds.",
    "Certified for: `any-order` is proven for every evaluation of the file in binary32, `wide-sums` is the same of a "
    "file with float16 whose sums are held in float32, `this-runtime` was run here, `unproven` are float32 bounds "
    "whose own rounding was guessed at (docs/METHOD.md).",
    "Of the ball error, unknown % were neither certified nor falsified, attacked % refuted by the image or an attack.",
    "Seconds are of runs that were not timed side by side; Table 3 is made of interleaved timings.",
)
_NUMBER: Final = re.compile(
    r"|-|not run(: [\d.,]+ (h|min|s) by estimate)?|undefined"
    r"|[+-]?\d[\d,]*(\.\d+)?(/\d+)?( \([\d./]+\))?|± [\d.]+, \d+ seeds|[\d.]+ to [\d.]+"
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
    columns: TableRow
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds nothing but numbers, and is set to the right."""
        return tuple(
            any(any(map(str.isdigit, row[place])) for row in self.rows)
            and all(_NUMBER.fullmatch(row[place]) for row in self.rows)
            for place in range(len(self.columns))
        )

    @property
    def continued(self) -> tuple[bool, ...]:
        """Whether each row is a further line of the row above: what stands left of the column `line` is the same."""
        place = self.columns.index(LINE) if LINE in self.columns else 0
        former = (None, *self.rows)
        return tuple(
            place > 0 and above is not None and row[:place] == above[:place]
            for above, row in zip(former, self.rows, strict=False)
        )


def tables_of(results: Path, found: Sequence[VerifiedRun], others: Sequence[StoredRun]) -> tuple[Table, ...]:
    """Return the tables of what was read from a results folder: one for each protocol, and the runs without figures.

    Raises:
        RecordError: if there is nothing, or rows of one cell are of different versions.
    """
    need_runs(results, (*found, *others))
    protocols = sorted({verified.run.protocol for verified in found})
    tables = [_errors([verified for verified in found if verified.run.protocol == name], name) for name in protocols]
    return (*tables, *([_open_runs(others)] if others else []))


def scales(radius: Fraction, printed: str = "") -> str:
    """Return a radius on the pixel scale, with the training scale in brackets; of 255ths where it is printed so.

    >>> scales(Fraction(1, 10)), scales(Fraction(1, 255), "2/255")
    ('0.1 (0.2)', '1/255 (2/255)')
    """
    if "/" in printed and (255 * radius).denominator == 1:
        return f"{255 * radius}/255 ({510 * radius}/255)"
    return f"{float(radius):.4g} ({float(2 * radius):.4g})"


def arithmetic(*groups: Sequence[VerifiedRun]) -> str:
    """Return what the certified images of runs hold for, claim by claim."""
    found = []
    for group in groups:
        names = sorted({name.split()[0] for run in group for name in run.summary.holds_for.split(", ") if name})
        found += [f"{group[0].summary.claim} {' and '.join(names)}"] if names else []
    return "; ".join(found)


def machines(found: Sequence[VerifiedRun]) -> str:
    """Return a note of the machines that trained and verified."""
    trained = sorted({verified.training_device for verified in found} - {""})
    verified = sorted({verified.device for verified in found})
    parts = [f"{verb} on {'; '.join(devices)}" for verb, devices in (("trained", trained), ("verified", verified))]
    return f"Machine: {', '.join(part for part, devices in zip(parts, (trained, verified), strict=True) if devices)}."


def verifiers(found: Sequence[VerifiedRun]) -> TableRow:
    """Return a note of runs whose balls were decided by an older verifier than those of others, if there are."""
    proven = [verified.proven for verified in found if verified.proven is not None]
    if len(set(proven)) < 2:
        return ()
    former = f"{proven.count(False)} of {len(proven)} verifications of balls are by a verifier of before the proofs"
    return (f"Flagged: {former}, whose search was weaker: they certify less, and their unknown % are no one else's.",)


def epochs(runs: Sequence[VerifiedRun]) -> str:
    """Return a note of the images that the epochs of runs were chosen on, as their own files say."""
    on_test = [run.chosen_on_test for run in {run.run.key: run for run in runs}.values()]
    if all(on_test):
        return "Flagged: the epoch of every run was chosen on the test set, as in the paper's code."
    unknown = f" Of {on_test.count(None)} no file says it." if None in on_test else ""
    if not any(on_test):
        every = "every run" if not unknown else f"{on_test.count(False)} of {len(on_test)} runs"
        return f"The epoch of {every} was chosen on a validation split, not on the test set.{unknown}"
    return f"Flagged: the epoch of {on_test.count(True)} of {len(on_test)} runs was chosen on the test set.{unknown}"


def _errors(found: Sequence[VerifiedRun], protocol: str) -> Table:
    called = names(_without_cells(verified.run) for verified in found)
    ways = grouped(found, lambda verified: variant(verified.run))
    rows = sorted((pair for way in ways.values() for pair in _rows(way, called)), key=lambda pair: pair[0])
    notes = (PROTOCOL_NOTES[protocol], SCALES, CLAIMS, *_READING, epochs(found), *verifiers(found), machines(found))
    return Table(f"Verified errors, protocol {protocol}", _COLUMNS, tuple(row for _, row in rows), notes)


def _without_cells(run: Run) -> Run:
    return msgspec.structs.replace(run, cells=None)


def _rows(way: Sequence[VerifiedRun], called: Mapping[str, str]) -> list[tuple[tuple[object, ...], TableRow]]:
    """Return the rows of one way to train, one a radius, each with what it is sorted by."""
    run = way[0].run
    by_radius = grouped(way, lambda verified: verified.pixel_radius)
    cells = one_a_seed(by_radius.pop(None, []))
    method = called[variant(_without_cells(run))]
    network = run.network if run.activation is None else f"{run.network} {run.activation}"
    found: list[tuple[tuple[object, ...], TableRow]] = []
    for radius, balls in by_radius.items() or [(None, [])]:
        count, length = ("" if run.cells is None else str(run.cells)), ("" if radius is None else scales(radius))
        row = (run.data, network, method, count, length, *_figures(run, cells, one_a_seed(balls)))
        found.append(((run.data, network, radius or Fraction(0), method, run.cells or 0), row))
    return found


def _figures(run: Run, cells: Sequence[VerifiedRun], balls: Sequence[VerifiedRun]) -> TableRow:
    whole = cells or balls
    cell, ball = (rate(group, not_verified) if group else None for group in (cells, balls))
    unknown = [100 * verified.summary.unknown / verified.summary.images for verified in balls]
    images, ball_images = (f"{group[0].summary.images:,}" if group else "" for group in (whole, balls))
    not_measured = "" if run.cells is None else NOT_RUN
    return (
        images if ball_images in ("", images) else f"{images}, balls {ball_images}",
        not_measured if cell is None else f"{cell.percent:.2f}",
        "" if cell is None else cell.spread,
        NOT_RUN if ball is None else f"{ball.percent:.2f}",
        "" if ball is None else ball.spread,
        arithmetic(cells, balls),
        _mean(unknown),
        _mean([100 * verified.attacked_error for verified in balls]),
        f"{rate(whole, mislabelled).percent:.2f}",
        _mean([verified.epoch_seconds for verified in whole]),
        _mean([verified.certifying_seconds for verified in balls]),
    )


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}" if values else ""


def _open_runs(others: Sequence[StoredRun]) -> Table:
    rows = tuple((stored.run.key, stored.run.title, str(stored.state), stored.reason) for stored in others)
    return Table("Runs without figures", ("key", "run", "state", "reason"), rows, ())
