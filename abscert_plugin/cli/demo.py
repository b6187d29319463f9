"""`abscert demo`: the main job, end to end, on data that come with the package."""

from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import manual
from abscert_plugin.cli.console import LOG, OUT
from abscert_plugin.cli.guard import guard
from abscert_plugin.cli.show import show
from abscert_plugin.cli.train import train
from abscert_plugin.cli.tune import tune
from abscert_plugin.cli.verify import verify
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import DataError
from abscert_plugin.files import write_text
from abscert_plugin.folders import set_aside
from abscert_plugin.grid import Grid
from abscert_plugin.records import RECORDS
from abscert_plugin.report.try_page import WEB, TryContent, render_try_page
from abscert_plugin.report.web_runtime import MEGABYTES, PACKAGE, put_runtime

_EXAMPLE: Final = "abscert demo --out runs/demo"
_DATA: Final = "digits"
_CELLS: Final = 5
_RADIUS: Final = "0.1"
_GUARDED: Final = ("0.02", "0.05", "0.1", "0.15", "0.2")


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("demo", epilog=_EXAMPLE, rich_help_panel=manual.TRAIN)(demo)


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for all files.", metavar="FOLDER", rich_help_panel=manual.OUTPUT)
    ] = Path("runs/demo"),
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help=f"Also fetch {PACKAGE}, which try.html runs on: {MEGABYTES} MB from npm's registry, once.",
            rich_help_panel=manual.OUTPUT,
        ),
    ] = False,
) -> None:
    """Train, export, verify, tune one step, show and guard, on scikit-learn's handwritten digits."""
    from abscert_plugin.artifact.write import DEPLOY  # which loads onnx

    if (former := set_aside(out)) is not None:
        LOG.print(f"renamed the former demo to {former}", highlight=False)
    OUT.rule("1. train on intervals (Algorithm 2) and export")
    train(out=out, data=_DATA, cells=_CELLS)
    OUT.rule("2. verify the deployed ONNX file by running it, claim `cell`")
    records = out / "verify"
    verify(model=out / DEPLOY, data=_DATA, out=records)
    OUT.rule("3. tune the cells (Algorithm 3): one step, from 2 to 3 cells")
    tune(out=out / "tune", radius=_RADIUS, radius_scale=RadiusScale.PIXEL, data=_DATA, steps=2)
    OUT.rule("4. look at the records")
    show(records=[records / RECORDS], html=out / "report.html")
    OUT.rule(f"5. train for every image within {_RADIUS}, and guard the ONNX file")
    ball = out / "ball"
    train(out=ball, data=_DATA, method="reachable", radius=_RADIUS, cells=_CELLS)
    guard(model=ball / DEPLOY, out=out / "guard.onnx", radius=list(_GUARDED), largest=True)
    _write_try_page(out, web)
    for line in (
        f"All files are in {out}. Open {out / 'report.html'} in a browser.",
        f"Draw digits and see what is certified: abscert show {out} --serve",
    ):
        OUT.print(line, highlight=False, soft_wrap=True)


def _write_try_page(out: Path, web: bool) -> None:
    """Write the page that runs the guard, and where asked to what it runs it by."""
    radii = [Radius.parse(text) for text in _GUARDED]
    content = TryContent(out / "guard.onnx", radii, Grid(_CELLS), load_data(_DATA, Split.TEST))
    write_text(out / "try.html", render_try_page(content))
    if not web:
        return
    try:
        put_runtime(out / WEB)
    except DataError as error:
        LOG.print(f"note: try.html has no {PACKAGE} to run on: {error}", highlight=False, soft_wrap=True)
