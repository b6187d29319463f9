"""`abscert queries`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from abscert_plugin.api.looking import records_in
from abscert_plugin.artifact.foreign import reopen
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import OUT, interruptible, print_json, say
from abscert_plugin.cli.progress import progress_bar
from abscert_plugin.errors import ConfigError
from abscert_plugin.records import RUN, RunInfo, read_records
from abscert_plugin.report.provenance import is_model_of, run_images, run_model
from abscert_plugin.verification.queries import LISTS, write_queries

_EXAMPLE: Final = "abscert queries runs/ball/verify-deploy-mnist-ball-0.1-pixel-float --out benchmark"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("queries", epilog=_EXAMPLE, rich_help_panel=manual.VERIFY)(queries)


def queries(
    records: Annotated[
        Path,
        typer.Argument(
            help="records.jsonl of a run on the claim ball, or the folder of it.", autocompletion=completion.records
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder for networks, queries and lists of instances.",
            metavar="FOLDER",
            rich_help_panel=manual.OUTPUT,
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="The ONNX file.  [default: in or above the run's folder]",
            metavar="FILE",
            rich_help_panel=manual.CONTENT,
            autocompletion=completion.model,
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Also ask about images that the run decided.", rich_help_panel=manual.CONTENT),
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds for each instance.", rich_help_panel=manual.CONTENT)
    ] = 100.0,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    json: options.Json = False,
) -> None:
    """Write a run's open images as a benchmark of other verifiers: ONNX and VNN-LIB, versions 1 and 2."""
    path, found_records = records_in(records)
    rows, run = read_records(path), RunInfo.read(path.with_name(RUN))
    said = run.configuration
    if said.get("claim") != Claim.BALL:
        raise ConfigError(f"expected a run on the claim ball, got one on {said.get('claim')}: cells need no solver")
    if not 0 < timeout < float("inf"):
        raise ConfigError(f"expected a time-out above 0 seconds, got {timeout}")
    data = run_images(run, data_dir, image_size, path.parent)
    if model is None:
        model = run_model(run, [path.parent, path.parent.resolve().parent])
        if model is None:
            told = (run.model or {}).get("path")
            raise ConfigError(f"expected the run's own {told} in or above {path.parent}; name it with --model")
    elif not is_model_of(run, model):
        raise ConfigError(f"expected the file that the run was about, got another one, {model}")
    artifact = reopen(model, Provider.CPU, run.model or {}, data.shape, len(data.classes))
    with progress_bar() as bar, interruptible(f"remove {out} to begin anew"):
        asked = sum(every or row.verdict == Verdict.UNKNOWN for row in rows)
        task = bar.add_task("writing queries", total=asked, note="")
        told = write_queries(out, artifact, Ball.told(said), rows, data, timeout, every, partial(bar.advance, task))
    count, note = told
    say(found_records)
    say(f"note: {note}" if note else "")
    if json:
        print_json({"queries": count, "lists": [str(out / name) for name in LISTS], "note": note})
        return
    OUT.print(f"wrote {count} queries; {' and '.join(LISTS)} in {out} list them", highlight=False, soft_wrap=True)
