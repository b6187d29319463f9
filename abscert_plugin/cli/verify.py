"""`abscert verify`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from abscert_plugin.blackbox import Provider
from abscert_plugin.cli import options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json, progress_bar
from abscert_plugin.data import Split, load_data
from abscert_plugin.records import RunInfo
from abscert_plugin.report.terminal import NamedRecords, run_table
from abscert_plugin.verification.run import RECORDS, Artifact, Verification, set_aside
from abscert_plugin.verification.summary import Summary, summarise
from abscert_plugin.verification.verdict import SCOPE, Claim


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("verify")(verify)


def verify(
    model: Annotated[Path, typer.Argument(help="deploy.onnx or abstract.onnx.")],
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    claim: Annotated[options.ClaimName, typer.Option("--claim", help="What to decide.")] = options.ClaimName.CELL,
    limit: options.Limit = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per forward pass.")] = 250,
    provider: Annotated[Provider, typer.Option("--provider", help="Where to run.")] = Provider.AUTO,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the records.  [default: beside the model]")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Rename a former run in --out and start anew.")] = False,
    json: options.Json = False,
) -> None:
    """Decide a claim for every test image by running the ONNX file."""
    artifact = Artifact.open(model, provider)
    if artifact.metadata.grid.cells == 1:
        LOG.print("note: with one cell every image is the same to the network, so it decides nothing", highlight=False)
    images = load_data(data, Split.TEST, data_dir, image_size).first(limit)
    folder = out or model.parent / f"verify-{model.stem}-{data}-{claim}"
    if fresh and (former := set_aside(folder)) is not None:
        LOG.print(f"renamed the former run to {former}", highlight=False)
    with progress_bar() as bar, interruptible("the same command goes on with it"):
        task = bar.add_task("verifying", total=len(images), note="")
        records, info = Verification(artifact, images, batch_size).run(folder, lambda n: bar.update(task, advance=n))
    summary = summarise(records)
    if json:
        print_json(_facts(summary, info, folder))
        return
    OUT.print(run_table(NamedRecords(model.name, records)))
    OUT.print(SCOPE[Claim(summary.claim)], highlight=False)
    OUT.print(f"records: {folder / RECORDS}", highlight=False, soft_wrap=True)


def _facts(summary: Summary, info: RunInfo, folder: Path) -> dict[str, Any]:
    model = info.model or {}
    return {
        **asdict(summary),
        "seconds": info.seconds,
        "images_per_second": summary.images / info.seconds if info.seconds else None,
        "provider": info.provider,
        "model_sha256": model.get("sha256"),
        "data": info.data,
        "records": str(folder / RECORDS),
    }
