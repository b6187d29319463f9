"""`abscert bench`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.cli import engines, manual, options
from abscert_plugin.cli.console import OUT, interruptible, print_json, say
from abscert_plugin.cli.fresh import put_aside
from abscert_plugin.cli.progress import progress_bar
from abscert_plugin.engines.table import engine_of
from abscert_plugin.errors import ConfigError
from abscert_plugin.files import write_text
from abscert_plugin.instances.bench import Bench
from abscert_plugin.instances.counting import beside_by_category, count_by_category, pairs_of
from abscert_plugin.instances.listing import read_lists
from abscert_plugin.instances.others import contradictions, read_other
from abscert_plugin.instances.rows import Result, Row
from abscert_plugin.records import RECORDS
from abscert_plugin.report.bench_page import BenchContent, render_bench
from abscert_plugin.report.bench_tables import beside_table, contradiction_table, count_table

_EXAMPLE: Final = "abscert bench /path/to/vnncomp2022/benchmarks/acasxu --timeout 30 --out runs/acasxu"
_AGAIN: Final = "the same command goes on with it"
_PAGE: Final = "bench.html"
_CONTRADICTED: Final = 1
_GIB: Final = 2**30


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("bench", epilog=_EXAMPLE, rich_help_panel=manual.VERIFY)(bench)


def bench(
    instances: Annotated[
        list[Path],
        typer.Argument(
            help="Lists of instances (network, query and seconds, one a line), or folders with instances.csv in them."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for rows, results, counterexamples and a page.",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Another solver's results.csv of the competition, or another folder of this command, to be compared "
            "with.  [default: none]",
            metavar="PATH",
            rich_help_panel=manual.CONTENT,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            help="Only the first so many instances of each list.  [default: all]",
            rich_help_panel=manual.CONTENT,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            help="Seconds for each instance.  [default: what its list says]",
            rich_help_panel=manual.RUNNING,
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory",
            help="GiB of memory for each instance.  [default: nine tenths of what is free when it starts]",
            rich_help_panel=manual.RUNNING,
        ),
    ] = None,
    engine: engines.Name = engines.LOCAL,
    workers: engines.Workers = None,
    address: engines.Address = None,
    cpus: engines.Cpus = None,
    gpus: engines.Gpus = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
) -> None:
    """Decide lists of VNN-LIB instances, each in a process of its own, and compare with other solvers' results.

    The same command goes on with what was stopped. With --against, the exit status is 1 where one solver says sat and
    the other unsat; a counterexample is run again to tell who is wrong.
    """
    if memory is not None and not 0 < memory < float("inf"):
        raise ConfigError(f"expected --memory above 0 GiB, got {memory}")
    listed = read_lists(instances, limit, timeout)
    other = None if against is None else read_other(against)
    hands = engine_of(engine, workers, address, cpus, gpus)
    if hands is not None:
        hands.check()
    if fresh:
        put_aside(out, *instances)
    asked = Bench(listed, None if memory is None else int(memory * _GIB), engine=hands)
    with progress_bar() as bar, interruptible(_AGAIN), engines.going_on(_AGAIN):
        task = bar.add_task("instances", total=len(listed), note="")
        counts = dict.fromkeys(Result, 0)

        def on_row(row: Row, was_there: bool) -> None:
            counts[row.result] += 1
            note = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
            if was_there:  # no part of the rate
                bar.update(task, total=(bar.tasks[0].total or 0) - 1, note=note)
            else:
                bar.update(task, advance=1, note=note)

        rows, info = asked.run(out, on_row)
    found = [] if other is None else contradictions(listed, rows, other, out)
    content = BenchContent(out.resolve().name, info, listed, rows, other, found)
    write_text(out / _PAGE, render_bench(content))
    pairs = [] if other is None else pairs_of(listed, rows, other)
    wrong = sum(item.is_one for item in found)
    if json:
        print_json(
            {
                "results": {str(result): sum(row.result is result for row in rows) for result in Result},
                "seconds": sum(row.seconds for row in rows),
                "compared": len(pairs),
                "contradictions": wrong,
                "records": str(out / RECORDS),
                "page": str(out / _PAGE),
            }
        )
    else:
        OUT.print(count_table(count_by_category(rows)))
        if other is not None and pairs:
            OUT.print(beside_table(beside_by_category(pairs), other.name))
        if other is not None and found:
            OUT.print(contradiction_table(found, other.name))
        OUT.print(f"records: {out / RECORDS}", highlight=False, soft_wrap=True)
        OUT.print(f"page: {out / _PAGE}", highlight=False, soft_wrap=True)
    if other is not None and not pairs:
        say(f"note: {against} says nothing of these instances")
    if wrong:
        raise typer.Exit(_CONTRADICTED)
