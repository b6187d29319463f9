"""`abscert compare report|curves|landscape`: the page and the pictures of a results folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from abscert_plugin.choices import expected_one_of
from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import LOG, OUT, print_json
from abscert_plugin.cli.progress import progress_bar, working
from abscert_plugin.errors import ConfigError
from compare.cli.paths import DEFAULT_RESULTS, Results, plan_name, write_text

OnePlan = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help="Only the runs of this plan.  [default: all that the folder holds]",
        metavar="PLAN",
        rich_help_panel=manual.DATA,
        autocompletion=plan_name,
    ),
]


def _into(help_text: str) -> Any:
    return typer.Option("--into", help=help_text, metavar="FILE", rich_help_panel=manual.OUTPUT)


def report(
    out: Results = DEFAULT_RESULTS,
    into: Annotated[Path, _into("File to write to.")] = Path("comparison.html"),
    plan: OnePlan = None,
    data_dir: options.DataDir = None,
) -> None:
    """Write one HTML page of a results folder: charts, curves, tables, counterexamples, runs; it loads nothing.

    Where the page lies in the results folder or above it, it links to the files of every run.
    """
    from compare.page.comparison_page import ComparisonContent, render_report

    with working("making the page"):
        page = render_report(ComparisonContent.read(out, plan), into, data_dir)
    write_text(into, page)


def curves(
    out: Results = DEFAULT_RESULTS,
    into: Annotated[Path, _into("Picture to write to, an .svg.")] = Path("curves.svg"),
    plan: OnePlan = None,
) -> None:
    """Draw certified error against radius, all methods, the claims ball and cell apart."""
    from compare.page.comparison_page import ComparisonContent, render_curves
    from compare.page.curve_plot import plots
    from compare.page.curves import curve_charts

    if into.suffix != ".svg":
        raise ConfigError(
            f"expected an --into that ends in .svg, got {into}; a browser, Inkscape or rsvg-convert makes a PDF or PNG"
        )
    charts = curve_charts(ComparisonContent.read(out, plan).found)
    if not charts:
        raise ConfigError(f"expected a run in {out} that was verified under the claim ball, found none")
    write_text(into, render_curves(plots(charts)))


def landscape(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of trainings on one data set, drawn side by side.", autocompletion=completion.run_folder
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            help="Draw all runs of this plan that --out holds, in place of RUNS.  [default: none]",
            metavar="PLAN",
            rich_help_panel=manual.DATA,
            autocompletion=plan_name,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Results folder: picture and figures go to its landscapes/, where pages find them.  "
            "[default: with --plan, results]",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Of the files there.  [default: the plan and the space]",
            metavar="NAME",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    space: Annotated[
        str, typer.Option("--space", help="weights, or inputs.", metavar="NAME", rich_help_panel=manual.CONTENT)
    ] = "weights",
    span: Annotated[
        float | None,
        typer.Option(
            "--span",
            help="How far to each side.  [default: 0.5 of weights, 0.1 of inputs]",
            rich_help_panel=manual.CONTENT,
        ),
    ] = None,
    points: Annotated[
        int, typer.Option("--points", help="Places along each direction, odd.", rich_help_panel=manual.CONTENT)
    ] = 21,
    limit: Annotated[
        int, typer.Option("--limit", help="The first so many test images.", rich_help_panel=manual.DATA)
    ] = 500,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the directions.", rich_help_panel=manual.RUNNING)] = 0,
    into: Annotated[
        Path | None, _into("Picture to write to, where there is no --out.  [default: landscape.png]")
    ] = None,
    json: options.Json = False,
) -> None:
    """Draw the loss around trained networks, on a plane through their weights or through their inputs."""
    from compare.landscape.stored_landscape import SPACES
    from compare.landscape.trainings import LandscapeOptions, draw_landscapes, of_plan, picture_in, trainings

    if space not in SPACES:
        raise ConfigError(expected_one_of("--space", SPACES, space))
    if (plan is None) == (not runs):
        raise ConfigError("expected folders of trainings, or --plan with --out; not both and not neither")
    if into is not None and out is not None:
        raise ConfigError("expected --into or --out, got both: --out writes to its folder landscapes")
    if plan is not None:
        chosen, title, waiting = of_plan(plan, out or DEFAULT_RESULTS)
        if waiting:
            LOG.print(f"note: without {waiting} runs of the plan that are not done", highlight=False)
    else:
        chosen, title = trainings(runs or []), "Loss landscapes"
    asked = LandscapeOptions(title, space, span, points, limit, seed, data_dir)
    kept = out if plan is None or into is not None else out or DEFAULT_RESULTS
    stem = name or "-".join([Path(plan or "landscape").stem, space])
    picture = into or (Path("landscape.png") if kept is None else picture_in(kept, stem))
    with progress_bar() as bar:
        task = bar.add_task("networks", total=len(chosen), note="")
        record = draw_landscapes(chosen, asked, picture, lambda one: bar.update(task, advance=1, note=one))
    if kept is not None:
        record.write(picture.with_suffix(".json"))
    if json:
        curvature = {network.name: network.curvature for network in record.networks}
        print_json({"curvature": curvature, "picture": str(picture)})
        return
    for network in record.networks:
        OUT.print(f"{network.name}: loss {network.loss:.4f}, curvature {network.curvature:.4g}", highlight=False)
    OUT.print(f"wrote {picture}", highlight=False, soft_wrap=True)
