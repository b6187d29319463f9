"""Tables of instances for the terminal: by category, beside another solver, and what contradicts."""

from collections.abc import Sequence

from rich.table import Table

from abscert_plugin.instances.counting import Beside, Count
from abscert_plugin.instances.others import Contradiction
from abscert_plugin.instances.rows import Result
from abscert_plugin.report.figures import ABSENT
from abscert_plugin.report.terminal import as_shown, plain_table


def count_table(counts: Sequence[Count]) -> Table:
    """Return a table of what came out of each category."""
    table = plain_table("Instances by category")
    table.add_column("category", overflow="fold")
    for name in ("all", "solved", *Result, "seconds"):
        table.add_column(str(name), justify="right", no_wrap=True)
    for count in counts:
        numbers = (count.total, count.decided, *(count.results[result] for result in Result))
        table.add_row(as_shown(count.category), *(f"{number:,}" for number in numbers), f"{count.seconds:,.0f}")
    return table


def beside_table(beside: Sequence[Beside], name: str) -> Table:
    """Return a table of what we and another solver decide within our time."""
    table = plain_table(f"Decided within the time-out, of the instances that {as_shown(name)} has too")
    table.add_column("category", overflow="fold")
    for column in ("both", "we alone", "it alone", "neither", "our time / its"):
        table.add_column(column, justify="right")
    for row in beside:
        ratio = ABSENT if row.ratio is None else f"{row.ratio:.3g}"
        numbers = (f"{count:,}" for count in (row.both, row.ours, row.theirs, row.neither))
        table.add_row(as_shown(row.category), *numbers, ratio)
    return table


def contradiction_table(found: Sequence[Contradiction], name: str) -> Table:
    """Return a table of instances of which one says `sat` and the other `unsat`."""
    table = plain_table("sat against unsat")
    for column in ("instance", "we say", f"{as_shown(name)} says", "the counterexample"):
        table.add_column(column, overflow="fold")
    for item in found:
        named = f"{item.instance.category}: {item.instance.network}, {item.instance.query}"
        table.add_row(*map(as_shown, (named, item.ours, item.theirs, item.says)))
    return table


def seconds_text(seconds: float | None) -> str:
    """Return seconds with three digits; a dash where there are none."""
    return ABSENT if seconds is None else f"{seconds:.3g}"
