"""`abscert advise`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import manual, options
from abscert_plugin.cli.console import OUT, print_json
from abscert_plugin.errors import ConfigError
from abscert_plugin.files import write_json, write_text
from abscert_plugin.folders import writing_in

if TYPE_CHECKING:
    from rich.table import Table

    from abscert_plugin.training.advise import Advice

_EXAMPLE: Final = "abscert advise --data digits --radius 0.1"
_COLUMNS: Final = ("cells", "edges", "across %", "log2", "most", "clear", "room", "shared %", "least %")
_READING: Final = (
    "across: pixels whose ball reaches several cells. log2: of the combinations of cells that a ball reaches, "
    "for an image, in the mean. most: cells that the ball of one pixel reaches. clear: bits of a pixel that are known "
    "whatever is chosen within the ball, as a multiple of the bits that are chosen. room: each cell keeps a value "
    "whose ball stays in it, 0 and 1 among them. shared: images that share an interval image with a near one of "
    "another class. least: error of the ball, on these images, whatever the network. A lower bound: more --neighbours "
    "may raise both."
)


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("advise", epilog=_EXAMPLE, rich_help_panel=manual.TRAIN)(advise)


def advise(
    data: options.Data,
    radius: options.Radius,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    most_cells: Annotated[
        int, typer.Option("--most-cells", help="Look at 1 to so many cells.", rich_help_panel=manual.CONTENT)
    ] = 16,
    limit: options.Limit = None,
    compared: Annotated[
        int,
        typer.Option(
            "--compared",
            help="Compare so many images, the first ones, with each other.",
            rich_help_panel=manual.CONTENT,
        ),
    ] = 10_000,
    neighbours: Annotated[
        int,
        typer.Option(
            "--neighbours", help="Of other classes that each of them is compared with.", rich_help_panel=manual.CONTENT
        ),
    ] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for advice.json and the chart advice.svg.  [default: none is written]",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Advise how many cells to train on, and where their edges lie: what balls of the training images do on each grid.

    Nothing is trained, and the test images have no say.
    """
    from abscert_plugin.api.advising import looked_at
    from abscert_plugin.report.advice_chart import advice_chart
    from abscert_plugin.training.advise import advise as advise_on

    ball = Radius.parse(radius, radius_scale)
    found = advise_on(looked_at(data, data_dir, image_size, limit), ball, most_cells, compared, neighbours)
    if out is not None:
        with writing_in(out, ConfigError):
            out.mkdir(parents=True, exist_ok=True)
        write_json(out / "advice.json", found.describe())
        write_text(out / "advice.svg", advice_chart(found))
    if json:
        print_json(found.describe())
        return
    OUT.print(_table(found))
    OUT.print(_READING, highlight=False)
    OUT.print(f"advice: {found.reason}", highlight=False)
    if found.advised is not None:
        asked = f"--cells {found.advised.cells} --edges {found.advised.edges} --radius {radius}"
        scale = "" if radius_scale is RadiusScale.PIXEL else f" --radius-scale {radius_scale}"
        command = f"abscert train --data {data} --method reachable {asked}{scale} --out runs/ball"
        OUT.print(f"train by: {command}", highlight=False, soft_wrap=True)
    if out is not None:
        OUT.print(f"wrote {out / 'advice.json'} and {out / 'advice.svg'}", highlight=False, soft_wrap=True)


def _table(found: "Advice") -> "Table":
    from abscert_plugin.report.terminal import plain_table

    title = (
        f"{found.data}, radius {found.radius:.4g} (pixel scale): {found.images:,} images, {found.compared:,} compared"
    )
    table = plain_table(title)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in ("edges", "room") else "right", no_wrap=name == "edges")
    for row in found.rows:
        table.add_row(
            str(row.cells),
            str(row.edges),
            f"{100 * row.straddling:.2f}",
            f"{row.log2_mean:.1f}",
            str(row.most),
            "" if math.isinf(row.clarity) else f"{row.clarity:.1f}",
            "yes" if row.has_room else "no",
            f"{100 * row.shared:.2f}",
            f"{100 * row.least_error:.2f}",
            style="bold" if row == found.advised else None,
        )
    return table
