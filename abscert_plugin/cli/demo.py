"""`abscert demo`: the main job, end to end, on data that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

from abscert_plugin.claim import RadiusScale
from abscert_plugin.cli.console import LOG, OUT
from abscert_plugin.cli.show import show
from abscert_plugin.cli.train import train, tune
from abscert_plugin.cli.verify import verify
from abscert_plugin.files import set_aside
from abscert_plugin.verification.run import RECORDS


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("demo")(demo)


def demo(out: Annotated[Path, typer.Option("--out", help="Folder for all files.")] = Path("runs/demo")) -> None:
    """Train, export, verify, tune one step and show, on scikit-learn's handwritten digits."""
    if (former := set_aside(out)) is not None:
        LOG.print(f"renamed the former demo to {former}", highlight=False)
    OUT.rule("1. train on intervals (Algorithm 2) and export")
    train(out=out, data="digits", cells=5)
    OUT.rule("2. verify the deployed ONNX file by running it, claim `cell`")
    records = out / "verify"
    verify(model=out / "deploy.onnx", data="digits", out=records)
    OUT.rule("3. tune the cells (Algorithm 3): one step, from 2 to 3 cells")
    tune(out=out / "tune", radius="0.1", radius_scale=RadiusScale.PIXEL, data="digits", steps=2)
    OUT.rule("4. look at the records")
    show(records=[records / RECORDS], html=out / "report.html")
    OUT.print(f"All files are in {out}. Open {out / 'report.html'} in a browser.", highlight=False, soft_wrap=True)
