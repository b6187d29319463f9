"""A cell of a table of the paper: ours, its spread, the printed figure and the difference, on lines of their own."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.claim import Claim
from compare.results.verified_run import VerifiedRun
from compare.tables.error_table import NOT_RUN, Table, TableRow, arithmetic, epochs, machines, verifiers
from compare.tables.published import MISSING, PublishedFigure
from compare.tables.selection import Count, not_verified, rate


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the paper's table: ours above, the paper's below.

    Args:
        ours: our figure, as text.
        spread: over seeds, or of one.
        cells: the number of cells that it is of.
        paper: the printed figure.
        difference: ours minus the printed one.
        bound: the figure by one kind of bounds alone, that of the method's own paper.
        runs: the verifications that it is made of.
    """

    ours: str = NOT_RUN
    spread: str = ""
    cells: str = ""
    paper: str = ""
    difference: str = ""
    bound: str = ""
    runs: tuple[VerifiedRun, ...] = ()

    @property
    def is_missing(self) -> bool:
        """Whether there is no figure of ours."""
        return self.ours.startswith(NOT_RUN)

    @property
    def is_figure(self) -> bool:
        """Whether there is a number of ours."""
        return self.ours[:1].isdigit() or self.ours[:1] == "-"


@final
@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of the paper's table: what it is of, and its cells."""

    labels: TableRow
    cells: tuple[Cell, ...]


@final
@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of the paper, ours and its own figures cell by cell; `table` sets them as lines."""

    title: str
    columns: TableRow
    blocks: tuple[PaperRow, ...]
    notes: TableRow
    is_of_claims: bool = True  # not of accuracies, which nothing is certified of
    is_of_times: bool = False

    @property
    def runs(self) -> tuple[VerifiedRun, ...]:
        """The verifications that it shows, each once."""
        runs = {run.folder: run for block in self.blocks for cell in block.cells for run in cell.runs}
        return tuple(runs.values())

    @property
    def is_empty(self) -> bool:
        """Whether it has no figure of ours."""
        return all(cell.is_missing for block in self.blocks for cell in block.cells)

    @property
    def table(self) -> Table:
        """The table: of each block a line of ours, and of the other lines those that say something."""
        counts = sorted({run.summary.images for run in self.runs})
        lines = _LINES if len(counts) > 1 else {name: of for name, of in _LINES.items() if of is not _images}
        rows = [row for block in self.blocks for row in _stacked(block, lines)]
        notes = [*self.notes, *self._reading({row[len(self.blocks[0].labels)] for row in rows})]
        if counts:
            images = " or ".join(f"{count:,}" for count in counts)
            notes += [f"Images tested: {images}.", epochs(self.runs), *verifiers(self.runs), machines(self.runs)]
            claims = [[run for run in self.runs if run.summary.claim == claim] for claim in Claim]
            notes += [f"Certified for: {held}."] if self.is_of_claims and (held := arithmetic(*claims)) else []
        return Table(self.title, self.columns, tuple(rows), tuple(notes))

    def _reading(self, lines: Collection[str]) -> Sequence[str]:
        """Return what the lines say that the table has; those of times say it themselves."""
        if self.is_of_times:
            return ()
        cells = [cell for block in self.blocks for cell in block.cells]
        dash = f", `{MISSING}` where it has none" if any(cell.paper == MISSING for cell in cells) else ""
        said = "; ".join(text + (dash if name == _PAPER else "") for name, text in _SAID.items() if name in lines)
        missing = f" `{NOT_RUN}`: no finished run." if any(cell.is_missing for cell in cells) else ""
        return (f"Lines: {said}.{missing}", *([_ALONE] if _BOUNDS_ALONE in lines else []))


def _images(cell: Cell) -> str:
    return f"{cell.runs[0].summary.images:,}" if cell.runs else ""


_OURS: Final = "ours"
_BOUNDS_ALONE: Final = "bounds alone"
_PAPER: Final = "paper"
_LINES: Final[Mapping[str, Callable[[Cell], str]]] = MappingProxyType(
    {
        _OURS: lambda cell: cell.ours,
        "spread": lambda cell: cell.spread,
        _BOUNDS_ALONE: lambda cell: cell.bound,
        "cells N": lambda cell: cell.cells,
        "images": _images,
        _PAPER: lambda cell: cell.paper,
        "difference": lambda cell: cell.difference,
    }
)
_SAID: Final[Mapping[str, str]] = MappingProxyType(
    {
        _OURS: "ours",
        "spread": "its spread (95 % of one seed's images, or the standard deviation over seeds)",
        "cells N": "N",
        "images": "images tested",
        _PAPER: "the paper's figure as printed",
        "difference": "ours minus the paper's",
    }
)
_ALONE: Final = (
    "Bounds alone: not certified by the bounds that the method trains with, intervals for IBP and AIBP, CROWN-IBP for "
    "CROWN-IBP, LLM and LBP (LLM's paper chooses slopes, LBP's carries lines forward: both certify some more)."
)


def _stacked(block: PaperRow, lines: Mapping[str, Callable[[Cell], str]]) -> list[TableRow]:
    texts = {name: [of(cell) for cell in block.cells] for name, of in lines.items()}
    return [(*block.labels, name, *row) for name, row in texts.items() if name == _OURS or any(row)]


def gain(ours: float, theirs: float) -> float | None:
    """Return the paper's improvement (e' - e) / e' in per cent; None where e' is 0.

    >>> round(gain(0.89, 3.02), 2)
    70.53
    """
    return 100 * (theirs - ours) / theirs if theirs > 0 else None


def rate_cell(
    runs: tuple[VerifiedRun, ...],
    count: Count,
    figure: PublishedFigure | None,
    missing: str = NOT_RUN,
    bounds: tuple[str, ...] = (),
) -> Cell:
    """Return the cell of a share of images.

    Args:
        runs: one for each seed; none where it was not run.
        count: the images that make the share.
        figure: what the paper prints; None where it has no such cell.
        missing: what stands there if it was not run.
        bounds: the bounds of the method's own paper, as rows name them; none where there is nothing to say of them.
    """
    if not runs:
        return Cell(ours=missing, paper=printed_text(figure))
    found = rate(runs, count)
    cells = runs[0].run.cells
    by_bounds = [100 * (1 - sum(run.certified_by.get(name, 0) for name in bounds) / run.summary.images) for run in runs]
    return Cell(
        ours=f"{found.percent:.2f}",
        spread=found.spread,
        cells="" if cells is None else str(cells),
        paper=printed_text(figure),
        difference=difference_text(found.percent, figure) if _is_comparable(runs, figure) else "",
        bound=f"{statistics.mean(by_bounds):.2f}" if bounds else "",
        runs=runs,
    )


def _is_comparable(runs: tuple[VerifiedRun, ...], figure: PublishedFigure | None) -> bool:
    """Return whether ours are of the paper's images."""
    return figure is not None and all(run.run.data == figure.data for run in runs)


def gain_cell(own: tuple[VerifiedRun, ...], theirs: tuple[VerifiedRun, ...], figure: PublishedFigure | None) -> Cell:
    """Return the cell of the improvement of verified errors over a competitor; arguments as in `rate_cell`.

    Shares of different images say nothing of one another: then there is none of ours.
    """
    if not own or not theirs:
        return Cell(paper=printed_text(figure))
    if len({run.summary.images for run in (*own, *theirs)}) > 1:
        return Cell(ours="", paper=printed_text(figure))
    value = gain(rate(own, not_verified).percent, rate(theirs, not_verified).percent)
    if value is None:
        return Cell(ours="undefined", paper=printed_text(figure))
    return Cell(ours=f"{value:.2f}", paper=printed_text(figure), difference=difference_text(value, figure))


def pace_cell(runs: tuple[VerifiedRun, ...], figure: PublishedFigure, missing: str = NOT_RUN) -> Cell:
    """Return the cell of the seconds an epoch; other machines differ, so there is no difference."""
    if not runs:
        return Cell(ours=missing, paper=printed_text(figure))
    return Cell(ours=f"{statistics.mean(run.epoch_seconds for run in runs):.1f}", paper=printed_text(figure))


def printed_text(figure: PublishedFigure | None) -> str:
    """Return a printed figure with its decimals, or the paper's dash; empty where there is no such cell."""
    if figure is None:
        return ""
    return MISSING if figure.value is None else str(figure.value)


def difference_text(value: float, figure: PublishedFigure | None) -> str:
    """Return ours minus the printed figure, with its sign; empty where nothing is printed."""
    return "" if figure is None or figure.value is None else f"{value - float(figure.value):+.2f}"
