"""`abscert compare plans|plan|run|status|work`: what a plan holds, carrying it out, and how far it is."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from abscert_plugin.cli import options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json, progress_bar
from abscert_plugin.errors import ConfigError
from compare.cli.options import DEFAULT_RESULTS, Results
from compare.plan import read_plan, shipped_plans

PlanName = Annotated[str, typer.Argument(help="Name of a plan that is shipped, or a .toml file.")]
Method = Annotated[str | None, typer.Option("--method", help="Only the runs of this method.")]
_FAILED = 1


def plans(json: options.Json = False) -> None:
    """List the plans that are shipped."""
    titles = {name: read_plan(name).title for name in shipped_plans()}
    if json:
        print_json({"plans": titles})
        return
    table = Table(title="plans (`abscert compare run NAME`)", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it compares")
    for name, title in titles.items():
        table.add_row(name, title)
    OUT.print(table)


def plan(name: PlanName, out: Results = DEFAULT_RESULTS, method: Method = None, json: options.Json = False) -> None:
    """Show the runs of a plan, which of them are done, and about how long the others take."""
    from compare.estimate import estimated_seconds
    from compare.results import State, places
    from compare.runner import pick

    chosen = read_plan(name)
    found = places(pick(chosen.runs(), method), out)
    seconds = {place.run.key: estimated_seconds(place.run) for place in found}
    left = sum(seconds[place.run.key] for place in found if place.state is not State.DONE)
    if json:
        rows = [{"key": place.run.key, "run": place.run.title, "state": str(place.state)} for place in found]
        print_json({"runs": rows, "estimated_seconds_left": round(left)})
        return
    table = Table(title=chosen.title, title_justify="left")
    for column in ("key", "run", "epochs", "state", "about"):
        table.add_column(column, no_wrap=column != "run")
    for place in found:
        one = place.run
        epochs = "" if one.epochs is None else str(one.epochs)
        table.add_row(one.key[:8], one.title, epochs, str(place.state), _duration(seconds[one.key]))
    OUT.print(table)
    OUT.print(f"{len(found)} runs; what is left takes about {_duration(left)} on this machine, by a rough estimate")


def run(
    name: PlanName,
    out: Results = DEFAULT_RESULTS,
    data_dir: options.DataDir = None,
    method: Method = None,
    json: options.Json = False,
) -> None:
    """Carry out a plan's runs, one at a time; what is done stays, and after a kill the same command goes on.

    A run that fails is recorded with its reason, and the others go on; the status is then 1.
    """
    from compare.results import Place, State, places
    from compare.runner import carry_out, held, pick

    found = places(pick(read_plan(name).runs(), method), out)
    with held(out), progress_bar() as bar, interruptible("the same command goes on with the plan"):
        task = bar.add_task("runs", total=len(found), note="")

        def on_end(place: Place) -> None:
            reason = f": {place.reason}" if place.reason else ""
            LOG.print(f"{place.state}: {place.run.title}{reason}", highlight=False, soft_wrap=True)
            bar.update(task, advance=1, note="")

        def on_progress(place: Place) -> None:
            bar.update(task, note=f"{place.run.title}: {place.progress}")

        carry_out(found, data_dir, on_progress, on_end)
    counts = Counter(str(place.state) for place in found)
    if json:
        failures = {place.run.key: place.reason for place in found if place.state is State.FAILED}
        print_json({"runs": len(found), "states": dict(counts), "failures": failures, "results": str(out)})
    else:
        OUT.print(f"{len(found)} runs: {', '.join(f'{count} {state}' for state, count in counts.items())}; in {out}")
    if counts[State.FAILED]:
        raise typer.Exit(_FAILED)


def status(out: Results = DEFAULT_RESULTS, json: options.Json = False) -> None:
    """Show every run that a results folder holds, and why those that failed did."""
    from compare.results import stored_runs

    found = list(stored_runs(out))
    if not found:
        raise ConfigError(f"expected runs in {out}, found none; `abscert compare run PLAN --out {out}` makes them")
    if json:
        rows = [
            {"key": place.run.key, "run": place.run.title, "state": str(place.state), "reason": place.reason}
            for place in found
        ]
        print_json({"runs": rows})
        return
    table = Table(title=f"runs in {out}", title_justify="left")
    for column in ("key", "run", "state", "reason"):
        table.add_column(column)
    for place in found:
        table.add_row(place.run.key, place.run.title, str(place.state), place.reason)
    OUT.print(table)


def work(
    folder: Annotated[Path, typer.Argument(help="A run's folder, with its config.json.")],
    data_dir: options.DataDir = None,
) -> None:
    """Carry out the run of a folder: what `abscert compare run` starts a process for."""
    from abscert_plugin.training.loop import SilentObserver
    from compare.execute import execute
    from compare.results import stored_run

    place = stored_run(folder)
    execute(place.run, place.folder, data_dir, SilentObserver(), lambda _: None)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
