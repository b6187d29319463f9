"""A run over lists of instances as one HTML page: what was decided, how fast, and beside which other solver."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import abscert_plugin
from abscert_plugin.instances.counting import beside_by_category, count_by_category, decided_in_time, pairs_of
from abscert_plugin.instances.listing import Instance
from abscert_plugin.instances.others import Contradiction, Other
from abscert_plugin.instances.rows import Result, Row
from abscert_plugin.records import RunInfo
from abscert_plugin.report import line_plot
from abscert_plugin.report.bench_tables import seconds_text
from abscert_plugin.report.cactus import Cactus, cactus
from abscert_plugin.report.templates import environment

MOST_ROWS: Final = 5000
OURS: Final = "abscert"


@final
@dataclass(frozen=True)
class BenchContent:
    """What a page shows.

    Args:
        name: what the run is called.
        run: how it was made.
        instances: what was run.
        rows: what came out, in the same order.
        other: another solver's results; None for none.
        contradictions: what one says `sat` of and the other `unsat`.
    """

    name: str
    run: RunInfo
    instances: Sequence[Instance]
    rows: Sequence[Row]
    other: Other | None = None
    contradictions: Sequence[Contradiction] = ()


def render_bench(content: BenchContent) -> str:
    """Return the page; all that comes from files is escaped."""
    pairs = [] if content.other is None else pairs_of(content.instances, content.rows, content.other)
    said = {row.key: finding for row, finding in pairs}
    return (
        environment()
        .get_template("bench.html")
        .render(
            content=content,
            counts=count_by_category(content.rows),
            beside=beside_by_category(pairs) if pairs else [],
            results=list(Result),
            plot=_plot(content),
            compared=len(pairs),
            size=line_plot,
            rows=[(row, said.get(row.key)) for row in content.rows[:MOST_ROWS]],
            seconds_text=seconds_text,
            version=abscert_plugin.__version__,
        )
    )


def _plot(content: BenchContent) -> Cactus:
    """Return the plot of all instances, or of those that the other solver has too."""
    if content.other is None:
        return cactus({OURS: [row.seconds for row in content.rows if row.result.is_decided]}, len(content.rows))
    pairs = pairs_of(content.instances, content.rows, content.other)
    theirs = [finding.seconds or 0.0 for row, finding in pairs if decided_in_time(row, finding)]
    name = content.other.name if content.other.name != OURS else f"{OURS}, the other run"
    return cactus({OURS: [row.seconds for row, _ in pairs if row.result.is_decided], name: theirs}, len(pairs))
