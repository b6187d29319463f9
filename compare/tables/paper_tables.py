"""The paper's Tables 1, 2, 4 and 5 out of records, each in the paper's own shape."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.claim import Radius
from abscert_plugin.report.figures import rough_duration
from compare.plans.planned_run import Run
from compare.results.estimates import Estimate
from compare.results.verified_run import ACTIVATIONS, VerifiedRun, grouped
from compare.tables.error_table import CLAIMS, LINE, NOT_RUN, PROTOCOL_NOTES, SCALES, TableRow, scales
from compare.tables.paper_cells import Cell, PaperRow, PaperTable, gain_cell, pace_cell, rate_cell
from compare.tables.published import PublishedFigure, Quantity, published
from compare.tables.selection import OWN, Count, chosen, counts_for, labelled, not_verified, would_count

METHODS: Final[Mapping[str, str]] = MappingProxyType({OWN: "AC", "llm": "LLM", "lbp": "LBP", "adv-ibp": "AIBP"})
"""What the paper's tables call the methods."""

_BESIDE: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({"cpu": {"ibp": "IBP", "crown-ibp": "CROWN-IBP"}})
"""Methods that a protocol has beside the paper's, in Table 1."""
_IN_PLACE: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({"cpu": {"imagenet": "folder"}})
"""Data that a protocol has in place of the paper's."""
_BOUNDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(("ibp", "adv-ibp"), ("ibp",)),
        **dict.fromkeys(("crown-ibp", "llm", "lbp"), ("ibp", "crown-ibp")),
    }
)
_RELU: Final = "relu"
_COUNTS: Final[Mapping[Quantity, Count]] = MappingProxyType(
    {Quantity.VERIFIED_ERROR: not_verified, Quantity.ACCURACY: labelled}
)
_VALIDATED: Final = (
    "Of the cells N that were run (and of several ways to train) a figure is of those with the least validation error, "
    "of AC that of the claim `cell`, and the most images tested; the choice does not look at the test images."
)
_CHOICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "paper": "Chosen on the test set: of the cells N that were run (and of several ways to train) a figure is of "
        "those with the least error on these very test images, as in the paper, and with the most images tested.",
        "sound": _VALIDATED,
        "cpu": _VALIDATED,
    }
)
_SWEEP: Final = (
    "For the claim `cell` a run counts for every epsilon with N <= 1 / epsilon: its cells are at least as wide as the "
    "ball, d = 2 / N >= 2 epsilon, where the paper's Algorithm 3 stops."
)
_PLACE: Final = (
    "Ours are of a folder of smaller images in place of ImageNet's, through the same code: not to be compared."
)
_TWO_RADII: Final = (
    "As the paper compares: AC is the claim `cell` (`abstrain`), the others are balls, and one printed epsilon is two "
    "radii, on the training scale for AC and on the pixel scale for the others. Impr. is (e' - e) / e' of these, e "
    "AC's. Another table has equal radii, and the claim `ball` for all."
)
_EQUAL: Final = (
    "Every column is the claim `ball` at the row's radius, of networks trained for it (AC: with any number of cells). "
    "The paper prints no figure of this claim for AC."
)
_EQUAL_GAINS: Final = "Impr. is (e' - e) / e', e AC's error and e' the competitor's."
_ACCURACY: Final = (
    "Accuracy is 100 minus the error on clean images, of the networks of Table 1. It is that of the deployed file and "
    "has no claim; epsilon is what a network was trained for, on the scales of Table 1."
)


@final
@dataclass(frozen=True, slots=True)
class Pool:
    """The verifications of one protocol, and the estimates of missing ones, by all that a figure is of."""

    protocol: str
    found: Mapping[tuple[str, ...], Sequence[VerifiedRun]]
    expected: Mapping[tuple[str, ...], Sequence[Estimate]]

    @classmethod
    def of(cls, found: Iterable[VerifiedRun], protocol: str, estimates: Iterable[Estimate] = ()) -> "Pool":
        """Return those of a protocol."""
        runs = (one for one in found if one.run.protocol == protocol)
        others = (one for one in estimates if one.run.protocol == protocol)
        return cls(
            protocol,
            grouped(runs, lambda one: _place_of(one.run, one.activation)),
            grouped(
                others, lambda one: _place_of(one.run, one.run.activation or ACTIVATIONS.get(one.run.method, _RELU))
            ),
        )

    def runs(self, figure: PublishedFigure, method: str, claim: str, radius: Radius) -> tuple[VerifiedRun, ...]:
        """Return the runs to show of a method where `figure` is, one for each seed; empty where there is none.

        Raises:
            RecordError: if records of different versions would be averaged.
        """
        group = self.found.get(self._key(figure, method), ())
        return chosen([verified for verified in group if counts_for(verified, claim, radius)], self.protocol)

    def missing(self, figure: PublishedFigure, method: str, claim: str, radius: Radius) -> str:
        """Return what stands where there is no such run: that, and what the cheapest one would take, if it is kept."""
        group = self.expected.get(self._key(figure, method), ())
        seconds = [one.seconds for one in group if would_count(one.run, claim, radius)]
        if not seconds:
            return NOT_RUN
        return f"{NOT_RUN}: {rough_duration(min(seconds))} by estimate"

    def place(self, data: str) -> str:
        """Return what a row calls the paper's data set: its name, or what stands in its place."""
        return _IN_PLACE.get(self.protocol, {}).get(data, data)

    def _key(self, figure: PublishedFigure, method: str) -> tuple[str, ...]:
        activation = ACTIVATIONS.get(method, figure.activation)
        return self.place(figure.data), figure.network, activation, method


def _place_of(run: Run, activation: str) -> tuple[str, ...]:
    return run.data, run.network, activation, run.method


def drafts(number: int, pool: Pool) -> tuple[PaperTable, ...]:
    """Return Table 1, 2, 4 or 5 of the paper; those of verified errors again for the claim `ball`.

    Raises:
        RecordError: if records of different versions would be averaged.
    """
    return _BUILDERS[number](pool)


def _table1(pool: Pool) -> tuple[PaperTable, ...]:
    blocks = []
    columns: TableRow = ()
    for (data, network, printed), figures in _grouped(1, lambda one: (one.data, one.network, one.printed_radius or "")):
        own, other = figures[0].radius, figures[1].radius
        assert own is not None
        assert other is not None
        labels = (data, network, printed, scales(own.pixel, printed), scales(other.pixel, printed))
        beside = [_ball(pool, figures[1], method, other) for method in _BESIDE.get(pool.protocol, {})]
        blocks.append(PaperRow(labels, (*(_cell(pool, figure) for figure in figures), *beside)))
        columns = tuple(_heading(figure) for figure in figures)
    columns += tuple(f"{name} (ball)" for name in _BESIDE.get(pool.protocol, {}).values())
    names = ("data", "network", "epsilon", "AC's radius, pixel (training)", "others' radius, pixel (training)", LINE)
    title = f"Table 1, {_protocol(pool, blocks)}: verified errors (%), compared as the paper does"
    notes = _notes(pool, _TWO_RADII, SCALES, CLAIMS, _SWEEP)
    return PaperTable(title, (*names, *columns), tuple(blocks), notes), _balls_of_table1(pool)


def _balls_of_table1(pool: Pool) -> PaperTable:
    blocks = []
    called = {**METHODS, **_BESIDE.get(pool.protocol, {})}
    others = [method for method in called if method != OWN]
    for (data, network), figures in _grouped(1, lambda one: (one.data, one.network)):
        radii = {figure.radius.pixel: figure.printed_radius or "" for figure in figures if figure.radius is not None}
        for pixel in sorted(radii):
            radius = Radius(pixel)
            own = pool.runs(figures[0], OWN, "ball", radius)
            cells = [_ball(pool, figures[0], OWN, radius)]
            for method in others:
                theirs = pool.runs(figures[0], method, "ball", radius)
                cells.append(_ball(pool, figures[0], method, radius, _printed(figures, method, pixel)))
                cells.append(gain_cell(own, theirs, None))
            if any(cell.runs or cell.paper for cell in cells):
                blocks.append(PaperRow((data, network, scales(pixel, radii[pixel])), tuple(cells)))
    pairs = [(f"{called[method]} (ball)", f"Impr. over {called[method]}") for method in others]
    columns = (
        "data",
        "network",
        "radius, pixel (training)",
        LINE,
        "AC (ball)",
        *(name for pair in pairs for name in pair),
    )
    title = f"Table 1, {_protocol(pool, blocks)}: errors of the claim ball (%), at equal radii"
    gains = (_EQUAL_GAINS,) if any(cell.is_figure for block in blocks for cell in block.cells[2::2]) else ()
    return PaperTable(title, columns, tuple(blocks), _notes(pool, _EQUAL, *gains, SCALES, CLAIMS))


def _table2(pool: Pool) -> tuple[PaperTable, ...]:
    blocks = []
    columns: TableRow = ()
    for (data, network, printed), figures in _grouped(2, lambda one: (one.data, one.network, one.printed_radius or "")):
        blocks.append(PaperRow((data, network, printed), tuple(_cell(pool, figure) for figure in figures)))
        columns = tuple(METHODS[figure.method] for figure in figures)
    title = f"Table 2, {_protocol(pool, blocks, has_balls=False)}: accuracy (%)"
    return (
        PaperTable(
            title,
            ("data", "network", "epsilon", LINE, *columns),
            tuple(blocks),
            _notes(pool, _ACCURACY, _SWEEP),
            is_of_claims=False,
        ),
    )


def _table4(pool: Pool) -> tuple[PaperTable, ...]:
    rows = _grouped(4, lambda one: (one.data, one.printed_radius or ""))
    networks = "Networks of other activations than ReLU, trained by `abstrain`."
    return tuple(
        _of_own(pool, claim, 4, "networks without ReLU", [(key, figures, ()) for key, figures in rows], networks)
        for claim in ("cell", "ball")
    )


def _table5(pool: Pool) -> tuple[PaperTable, ...]:
    figures = [figure for figure in published() if figure.table == 5]
    times = tuple(figure for figure in figures if figure.quantity is Quantity.TRAINING_SECONDS)
    errors = [figure for figure in figures if figure.quantity is Quantity.VERIFIED_ERROR]
    rows = [(key, some, times) for key, some in _by(errors, lambda one: (one.data, one.printed_radius or ""))]
    time = (
        "Time is seconds an epoch of the training that the error is of, on our machine; the paper prints one for all "
        "radii, of its own machine, so no difference is given."
    )
    return tuple(_of_own(pool, claim, 5, "large networks", rows, time) for claim in ("cell", "ball"))


def _of_own(
    pool: Pool,
    claim: str,
    number: int,
    what: str,
    rows: Sequence[tuple[TableRow, Sequence[PublishedFigure], Sequence[PublishedFigure]]],
    note: str,
) -> PaperTable:
    """Return a table of the paper's own method alone, under one claim; the paper's figures are of the claim `cell`."""
    blocks = []
    columns: list[str] = []
    is_cell = claim == "cell"
    for (data, printed), errors, times in rows:
        cells = []
        columns = []
        for place, figure in enumerate(errors):
            assert figure.radius is not None
            runs = pool.runs(figure, OWN, claim, figure.radius)
            columns.append(f"{figure.column} ({claim})")
            missing = pool.missing(figure, OWN, claim, figure.radius)
            cells.append(rate_cell(runs, not_verified, figure if is_cell else None, missing))
            if times and is_cell:
                columns.append(times[place].column)
                cells.append(pace_cell(runs, times[place], missing))
        assert errors[0].radius is not None
        blocks.append(PaperRow((pool.place(data), printed, scales(errors[0].radius.pixel, printed)), tuple(cells)))
    title = f"Table {number}, {_protocol(pool, blocks)}: errors of the claim {claim} (%), {what}"
    labels = ("data", "epsilon", "radius, pixel (training)", LINE)
    ball = "The paper prints no figure of this claim; epsilon is on the training scale."
    notes: TableRow = (note, SCALES, CLAIMS, _SWEEP) if is_cell else (ball, SCALES, CLAIMS)
    notes += (_PLACE,) if any(pool.place(data) != data for (data, _), _, _ in rows) else ()
    return PaperTable(title, (*labels, *columns), tuple(blocks), _notes(pool, *notes))


_BUILDERS: Final[Mapping[int, Callable[[Pool], tuple[PaperTable, ...]]]] = MappingProxyType(
    {1: _table1, 2: _table2, 4: _table4, 5: _table5}
)


def _by(
    figures: Iterable[PublishedFigure], key: Callable[[PublishedFigure], TableRow]
) -> Iterable[tuple[TableRow, tuple[PublishedFigure, ...]]]:
    return [(name, tuple(group)) for name, group in grouped(figures, key).items()]


def _grouped(
    number: int, key: Callable[[PublishedFigure], TableRow]
) -> Iterable[tuple[TableRow, tuple[PublishedFigure, ...]]]:
    """Return a table's figures by row, MNIST before the others."""
    figures = [figure for figure in published() if figure.table == number]
    return _by(sorted(figures, key=lambda figure: figure.data != "mnist"), key)


def _heading(figure: PublishedFigure) -> str:
    if figure.against is not None:
        return f"Impr. over {METHODS[figure.against]}"
    return f"{METHODS[figure.method]} ({_claim(figure.method)})"


def _claim(method: str) -> str:
    return "cell" if method == OWN else "ball"


def _notes(pool: Pool, *own: str) -> TableRow:
    return (PROTOCOL_NOTES[pool.protocol], *own, _CHOICE[pool.protocol])


def _protocol(pool: Pool, blocks: Iterable[PaperRow], has_balls: bool = True) -> str:
    """Return a protocol in the words of a heading: with its epochs and seconds an image where they are its own."""
    runs = [one for block in blocks for cell in block.cells for one in cell.runs]
    if pool.protocol not in _BESIDE or not runs:
        return f"protocol {pool.protocol}"
    called = {**METHODS, **_BESIDE[pool.protocol]}
    lengths = ((called[one.run.method], one.run.network, str(one.run.epochs or "the data set's own")) for one in runs)
    balls = [one for one in runs if has_balls and one.summary.claim == "ball"]
    times = ((called[one.run.method], one.run.network, f"{one.run.timeout:g}") for one in balls)
    told = [_usually(lengths, "epochs"), *(["balls: " + _usually(times, "s an image")] if balls else [])]
    return f"protocol {pool.protocol} ({'; '.join(told)})"


def _usually(found: Iterable[tuple[str, str, str]], unit: str) -> str:
    """Return the value that most of some methods on networks have, with its unit, and what the others have."""
    values = list(found)
    usual = Counter(value for *_, value in values).most_common(1)[0][0]
    as_usual = {method for method, _, value in values if value == usual}
    others = sorted(
        {
            f"{method} on {network} {value}" if method in as_usual else f"{method} {value}"
            for method, network, value in values
            if value != usual
        }
    )
    return ", ".join([f"{usual} {unit}", *others])


def _ball(
    pool: Pool, figure: PublishedFigure, method: str, radius: Radius, printed: PublishedFigure | None = None
) -> Cell:
    """Return the cell of a method's error of the claim `ball` at a radius, where `figure` is."""
    runs = pool.runs(figure, method, "ball", radius)
    missing = pool.missing(figure, method, "ball", radius)
    return rate_cell(runs, not_verified, printed, missing, _own_bounds(pool, method))


def _own_bounds(pool: Pool, method: str) -> tuple[str, ...]:
    return _BOUNDS.get(method, ()) if pool.protocol in _BESIDE else ()


def _printed(figures: Iterable[PublishedFigure], method: str, pixel: Fraction) -> PublishedFigure | None:
    return next(
        (
            figure
            for figure in figures
            if figure.method == method and figure.radius is not None and figure.radius.pixel == pixel
        ),
        None,
    )


def _cell(pool: Pool, figure: PublishedFigure) -> Cell:
    """Return the cell of a rate, or of an improvement."""
    assert figure.radius is not None
    runs = pool.runs(figure, figure.method, _claim(figure.method), figure.radius)
    if figure.against is None:
        missing = pool.missing(figure, figure.method, _claim(figure.method), figure.radius)
        bounds = _own_bounds(pool, figure.method) if figure.quantity is Quantity.VERIFIED_ERROR else ()
        return rate_cell(runs, _COUNTS[figure.quantity], figure, missing, bounds)
    assert figure.against_radius is not None
    return gain_cell(runs, pool.runs(figure, figure.against, "ball", figure.against_radius), figure)
