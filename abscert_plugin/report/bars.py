"""The chart of verified error per class: which bars there are and how long each is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from abscert_plugin.records import Record
from abscert_plugin.report.figures import class_name
from abscert_plugin.verification.summary import Summary, summarise_classes

MAX_BARS: Final = 50
_TOPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@final
@dataclass(frozen=True, slots=True)
class ClassBar:
    """One class.

    Args:
        name: what the class is called.
        summary: the counts and rates of its rows.
        width: length of the bar, in per cent of the axis.
        low, high: ends of the 95 % interval, in per cent of the axis.
    """

    name: str
    summary: Summary
    width: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True)
class ClassChart:
    """The bars of a chart.

    Args:
        bars: by label; past `MAX_BARS` classes, those of the highest verified error, highest first.
        top: the rate (0 to 1) at the end of the axis.
        classes: how many classes the rows have, drawn or not.
    """

    bars: tuple[ClassBar, ...]
    top: float
    classes: int


def class_chart(records: Sequence[Record], classes: Sequence[str] | None) -> ClassChart:
    """Return the chart of rows that share one claim.

    Raises:
        RecordError: if the rows of a class differ in claim or radius.
    """
    summaries = summarise_classes(records)
    drawn = list(summaries.items())
    if len(drawn) > MAX_BARS:
        drawn = sorted(drawn, key=lambda pair: -pair[1].verified_error)[:MAX_BARS]
    top = _axis_top(max((summary.interval[1] for _, summary in drawn), default=0.0))
    bars = tuple(_bar(class_name(label, classes), summary, top) for label, summary in drawn)
    return ClassChart(bars, top, len(summaries))


def _axis_top(rate: float) -> float:
    return next((top for top in _TOPS if top >= rate), 1.0)


def _bar(name: str, summary: Summary, top: float) -> ClassBar:
    low, high = summary.interval
    return ClassBar(name, summary, 100 * summary.verified_error / top, 100 * low / top, 100 * high / top)
