"""`abscert baseline`: train by a method of the table, certify what came out, list the methods."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.cli import options, train, verify
from abscert_plugin.cli.console import OUT, interruptible, print_json, progress_bar
from abscert_plugin.cli.memory import keep_freed_memory
from abscert_plugin.errors import ConfigError

_CLIP = 10.0  # greatest norm of a step's gradient, as in Shi et al.'s code; the same for every method

MethodName = Annotated[str, typer.Option("--method", help="Name of the method; `abscert baseline list` has them.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the method, such as share=0.3; may be given repeatedly.")
]


def register(app: typer.Typer) -> None:
    """Add the subcommands to `abscert`, as the entry-point group `abscert.commands` asks for."""
    group = typer.Typer(help="Certified training by other methods, on the same data, networks, loop and verifier.")
    group.command("train")(train_baseline)
    group.command("certify")(certify)
    group.command("list")(list_methods)
    app.add_typer(group, name="baseline")


def train_baseline(  # one parameter per option
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, ONNX file and history.")],
    method: MethodName,
    radius: options.Radius,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    settings: Set = None,
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    network: options.Network = "dm-small",
    activation: Annotated[
        str | None, typer.Option("--activation", help="relu, sigmoid, tanh or param-ramp.  [default: by the method]")
    ] = None,
    cells: options.Cells = None,
    epochs: train.Epochs = None,
    batch_size: train.BatchSize = None,
    learning_rate: train.Rate = None,
    augmentation: train.AugmentationName = None,
    precision: train.PrecisionName = "auto",
    gradient_clip: train.GradientClip = _CLIP,
    seed: options.Seed = 0,
    device: train.Device = options.DeviceName.AUTO,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train a network by a method of the table and export it; the epoch is chosen on the validation split."""
    from abscert_plugin.training.run import TrainingData, prepare_folder, run_training, write_run
    from baselines.table import method_entry

    entry = method_entry(method)
    how = entry.create(Radius.parse(radius, radius_scale), _pairs(settings or []))
    if cells is not None and not how.takes_intervals:
        raise ConfigError(f"expected no --cells: the networks of {method} take the images themselves")
    chosen = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": 0,  # losses rise with the radius
        "augmentation": augmentation,
        "precision": precision,
        "gradient_clip": gradient_clip,
        "seed": seed,
    }
    grid = options.chosen_grid(cells, None) if how.takes_intervals else None
    named = activation or str(entry.activation)
    spec = train.make_spec(data, data_dir, image_size, network, named, grid, device, chosen, how)
    prepare_folder(out, resume)
    loaded = TrainingData.load(spec)
    keep_freed_memory()
    with progress_bar() as bar, interruptible(f"add --resume to go on with {out}"):
        run = run_training(spec, loaded, out, train.ProgressObserver(bar, f"training by {method}", train.claimed(how)))
    exported = write_run(run, loaded, out)
    if json:
        print_json({**train.facts(run), **exported.paths})
        return
    OUT.print(train.training_table(run))
    OUT.print(f"wrote {' and '.join(exported.paths.values())}", highlight=False, soft_wrap=True)


def certify(  # one parameter per option
    run: Annotated[Path, typer.Argument(help="Folder of a training, or its deploy.onnx.")],
    radius: options.Radius,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    inputs: options.InputsName = "float",
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    bound: options.BoundName = None,
    timeout: options.Timeout = 10.0,
    limit: options.Limit = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images that are decided together.  [default: by claim]")
    ] = None,
    provider: Annotated[Provider, typer.Option("--provider", help="Where to run.")] = Provider.AUTO,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the records.  [default: beside the model]")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Also write all verdicts into one file for `abscert check`.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Rename a former run in --out and start anew.")] = False,
    json: options.Json = False,
) -> None:
    """Decide the claim `ball` for every test image: `abscert verify --claim ball` with the training's own network."""
    is_folder = run.is_dir()
    verify.verify(
        model=run / "deploy.onnx" if is_folder else run,
        data=data,
        data_dir=data_dir,
        image_size=image_size,
        claim=options.ClaimName.BALL,
        radius=radius,
        radius_scale=radius_scale,
        inputs=inputs,
        bound=bound,
        timeout=timeout,
        checkpoint=run if is_folder else None,
        limit=limit,
        batch_size=batch_size,
        provider=provider,
        out=out,
        certificate=certificate,
        fresh=fresh,
        json=json,
    )


def list_methods(json: options.Json = False) -> None:
    """List the methods, what they do, their papers and options."""
    from baselines.table import methods

    if json:
        rows = [
            {"name": row.name, "summary": row.summary, "source": row.source, "options": list(row.option_names)}
            for row in methods().values()
        ]
        print_json({"methods": rows})
        return
    table = Table(title="methods (`abscert baseline train --method NAME`)", title_justify="left")
    for name in ("name", "what its loss is", "source", "options (--set NAME=VALUE)"):
        table.add_column(name, no_wrap=name == "name")
    for row in methods().values():
        table.add_row(row.name, row.summary, row.source, ", ".join(row.option_names))
    OUT.print(table)


def _pairs(settings: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name in pairs:
            raise ConfigError(f"expected --set NAME=VALUE, each name once, got {setting!r}")
        pairs[name] = value
    return pairs
