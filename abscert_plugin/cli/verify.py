"""`abscert verify`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from abscert_plugin.artifact.foreign import open_classifier, trained_on
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.choices import member
from abscert_plugin.claim import SCOPE, Arithmetic, Claim, Inputs, Radius, RadiusScale
from abscert_plugin.cli import completion, foreign, manual, options
from abscert_plugin.cli.console import LOG, OUT, interruptible, print_json, say, say_closed
from abscert_plugin.cli.memory import keep_freed_memory
from abscert_plugin.cli.progress import progress_bar
from abscert_plugin.cli.query import verify_query
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.files import set_aside
from abscert_plugin.query.naming import is_query
from abscert_plugin.records import RunInfo
from abscert_plugin.report.terminal import NamedRecords, reason_table, run_table
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.certificate import write_certificate
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.run import RECORDS, Verification
from abscert_plugin.verification.summary import Summary, summarise

_EXAMPLE = "abscert verify runs/ball --data mnist --claim ball --radius 0.1 --timeout 10"
_CELL_BATCH = 250
_BALL_BATCH = 100


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("verify", epilog=_EXAMPLE, rich_help_panel=manual.VERIFY)(verify)


def verify(  # one parameter per option
    model: Annotated[
        Path,
        typer.Argument(
            help="deploy.onnx, abstract.onnx (claim cell alone), any ONNX classifier (claim ball), the folder of a "
            "training, or a VNN-LIB query: QUERY.vnnlib[.gz].",
            autocompletion=completion.model,
        ),
    ],
    data: options.KnownData = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    claim: Annotated[
        options.ClaimName, typer.Option("--claim", help="What to decide.", rich_help_panel=manual.CLAIM)
    ] = options.ClaimName.CELL,
    radius: options.KnownRadius = None,
    radius_scale: options.RadiusScaleName = RadiusScale.PIXEL,
    inputs: options.InputsName = "float",
    bound: options.BoundName = None,
    arithmetic: options.ArithmeticName = None,
    timeout: options.Timeout = 10.0,
    exhaustive: options.Exhaustive = 256,
    black_box: options.BlackBoxOnly = False,
    checkpoint: options.CheckpointFolder = None,
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver",
            help="Who decides: abscert, or a solver of another package (claim ball).  [default: abscert]",
            metavar="NAME",
            rich_help_panel=manual.ADVANCED,
            autocompletion=completion.solver,
        ),
    ] = None,
    image_shape: foreign.ImageShape = None,
    layout: foreign.LayoutName = None,
    input_range: foreign.InputRange = None,
    mean: foreign.Mean = None,
    std: foreign.Std = None,
    output: foreign.Output = None,
    constant: foreign.Constants = None,
    limit: options.Limit = None,
    batch_size: options.DecidedTogether = None,
    provider: options.ProviderName = Provider.AUTO,
    out: options.RecordsOut = None,
    certificate: options.CertificateOut = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            help="The network of a VNN-LIB query, once for each.",
            metavar="NAME=MODEL.onnx",
            rich_help_panel=manual.QUERIES,
        ),
    ] = None,
    serialise_assignments: Annotated[
        Path | None,
        typer.Option(
            "--serialise-assignments",
            help="Folder for the tensors that satisfy a query.  [default: they are printed]",
            metavar="FOLDER",
            rich_help_panel=manual.QUERIES,
        ),
    ] = None,
    unsat_proofs: Annotated[
        Path | None,
        typer.Option(
            "--unsat-proofs",
            help="Also write why nothing satisfies a query, for `abscert check`.  [default: none]",
            metavar="FILE",
            rich_help_panel=manual.QUERIES,
        ),
    ] = None,
) -> None:
    """Decide a claim for every test image by running the ONNX file, or a VNN-LIB query about a network."""
    start = time.perf_counter()
    if is_query(model):
        others = {"data": data, "radius": radius, "bound": bound, "out": out, "certificate": certificate}
        for option, given in {**others, "solver": solver, "arithmetic": arithmetic, "json": json or None}.items():
            if given is not None:
                raise ConfigError(f"expected no --{option} with a VNN-LIB query")
        verify_query(model, network or [], timeout, serialise_assignments, unsat_proofs)
        return
    of_queries = {"network": network, "serialise-assignments": serialise_assignments, "unsat-proofs": unsat_proofs}
    for option, value in of_queries.items():
        if value is not None:
            raise ConfigError(f"expected --{option} with a VNN-LIB query alone, a file whose name ends in .vnnlib")
    is_ball = claim is options.ClaimName.BALL
    if is_ball != (radius is not None):
        raise ConfigError("expected --radius with --claim ball, and with it alone")
    opening = foreign.opening(image_shape, layout, input_range, mean, std, output, constant)
    read = read_model(model)
    data, note = options.known_data(data, trained_on(read, model), "the model")
    images = load_data(data, Split.TEST, data_dir, image_size).first(limit)
    artifact = open_classifier(model, provider, opening, images.shape, len(images.classes), read)
    if artifact.grid is not None and artifact.grid.cells == 1:
        LOG.print("note: with one cell every image is the same to the network, so it decides nothing", highlight=False)
    for option, given in (("checkpoint", checkpoint), ("bound", bound), ("solver", solver)):
        if given is not None and not is_ball:
            raise ConfigError(f"expected --{option} with --claim ball: the claim cell is decided by the file alone")
    asked = options.asked_arithmetic(arithmetic)
    keep_freed_memory()
    decider: Decider
    if radius is None:
        decider, closed = open_cells(artifact, asked)
    else:
        # torch is imported here: deciding cells must start without it
        from abscert_plugin.bounds.bounder import BoundMethod
        from abscert_plugin.verification.budget import Budget
        from abscert_plugin.verification.opening import BallQuestion, NetworkChoice
        from abscert_plugin.verification.solvers import OWN, open_solver

        ball = Ball(Radius.parse(radius, radius_scale), member(Inputs, "inputs", inputs))
        only = None if bound is None else member(BoundMethod, "bound", bound)
        budget = Budget(seconds=timeout, exhaustive=exhaustive, only=only)
        solver = None if solver == OWN else solver
        if solver is not None and certificate is not None:
            raise ConfigError(
                f"expected no --certificate with --solver {solver}: it says how {OWN}'s bounds are computed"
            )
        question = BallQuestion(artifact, images, ball, budget, NetworkChoice(black_box, checkpoint), asked)
        decider, closed = open_solver(solver or OWN, question)
    say_closed(closed)
    if asked is None and decider.configuration.get("arithmetic") == Arithmetic.WIDE_SUMS:
        say("note: sums of float16 are taken to be held in float32; --arithmetic any-order has them in float16 too")
    name = f"verify-{model.stem}-{data}-{claim}" + (f"-{radius}-{radius_scale}-{inputs}" if is_ball else "")
    name += "".join(f"-{given}" for given in (bound, solver, arithmetic) if given is not None)
    folder = out or model.parent / name.replace("/", "_")
    size = batch_size if batch_size is not None else _BALL_BATCH if is_ball else _CELL_BATCH
    verification = Verification(artifact, images, size, decider)
    verification.check()
    say(artifact.told)
    if fresh and (former := set_aside(folder)) is not None:
        LOG.print(f"renamed the former run to {former}", highlight=False)
    with progress_bar() as bar, interruptible("the same command goes on with it"):
        task = bar.add_task(f"verifying {data}", total=len(images), note="")
        records, info = verification.run(folder, lambda n: bar.update(task, advance=n), start)
    say(note)
    if certificate is not None:
        write_certificate(certificate, folder, records, info, images)
    summary = summarise(records)
    if json:
        print_json(_facts(summary, info, folder))
        return
    OUT.print(run_table(NamedRecords(model.name, records)))
    if is_ball:
        OUT.print(reason_table(records))
    OUT.print(SCOPE[Claim(summary.claim)], highlight=False)
    OUT.print(f"records: {folder / RECORDS}", highlight=False, soft_wrap=True)
    if certificate is not None:
        OUT.print(f"certificate: {certificate}", highlight=False, soft_wrap=True)


def _facts(summary: Summary, info: RunInfo, folder: Path) -> dict[str, Any]:
    model = info.model or {}
    configuration = info.configuration
    return {
        **asdict(summary),
        "radius": configuration.get("radius"),
        "radius_scale": configuration.get("radius_scale"),
        "inputs": configuration.get("inputs"),
        "arithmetic": configuration.get("arithmetic"),
        "seconds": info.seconds,
        "images_per_second": summary.images / info.seconds if info.seconds else None,
        "provider": info.provider,
        "model_sha256": model.get("sha256"),
        "data": info.data,
        "records": str(folder / RECORDS),
    }
