"""`abscert compare tables|report|landscape`: what is made of the records of a results folder."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.cli import options
from abscert_plugin.cli.console import OUT, print_json
from abscert_plugin.errors import ConfigError
from compare.cli.options import DEFAULT_RESULTS, Results, write_text


def tables(
    out: Results = DEFAULT_RESULTS,
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
    write_text(into, text)


def report(
    out: Results = DEFAULT_RESULTS,
    into: Annotated[Path, typer.Option("--into", help="File to write to.")] = Path("comparison.html"),
) -> None:
    """Write one HTML page of a results folder: charts, tables, methods; it loads nothing."""
    from compare.report import render_report

    write_text(into, render_report(out))


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
