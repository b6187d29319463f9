"""`abscert compare`: what a plan holds, carrying it out, and how far it is."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from abscert_plugin.cli import options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json, progress_bar
from abscert_plugin.errors import ConfigError
from compare.plan import read_plan, shipped_plans

PlanName = Annotated[str, typer.Argument(help="Name of a plan that is shipped, or a .toml file.")]
Results = Annotated[Path, typer.Option("--out", help="Folder of the runs; one folder serves many plans.")]
Method = Annotated[str | None, typer.Option("--method", help="Only the runs of this method.")]
_DEFAULT_RESULTS = Path("results")
_FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = typer.Typer(help="Compare methods head to head: plans, their runs, and how far these are.")
    group.command("plans")(plans)
    group.command("plan")(plan)
    group.command("run")(run)
    group.command("status")(status)
    group.command("tables")(tables)
    group.command("report")(report)
    group.command("landscape")(landscape)
    group.command("work", hidden=True)(work)
    app.add_typer(group, name="compare")


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


def plan(name: PlanName, out: Results = _DEFAULT_RESULTS, method: Method = None, json: options.Json = False) -> None:
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
    out: Results = _DEFAULT_RESULTS,
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


def status(out: Results = _DEFAULT_RESULTS, json: options.Json = False) -> None:
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


def tables(
    out: Results = _DEFAULT_RESULTS,
    form: Annotated[str, typer.Option("--format", help="markdown, csv, latex or json.")] = "markdown",
    into: Annotated[Path | None, typer.Option("--into", help="File to write to.  [default: stdout]")] = None,
) -> None:
    """Make the tables of a results folder from its records alone, ours beside the paper's printed figures."""
    from compare.formats import FORMATS
    from compare.tables import build_tables

    if form not in FORMATS:
        raise ConfigError(f"expected --format of {', '.join(FORMATS)}, got {form!r}")
    text = FORMATS[form](build_tables(out))
    if into is None:
        typer.echo(text, nl=False)
        return
    _write(into, text)


def report(
    out: Results = _DEFAULT_RESULTS,
    into: Annotated[Path, typer.Option("--into", help="File to write to.")] = Path("comparison.html"),
) -> None:
    """Write one HTML page of a results folder: charts, tables, methods; it loads nothing."""
    from compare.report import render_report

    _write(into, render_report(out))


def landscape(
    runs: Annotated[list[Path], typer.Argument(help="Folders of trainings on one data set, drawn side by side.")],
    data_dir: options.DataDir = None,
    space: Annotated[str, typer.Option("--space", help="weights, or inputs.")] = "weights",
    span: Annotated[float | None, typer.Option("--span", help="How far to each side.  [default: 0.5, or 0.1]")] = None,
    points: Annotated[int, typer.Option("--points", help="Places along each direction, odd.")] = 21,
    limit: Annotated[int, typer.Option("--limit", help="The first so many test images.")] = 500,
    seed: options.Seed = 0,
    into: Annotated[Path, typer.Option("--into", help="Picture to write to.")] = Path("landscape.png"),
    json: options.Json = False,
) -> None:
    """Draw the loss around trained networks, on a plane through their weights or through their inputs."""
    import torch

    from abscert_plugin.data import Split, load_data
    from abscert_plugin.training.run import restore
    from compare.landscape import input_landscape, weight_landscape
    from compare.landscape_plot import draw

    if space not in ("weights", "inputs"):
        raise ConfigError(f"expected --space of weights or inputs, got {space!r}")
    found = {}
    for folder in runs:
        network, _, grid, checkpoint = restore(folder)
        data = load_data(str(checkpoint.description["data"]), Split.TEST, data_dir).first(limit)
        (batch,) = data.batches(limit)
        images, labels = torch.from_numpy(data.pixels(batch.images)), torch.from_numpy(batch.labels)
        of = weight_landscape if space == "weights" else input_landscape
        reach = span if span is not None else 0.5 if space == "weights" else 0.1
        found[folder.name] = of(network, grid, images, labels, reach, points, seed)
    draw(found, "step, norms of the filters" if space == "weights" else "step, pixel scale", into)
    if json:
        print_json({"curvature": {name: one.curvature for name, one in found.items()}, "picture": str(into)})
        return
    for name, one in found.items():
        middle = float(one.losses[points // 2, points // 2])
        OUT.print(f"{name}: loss {middle:.4f}, curvature {one.curvature:.4g}", highlight=False)
    OUT.print(f"wrote {into}", highlight=False, soft_wrap=True)


def _write(into: Path, text: str) -> None:
    part = into.with_name(f".{into.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(into)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {into}: {error.strerror}; choose another --into") from error
    LOG.print(f"wrote {into}", highlight=False, soft_wrap=True)


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
