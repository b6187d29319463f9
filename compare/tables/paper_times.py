"""The paper's Table 3 out of interleaved timings: seconds and speed-ups, ours above the printed figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from compare.tables.error_table import LINE, NOT_RUN, Table, TableRow, scales
from compare.tables.paper_cells import Cell, PaperRow, PaperTable, difference_text, printed_text
from compare.tables.paper_tables import METHODS
from compare.tables.published import MISSING, PublishedFigure, Quantity, published
from compare.tables.selection import OWN
from compare.timing.time_records import Kind, TimeSummary


@final
@dataclass(frozen=True, slots=True)
class _TableOfTimes:
    """A part of the paper's Table 3, or one more of ours.

    Args:
        title: what it shows.
        seconds: the printed quantity of its times; None where it prints none.
        gain: the printed quantity of its speed-ups; None where it prints none.
        note: what a reader must know.
    """

    title: str
    seconds: Quantity | None
    gain: Quantity | None
    note: str


_PARTS: Final[Mapping[Kind, _TableOfTimes]] = MappingProxyType(
    {
        Kind.TRAINING: _TableOfTimes(
            "training time (s/epoch)",
            Quantity.TRAINING_SECONDS,
            Quantity.TRAINING_SPEED_UP,
            "An epoch of each method's own schedule, without validation.",
        ),
        Kind.VERIFICATION: _TableOfTimes(
            "verification time (s), as the paper compares",
            Quantity.VERIFICATION_SECONDS,
            Quantity.VERIFICATION_SPEED_UP,
            "One pass over the test set: of AC a forward pass on the claim `cell`, of the others one bound on the "
            "claim `ball`. As in the paper, the speed-up compares two claims.",
        ),
        Kind.TOTAL: _TableOfTimes(
            "training and verification (s)",
            None,
            Quantity.TOTAL_SPEED_UP,
            "An epoch and one pass over the test set added, as the paper's total speed-up does; it prints no seconds "
            "of the sum.",
        ),
        Kind.SEARCH: _TableOfTimes(
            "verification time (s), claim ball for all",
            None,
            None,
            "The test set on the claim `ball` by all steps of the verifier, for AC too. The paper has no such figure.",
        ),
    }
)
_SIDE_BY_SIDE: Final = (
    "Blocks of all methods took turns on one machine. Medians over rounds, with the first and third quartile; `times "
    "AC` is a method's time divided by that of `abstrain` in the same round. Times of two timings are not compared."
)
_NOTES: Final = (
    "Speed-up is t' / t, t AC's time and t' the competitor's, of the same round: blocks of all methods took turns on "
    "one machine. Figures are medians over rounds, the spread is from the first to the third quartile.",
    "The paper's seconds are of its own machine, averaged over epsilon, so no difference of seconds is given. "
    f"`{MISSING}`: the paper has none; `{NOT_RUN}`: no timing here. Times belong to neither protocol.",
)


def time_drafts(times: Sequence[TimeSummary]) -> tuple[PaperTable, ...]:
    """Return the parts of Table 3, for each machine apart; without timings, with the printed figures alone."""
    devices = sorted({one.device for one in times}) or [""]
    return tuple(
        _draft(kind, [one for one in times if one.kind is kind and one.device == device], device)
        for device in devices
        for kind in _PARTS
    )


def time_table(times: Sequence[TimeSummary]) -> Table:
    """Return what every method took that was timed, whether it is in the paper or not."""
    names = ("data", "network", "radius, pixel (training)", "timing", "method", "what", "claim")
    columns = (*names, "s", "quartiles", "times AC", "its quartiles")
    rows = tuple(
        (
            *(one.data, one.network, scales(one.run.trained_for.pixel), one.key[:8], one.method, str(one.kind)),
            *(one.claim or "", _seconds(one.seconds)),
            f"{_seconds(one.low)} to {_seconds(one.high)}",
            "" if one.ratio is None else f"{one.ratio:.2f}",
            "" if one.ratio_low is None else f"{one.ratio_low:.2f} to {one.ratio_high:.2f}",
        )
        for one in sorted(times, key=lambda one: (one.data, one.network, one.key, list(Kind).index(one.kind)))
    )
    notes = [note for device in sorted({one.device for one in times}) for note in _machine(times, device)]
    return Table("Times of every method, side by side", columns, rows, (_SIDE_BY_SIDE, *notes))


def _draft(kind: Kind, times: Sequence[TimeSummary], device: str) -> PaperTable:
    part = _PARTS[kind]
    figures = [figure for figure in published() if figure.table == 3]
    rows = dict.fromkeys((figure.data, figure.network) for figure in figures)  # those of the paper first
    rows |= dict.fromkeys((one.data, one.network) for one in times)
    blocks = []
    for data, network in rows:
        here = [figure for figure in figures if (figure.data, figure.network) == (data, network)]
        keys = dict.fromkeys(one.key for one in times if (one.data, one.network) == (data, network))
        for key in keys or [""]:
            of_key = [one for one in times if one.key == key]
            blocks.append(PaperRow((data, network, key[:8]), tuple(_cells(part, of_key, here))))
    others = [METHODS[method] for method in METHODS if method != OWN]
    speed_ups = (name for other in others for name in (other, f"SpeedUp over {other}"))
    columns = ("data", "network", "timing", LINE, METHODS[OWN], *speed_ups)
    title = f"Table 3: {part.title}" + (f", on {device}" if device else "")
    notes = (part.note, *_NOTES, *_measured(times, device))
    return PaperTable(title, columns, tuple(blocks), notes, is_of_times=True)


def _cells(part: _TableOfTimes, times: Sequence[TimeSummary], figures: Iterable[PublishedFigure]) -> Iterable[Cell]:
    printed: dict[tuple[Quantity | None, str, str | None], PublishedFigure] = {}
    printed |= {(figure.quantity, figure.method, figure.against): figure for figure in figures}
    for method in METHODS:
        # of several with other options, the one with the fewest
        found = min(
            (one for one in times if one.run.method == method),
            key=lambda one: (len(one.run.options), one.method),
            default=None,
        )
        figure = printed.get((part.seconds, method, None))
        if found is None:
            yield Cell(paper=printed_text(figure))
        else:
            spread = f"{_seconds(found.low)} to {_seconds(found.high)}"
            yield Cell(ours=_seconds(found.seconds), spread=spread, paper=printed_text(figure))
        if method != OWN:
            yield _speed_up(found, printed.get((part.gain, OWN, method)))


def _speed_up(found: TimeSummary | None, figure: PublishedFigure | None) -> Cell:
    if found is None or found.ratio is None or found.ratio_low is None or found.ratio_high is None:
        return Cell(paper=printed_text(figure))
    return Cell(
        ours=f"{found.ratio:.2f}",
        spread=f"{found.ratio_low:.2f} to {found.ratio_high:.2f}",
        paper=printed_text(figure),
        difference=difference_text(found.ratio, figure),
    )


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _measured(times: Sequence[TimeSummary], device: str) -> TableRow:
    """Return how the figures were measured, and on what."""
    if not times:
        return ()
    ways: dict[str, list[str]] = {}
    for one in times:
        ways.setdefault(f"{one.data} {one.network}: {one.note}", []).append(one.method)
    return (*(f"{', '.join(methods)} on {way}." for way, methods in ways.items()), *_machine(times, device))


def _machine(times: Sequence[TimeSummary], device: str) -> TableRow:
    here = [one for one in times if one.device == device]
    keys = ", ".join(sorted({one.key[:8] for one in here}))
    rounds = " or ".join(str(count) for count in sorted({one.rounds for one in here}))
    versions = sorted({f"{name} {version}" for one in here for name, version in one.versions.items()})
    return (f"Machine of timing {keys}: {device}; {rounds} rounds; {', '.join(versions)}.",)
