"""Tables of records for the terminal, as rich renderables; printing them is the caller's part."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from rich import box
from rich.table import Table
from rich.text import Text

from abscert_plugin.claim import Verdict
from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record
from abscert_plugin.report.figures import (
    ABSENT,
    both_radii,
    claim_text,
    class_name,
    inputs_text,
    interval_percent,
    narrower_inputs,
    percent,
)
from abscert_plugin.report.steps import decided_by
from abscert_plugin.verification.summary import Summary, summarise, summarise_classes

_STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {Verdict.CERTIFIED: "green", Verdict.FALSIFIED: "red", Verdict.UNKNOWN: "yellow"}
)
SUMMARY_WIDTH: Final = 120  # of a terminal in which `summary_tables` need not cut a number short
_VERDICT_COLUMNS: Final = tuple((verdict.value, _STYLES[verdict]) for verdict in Verdict)


@final
@dataclass(frozen=True, slots=True)
class NamedRecords:
    """The rows of one records file.

    Args:
        name: what its row of a table is called, such as the file's name.
        records: its rows; one claim and one radius.
    """

    name: str
    records: Sequence[Record]


def summary_tables(runs: Sequence[NamedRecords]) -> tuple[Table, ...]:
    """Return one table per claim, since numbers of different claims never share a column.

    Raises:
        RecordError: if a records file has no row, or its rows differ in claim or radius.
    """
    claims = sorted({_claim(run) for run in runs})
    return tuple(summary_table([run for run in runs if _claim(run) == claim]) for claim in claims)


def summary_table(runs: Sequence[NamedRecords]) -> Table:
    """Return a table of one claim with one row per records file.

    Raises:
        RecordError: if there is no file, a file has no row, or the files differ in claim.
    """
    claims = sorted({_claim(run) for run in runs})
    if len(claims) != 1:
        raise RecordError(f"expected records of one claim in one table, got {claims or 'none'}; use summary_tables")
    table = plain_table(f"Verification, claim {claims[0]}")
    table.add_column("records", overflow="fold")
    table.add_column("claim")
    table.add_column("radius", justify="right")
    _add_numbers(table)
    table.add_column("img/s", justify="right")
    for run in runs:
        summary = summarise(run.records)
        speed = f"{summary.images_per_second:,.1f}" if summary.seconds > 0 else ABSENT
        first = run.records[0]
        radius = "\n".join([*(both_radii(first) or (ABSENT,)), *filter(None, [narrower_inputs(first)])])
        claim = "\n".join(filter(None, [summary.claim, summary.holds_for]))
        table.add_row(as_shown(run.name), as_shown(claim), as_shown(radius), *_numbers(summary), speed)
    return table


def run_table(run: NamedRecords) -> Table:
    """Return a table of one records file, one line per fact, for the width of any terminal.

    Raises:
        RecordError: if the file has no row, or its rows differ in claim or radius.
    """
    summary = summarise(run.records)
    table = plain_table(f"Verification, claim {summary.claim}")
    table.add_column("")
    table.add_column("", justify="right", overflow="fold")
    table.add_row("records", as_shown(run.name))
    table.add_row("claim", as_shown(summary.claim))
    table.add_row("radius", as_shown(", ".join(both_radii(run.records[0]) or (ABSENT,))))
    if narrower_inputs(run.records[0]):
        table.add_row("inputs", as_shown(inputs_text(run.records[0])))
    if summary.holds_for:
        table.add_row("certified for", as_shown(summary.holds_for))
    table.add_row("images", f"{summary.images:,}")
    for verdict, style in _VERDICT_COLUMNS:
        table.add_row(verdict, f"{getattr(summary, verdict):,}", style=style)
    table.add_row("verified error", f"{percent(summary.verified_error)} %")
    table.add_row("its 95 % interval", f"{interval_percent(summary.interval)} %")
    table.add_row("clean error", f"{percent(summary.clean_error)} %")
    table.add_row("images a second", f"{summary.images_per_second:,.1f}" if summary.seconds > 0 else ABSENT)
    return table


def class_table(records: Sequence[Record], classes: Sequence[str] | None) -> Table:
    """Return a table of rows of one claim with one row per class, by label.

    Args:
        records: rows of one claim and one radius.
        classes: one name per class; None writes the labels.

    Raises:
        RecordError: if there is no row, or the rows differ in claim or radius.
    """
    summarise(records)
    table = plain_table(f"Classes, {claim_text(records[0])}")
    table.add_column("class", overflow="fold")
    _add_numbers(table)
    for label, summary in summarise_classes(records).items():
        table.add_row(as_shown(class_name(label, classes)), *_numbers(summary))
    return table


def reason_table(records: Sequence[Record]) -> Table:
    """Return a table of rows of one claim that counts the images of each verdict, reason and method.

    Raises:
        RecordError: if there is no row, or the rows differ in claim or radius.
    """
    images = summarise(records).images
    table = plain_table(f"Reasons, {claim_text(records[0])}")
    for name in ("verdict", "reason", "method"):
        table.add_column(name, overflow="fold")
    for name in ("images", "%"):
        table.add_column(name, justify="right")
    counts = Counter((record.verdict, record.reason, record.method) for record in records)
    for (verdict, reason, method), count in counts.most_common():
        style = _STYLES.get(verdict, "")
        table.add_row(
            Text(as_shown(verdict).plain, style),
            as_shown(reason),
            as_shown(method),
            f"{count:,}",
            percent(count / images),
        )
    return table


def step_table(records: Sequence[Record]) -> Table:
    """Return a table of rows of one claim with one row per method: the images it decided, and their time.

    Raises:
        RecordError: if there is no row, or the rows differ in claim or radius.
    """
    summarise(records)
    table = plain_table(f"Decided by, {claim_text(records[0])}")
    table.add_column("method", overflow="fold")
    for name in ("images", "%", "seconds", "% of time"):
        table.add_column(name, justify="right")
    for step in decided_by(records):
        numbers = (f"{step.images:,}", percent(step.image_share), f"{step.seconds:,.1f}", percent(step.time_share))
        table.add_row(as_shown(step.method), *numbers)
    return table


def _claim(run: NamedRecords) -> str:
    if not run.records:
        raise RecordError(f"expected at least one record in {run.name}, got none")
    return run.records[0].claim


def plain_table(title: str) -> Table:
    """Return a table without rows, in the style of all of them."""
    return Table(title=as_shown(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1))


def _add_numbers(table: Table) -> None:
    table.add_column("images", justify="right")
    for name, style in _VERDICT_COLUMNS:
        table.add_column(name, justify="right", style=style)
    for name in ("verified\nerror %", "95 %\ninterval", "clean\nerror %"):
        table.add_column(name, justify="right", no_wrap=True)


def _numbers(summary: Summary) -> tuple[str, ...]:
    """Return the cells of the columns that `_add_numbers` adds."""
    counts = (summary.images, summary.certified, summary.falsified, summary.unknown)
    rates = (percent(summary.verified_error), interval_percent(summary.interval), percent(summary.clean_error))
    return (*(f"{count:,}" for count in counts), *rates)


def as_shown(text: str) -> Text:
    """Return text that is shown as it stands: no markup, and no control characters that steer a terminal."""
    return Text(
        "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
    )
