"""What the first page of results says: the best figures of the records, and the points of its three plots."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from results_plots import Axis, Series, chart

from compare.results.verified_run import VerifiedRun
from compare.tables.paper_tables import METHODS, Pool
from compare.tables.published import Quantity, published
from compare.tables.selection import OWN

WHOLE = 10_000  # images of MNIST's test set
FIRST = ("reachable", "llm", "ibp", "lbp")  # of the plot against the radius
SIDE_BY_SIDE = "cnn-2layer"  # the network that every method is trained on
LONGER = "longer"  # in place of the options of a training at length
ERROR = "error %"
_MEANS = ("error", "clean", "epoch_seconds")


@dataclass(frozen=True)
class Ball:
    """The error of the claim `ball` of one training.

    Args:
        network, method, options: how it was trained.
        cells: number of cells; None for plain images.
        radius: of the balls, pixel scale.
        error: share of images that are not certified, 0 to 1.
        clean: share that is mislabelled as it is, of the most images that any claim was decided on.
        holds_for: what the certified images hold for.
        epochs: of the training.
        epoch_seconds: median of an epoch.
        images: that were tested.
        timeout: seconds an image.
    """

    network: str
    method: str
    options: str
    cells: int | None
    radius: float
    error: float
    clean: float
    holds_for: str
    epochs: int
    epoch_seconds: float
    images: int
    timeout: float


def of_runs(found: Sequence[VerifiedRun], protocol: str = "sound") -> Iterator[Ball]:
    """Yield the balls of the runs of a protocol on MNIST."""
    clean = {one.run.key: one.summary for one in sorted(found, key=lambda one: one.summary.images)}
    for one in found:
        run, summary = one.run, one.summary
        if summary.claim == "ball" and one.radius is not None and (run.protocol, run.data) == (protocol, "mnist"):
            yield Ball(
                network=run.network,
                method=run.method,
                options=run.given_options,
                cells=run.cells,
                radius=float(one.radius.pixel),
                error=summary.verified_error,
                clean=clean[run.key].clean_error,
                holds_for=summary.holds_for,
                epochs=run.epochs or 0,
                epoch_seconds=one.epoch_seconds,
                images=summary.images,
                timeout=run.timeout,
            )


def best(balls: Sequence[Ball], radius: float) -> Ball:
    """Return the training of the least error on the whole test set at a radius."""
    return min((one for one in balls if one.radius == radius and one.images == WHOLE), key=lambda one: one.error)


def over_seeds(balls: Sequence[Ball]) -> Iterator[Ball]:
    """Yield one ball for all seeds of a training, with the means of their errors and of their times."""
    alike: dict[Ball, list[Ball]] = {}
    for one in balls:
        alike.setdefault(replace(one, error=0.0, clean=0.0, epoch_seconds=0.0, holds_for=""), []).append(one)
    for some in alike.values():
        means = {name: statistics.mean(getattr(one, name) for one in some) for name in _MEANS}
        yield replace(some[0], **means)


def side_by_side(balls: Sequence[Ball], network: str) -> list[tuple[str, Mapping[float, Ball]]]:
    """Return each method's balls at 0.1 and 0.3 of one network, means of its seeds, by its error at 0.1."""
    rows: dict[str, dict[float, Ball]] = {}
    for one in over_seeds(balls):
        if one.network == network and one.radius in (0.1, 0.3):
            rows.setdefault(f"{one.method} {one.options}".strip(), {})[one.radius] = one
    whole = [(name, row) for name, row in rows.items() if len(row) == 2]
    return sorted(whole, key=lambda pair: pair[1][0.1].error)


def error_against_radius(found: Sequence[VerifiedRun], balls: Sequence[Ball]) -> str:
    """Return the plot: Algorithm 2 under both claims, and methods that train for balls, side by side and at length."""
    both = _of_cells([one for one in found if one.run.protocol == "cpu" and _is(one, OWN)])
    series = [
        Series("Algorithm 2, claim cell", [(radius, cell) for radius, cell, _ in both], 6),
        Series("the same files, claim ball", [(radius, ball) for radius, _, ball in both], 6, filled=False),
    ]
    beside = dict(side_by_side([one for one in balls if one.options != LONGER and one.images == WHOLE], SIDE_BY_SIDE))
    for colour, method in enumerate(FIRST):
        points = [(radius, 100 * ball.error) for radius, ball in sorted(beside.get(method, {}).items())]
        series.append(Series(f"{method}, claim ball", points, colour))
    longest = [one for one in balls if one.options == LONGER and one.images == WHOLE]
    radii = sorted({one.radius for one in longest})
    points = [(radius, 100 * best(longest, radius).error) for radius in radii]
    series.append(Series("reachable at length, claim ball", points, 0, filled=False))
    return chart(
        "MNIST: error against radius",
        Axis("radius, pixel scale"),
        Axis(ERROR, is_log=True),
        [one for one in series if one.points],
    )


def error_against_time(balls: Sequence[Ball], radius: float) -> str:
    """Return the plot: the ball error of each method against the seconds of its training."""
    series = []
    for colour, network in enumerate((SIDE_BY_SIDE, "dm-small")):
        here = [one for one in over_seeds(balls) if (one.network, one.radius, one.images) == (network, radius, WHOLE)]
        shown = sorted((one for one in here if one.error < 0.5), key=lambda one: one.epochs * one.epoch_seconds)
        points = [(one.epochs * one.epoch_seconds / 60, 100 * one.error) for one in shown]
        labels = [one.method + (" *" if one.options else "") for one in shown]
        series.append(Series(network, points, colour, joined=False, labels=labels))
    return chart(
        f"MNIST: ball error at {radius:g} against training time",
        Axis("minutes of training", is_log=True),
        Axis(f"ball {ERROR}"),
        [one for one in series if one.points],
    )


def table_one(pools: Sequence[Pool], network: str = "dm-small", data: str = "mnist") -> str:
    """Return the plot: the paper's Table 1 on one network, and ours where there is one."""
    series = []
    for colour, (method, name) in enumerate(METHODS.items()):
        figures = [
            one
            for one in published()
            if (one.table, one.data, one.network, one.method) == (1, data, network, method)
            and one.quantity is Quantity.VERIFIED_ERROR
        ]
        claim = "cell" if method == OWN else "ball"
        printed, ours = [], []
        for figure in figures:
            assert figure.radius is not None
            at = float(Decimal(figure.printed_radius or "0"))
            printed += [] if figure.value is None else [(at, float(figure.value))]
            runs = next((some for pool in pools if (some := pool.runs(figure, method, claim, figure.radius))), ())
            if runs:
                ours.append((at, 100 * statistics.mean(run.summary.verified_error for run in runs)))
        series += [Series(f"{name} ({claim}), paper", printed, colour, filled=False)]
        series += [Series(f"{name} ({claim}), ours", ours, colour)] if ours else []
    return chart(
        "Table 1, MNIST, DM-small: the paper's and ours",
        Axis("\N{GREEK SMALL LETTER EPSILON} as printed: training scale for AC, pixel scale for the others"),
        Axis(ERROR, is_log=True),
        series,
    )


def _is(one: VerifiedRun, method: str) -> bool:
    return (one.run.data, one.run.network, one.run.method) == ("mnist", "dm-small", method)


def _of_cells(found: Sequence[VerifiedRun]) -> list[tuple[float, float, float]]:
    """Return radii with the errors of one file under both claims, in %.

    The file is, as in Table 1, the one of the least validation error of those whose cells are as wide as the ball.
    """
    cells = {one.run.key: one for one in found if one.summary.claim == "cell"}
    points = []
    for radius in sorted({one.radius.pixel for one in found if one.radius is not None}):
        here = [one for one in found if one.radius is not None and one.radius.pixel == radius and one.run.key in cells]
        wide = [one for one in here if 2 * (one.run.cells or 0) * radius <= 1 and one.validation_error is not None]
        if wide:
            one = min(wide, key=lambda one: (one.validation_error, -(one.run.cells or 0)))
            errors = (cells[one.run.key].summary.verified_error, one.summary.verified_error)
            points.append((float(radius), 100 * errors[0], 100 * errors[1]))
    return points
