"""`abscert compare plans|plan|run|status`: what a plan holds, carrying it out, and how far it is; and `work`."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer
from rich.table import Table

from abscert_plugin.cli import completion, engines, manual, options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json
from abscert_plugin.engines.leash import when_stdin_ends
from abscert_plugin.engines.table import engine_of
from abscert_plugin.memory import keep_freed_memory
from abscert_plugin.report.figures import rough_duration
from compare.cli.paths import DEFAULT_RESULTS, Results, plan_name
from compare.cli.progress import plan_progress
from compare.plans.plan import read_plan, shipped_plans
from compare.plans.planned_run import Run

PlanName = Annotated[
    str, typer.Argument(help="Name of a plan that is shipped, or a .toml file.", autocompletion=plan_name)
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="Only the runs of this method.  [default: of all]",
        metavar="NAME",
        rich_help_panel=manual.DATA,
        autocompletion=completion.method,
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="Only the runs of this network.  [default: of all]",
        metavar="NAME",
        rich_help_panel=manual.DATA,
        autocompletion=completion.network,
    ),
]
_FAILED: Final = 1
_BEYOND: Final = "beyond the budget"
_ABANDONED: Final = 3  # of a process whose parent is gone
# method and data set to why their runs are named, with their cost, before they are carried out
_COSTLY: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {("lbp", "cifar10"): "the paper has no LBP on CIFAR-10: its code does not support it, and it takes 3200 epochs"}
)


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


def plan(
    name: PlanName,
    out: Results = DEFAULT_RESULTS,
    method: Method = None,
    network: Network = None,
    keep_estimates: Annotated[
        bool,
        typer.Option(
            "--keep-estimates",
            help="Keep them in --out, so that tables say what a missing figure would take.",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Show the runs of a plan, which of them are done, and about how long the others take.

    Those that are beyond the plan's budget are shown too, and not counted.
    """
    from compare.plans.expected_time import expected_seconds
    from compare.results import estimates
    from compare.results.stored_run import State, stored_runs_of
    from compare.running.runner import pick

    chosen = read_plan(name)
    found = stored_runs_of(pick(chosen.runs(), method, network), out)
    beyond = [run for run in chosen.runs_beyond() if method in (None, run.method) and network in (None, run.network)]
    every = [*(stored.run for stored in found), *beyond]
    seconds = {run.key: expected_seconds(run, folders=chosen.folders) for run in every}
    if keep_estimates:
        told = {key: value for key, value in seconds.items() if value is not None}
        estimates.keep_estimates(out, told, every)
    left = [seconds[stored.run.key] for stored in found if stored.state is not State.DONE]
    known = [value for value in left if value is not None]
    total = sum(known) if len(known) == len(left) else None
    if json:
        rows = [{"key": stored.run.key, "run": stored.run.title, "state": str(stored.state)} for stored in found]
        rows += [{"key": run.key, "run": run.title, "state": _BEYOND} for run in beyond]
        print_json({"runs": rows, "estimated_seconds_left": None if total is None else round(total)})
        return
    table = Table(title=chosen.title, title_justify="left")
    for column in ("key", "run", "epochs", "state", "about"):
        table.add_column(column, no_wrap=column != "run")
    states = {stored.run.key: str(stored.state) for stored in found}
    for one in every:
        epochs = "" if one.epochs is None else str(one.epochs)
        table.add_row(one.key[:8], one.title, epochs, states.get(one.key, _BEYOND), _duration(seconds[one.key]))
    OUT.print(table)
    unknown = f", and {len(left) - len(known)} runs of data whose size is not known before" if total is None else ""
    rough = f"about {_duration(float(sum(known)))} on this machine without other work, by a rough estimate{unknown}"
    OUT.print(f"{len(found)} runs; what is left takes {rough}", soft_wrap=True)


def run(
    name: PlanName,
    out: Results = DEFAULT_RESULTS,
    data_dir: options.DataDir = None,
    method: Method = None,
    network: Network = None,
    engine: engines.Name = engines.LOCAL,
    workers: engines.Workers = None,
    address: engines.Address = None,
    cpus: engines.Cpus = None,
    gpus: engines.Gpus = None,
    json: options.Json = False,
) -> None:
    """Carry out a plan's runs; what is done stays, and after a kill the same command goes on.

    A run that fails is recorded with its reason, which `abscert compare status` shows, and the others go on; the status
    is then 1.

    With --engine processes, several runs are carried out at once. With --engine ray, this machine is a node of the
    cluster, and every node has abscert-plugin, and sees the results folder and the data by the same paths. The runs of
    a node that dies go on elsewhere.
    """
    from compare.results.stored_run import State, stored_runs_of
    from compare.running.runner import carry_out, held, pick

    chosen = engine_of(engine, workers, address, cpus, gpus)
    found = stored_runs_of(pick(read_plan(name).runs(), method, network), out)
    _name_costly([stored.run for stored in found if stored.state is not State.DONE])
    again = "the same command goes on with the plan"
    with held(out), interruptible(again), engines.going_on(again), plan_progress(len(found)) as progress:
        carry_out(found, chosen, data_dir, progress.on_progress, progress.on_end)
    counts = Counter(str(stored.state) for stored in found)
    if json:
        failures = {stored.run.key: stored.reason for stored in found if stored.state is State.FAILED}
        print_json({"runs": len(found), "states": dict(counts), "failures": failures, "results": str(out)})
    else:
        OUT.print(f"{len(found)} runs: {', '.join(f'{count} {state}' for state, count in counts.items())}; in {out}")
    if counts[State.FAILED]:
        raise typer.Exit(_FAILED)


def status(out: Results = DEFAULT_RESULTS, json: options.Json = False) -> None:
    """Show how far every run of a results folder is (to do, started, done, failed), and why those that failed did."""
    from compare.results.stored_run import need_runs, stored_runs

    found = list(stored_runs(out))
    need_runs(out, found)
    if json:
        rows = [
            {"key": stored.run.key, "run": stored.run.title, "state": str(stored.state), "reason": stored.reason}
            for stored in found
        ]
        print_json({"runs": rows})
        return
    table = Table(title=f"runs in {out}", title_justify="left")
    for column in ("key", "run", "state", "reason"):
        table.add_column(column)
    for stored in found:
        table.add_row(stored.run.key, stored.run.title, str(stored.state), stored.reason)
    OUT.print(table)


def work(
    folder: Annotated[Path, typer.Argument(help="A run's folder, with its config.json.")],
    data_dir: options.DataDir = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", help="End once stdin does.")] = False,
) -> None:
    """Carry out the run of a folder: what `abscert compare run` starts a process for."""
    from compare.running import worker

    keep_freed_memory()
    if with_parent:
        when_stdin_ends(lambda: os._exit(_ABANDONED))
    worker.work(folder, data_dir)


def _name_costly(left: Sequence[Run]) -> None:
    """Say before they are carried out which runs cost far more than the others of their plan."""
    for (method, data), why in _COSTLY.items():
        runs = [run for run in left if (run.method, run.data) == (method, data)]
        if runs:
            from compare.plans.expected_time import expected_seconds  # it loads torch

            each = [f"{run.title} (about {_duration(expected_seconds(run))})" for run in runs]
            LOG.print(f"costly, {why}: {'; '.join(each)}", highlight=False, soft_wrap=True)


def _duration(seconds: float | None) -> str:
    return "unknown" if seconds is None else rough_duration(seconds)
