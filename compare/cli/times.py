"""`abscert compare times`: how long every method of a plan trains and verifies, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.table import Table

from abscert_plugin.cli import manual, options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json
from abscert_plugin.cli.progress import progress_bar
from abscert_plugin.memory import keep_freed_memory
from compare.cli.paths import DEFAULT_RESULTS, Results
from compare.cli.runs import PlanName

if TYPE_CHECKING:
    from compare.timing.time_records import TimeSummary

_LEGEND: Final = (
    "Seconds of an epoch's steps, and of the test set; and how many times (x) those of abstrain in the same round, "
    "with quartiles. Verification is one pass: for abstrain on cells (claim cell), for others a bound of the ball "
    "(claim ball). Total: an epoch and that."
)


def _amount(name: str, meaning: str) -> Any:
    return typer.Option(name, help=meaning, rich_help_panel=manual.RUNNING)


def times(
    name: PlanName,
    out: Results = DEFAULT_RESULTS,
    data_dir: options.DataDir = None,
    rounds: Annotated[int, _amount("--rounds", "Rounds of all methods; those there are stay.")] = 10,
    steps: Annotated[int, _amount("--steps", "Training steps of a block, over the whole schedule.")] = 19,
    images: Annotated[int, _amount("--images", "Test images of a block of verification.")] = 200,
    search_images: Annotated[
        int, _amount("--search-images", "Those of a block of search, on the plan's trained networks; 0: none.")
    ] = 0,
    json: options.Json = False,
) -> None:
    """Time the methods of a plan, interleaved: training, and verification by one pass or by a search.

    Each data set, network and radius of the plan is timed by itself. A killed timing goes on by the same command.
    """
    from compare.plans.plan import read_plan
    from compare.running.runner import held
    from compare.timing.rounds import Amounts, measure, timings
    from compare.timing.time_records import read_times

    found = timings(read_plan(name).runs(), Amounts(rounds, steps, images, search_images), out, data_dir)
    keep_freed_memory()
    with held(out), progress_bar() as bar, interruptible("the same command goes on with the rounds"):
        task = bar.add_task("blocks", total=rounds * sum(timing.blocks_per_round for timing in found), note="")
        for timing in found:
            measure(timing, out, lambda note, ended: bar.update(task, advance=ended, note=note))
    keys = {timing.setting.key for timing in found}
    summaries = [summary for summary in read_times(out) if summary.key in keys]
    if json:
        print_json({"times": msgspec.to_builtins(summaries), "results": str(out)})
        return
    for timing in found:
        show([summary for summary in summaries if summary.key == timing.setting.key], timing.setting.title)


def show(summaries: Sequence["TimeSummary"], title: str) -> None:
    """Print the summaries of a setting as a table, a row for each method, and what they were measured on."""
    first = summaries[0]
    kinds = tuple(dict.fromkeys(one.kind for one in summaries))
    table = Table(title=f"{title}: medians of {first.rounds} rounds", title_justify="left")
    table.add_column("method")
    for kind in kinds:
        table.add_column(kind, justify="right", no_wrap=True)
    for method in dict.fromkeys(one.method for one in summaries):
        cells = {one.kind: _cell(one) for one in summaries if one.method == method}
        table.add_row(method, *(cells.get(kind, "") for kind in kinds))
    OUT.print(table)
    OUT.print(_LEGEND, highlight=False)
    OUT.print(f"On {first.device}; load {first.load}.", highlight=False)
    if first.ratio is None:
        LOG.print("note: the plan has no abstrain, so no method is compared with it", highlight=False)


def _cell(one: "TimeSummary") -> str:
    if one.ratio is None or one.ratio_low is None or one.ratio_high is None:
        return f"{_short(one.seconds)} s\n({_short(one.low)} to {_short(one.high)})"
    return f"{_short(one.seconds)} s, {_short(one.ratio)}x\n({_short(one.ratio_low)} to {_short(one.ratio_high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
