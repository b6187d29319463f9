"""`abscert verify`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from abscert_plugin.api.guess import asked_of, told_by
from abscert_plugin.api.looking import model_in
from abscert_plugin.api.question import THEN_SECONDS, Question
from abscert_plugin.api.verdicts import refuse_other
from abscert_plugin.api.verifying import ask, folder_name
from abscert_plugin.artifact.foreign import open_classifier
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius, RadiusScale, scope
from abscert_plugin.cli import completion, engines, foreign, manual, options
from abscert_plugin.cli.console import OUT, interruptible, print_json, say
from abscert_plugin.cli.fresh import put_aside
from abscert_plugin.cli.progress import progress_bar, working
from abscert_plugin.cli.query import verify_query
from abscert_plugin.data import Split, load_data
from abscert_plugin.engines.table import engine_of
from abscert_plugin.errors import ConfigError
from abscert_plugin.memory import keep_freed_memory
from abscert_plugin.query.naming import is_query
from abscert_plugin.records import RECORDS, RunInfo
from abscert_plugin.report.terminal import NamedRecords, reason_table, run_table
from abscert_plugin.verification.certificate import refuse_replacing
from abscert_plugin.verification.summary import Summary

_AGAIN: Final = "the same command goes on with it"
_EXAMPLE = "abscert verify runs/ball --data mnist --claim ball --radius 0.1 --timeout 10"


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
    claim: options.KnownClaim = None,
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
    then: Annotated[
        str | None,
        typer.Option(
            "--then",
            help="Who is asked about images that stay open: vibecheck, marabou, alpha-beta-CROWN (each also NAME=WHERE "
            "it is), a folder with run_instance.sh, a program that decides VNN-LIB queries, or a solver of another "
            "package.  [default: nobody]",
            metavar="SOLVER",
            rich_help_panel=manual.ADVANCED,
            autocompletion=completion.follower,
        ),
    ] = None,
    then_timeout: Annotated[
        float,
        typer.Option("--then-timeout", help="Seconds an image for --then.", rich_help_panel=manual.ADVANCED),
    ] = THEN_SECONDS,
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
    engine: engines.Name = engines.LOCAL,
    workers: engines.Workers = None,
    address: engines.Address = None,
    cpus: engines.Cpus = None,
    gpus: engines.Gpus = None,
    out: options.RecordsOut = None,
    certificate: options.CertificateOut = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            help="The one network of a VNN-LIB query, and its name there.",
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
    """Decide a claim for every test image by proofs and by running the ONNX file, or a VNN-LIB query."""
    start = time.perf_counter()
    if is_query(model):
        others: dict[str, Any] = {
            "data": data,
            "radius": radius,
            "bound": bound,
            "out": out,
            "certificate": certificate,
        }
        others |= {"solver": solver, "then": then, "arithmetic": arithmetic, "json": json or None}
        others |= {"engine": None if engine == engines.LOCAL else engine, "workers": workers, "address": address}
        for option, given in others.items():
            if given is not None:
                raise ConfigError(f"expected no --{option} with a VNN-LIB query")
        verify_query(model, network or [], timeout, serialise_assignments, unsat_proofs)
        return
    of_queries = {"network": network, "serialise-assignments": serialise_assignments, "unsat-proofs": unsat_proofs}
    for option, value in of_queries.items():
        if value is not None:
            raise ConfigError(f"expected --{option} with a VNN-LIB query alone, a file whose name ends in .vnnlib")
    opening = foreign.opening(image_shape, layout, input_range, mean, std, output, constant)
    model, found = model_in(model)
    read = read_model(model)
    asked_for = asked_of(model, told_by(read, model), data, claim, radius, radius_scale)
    data, radius, radius_scale = asked_for.data, asked_for.radius, asked_for.scale
    with working(f"reading {data}"):
        images = load_data(data, Split.TEST, data_dir, image_size).first(limit)
    artifact = open_classifier(model, provider, opening, images.shape, len(images.classes), read)
    question = Question(
        radius=None if radius is None else Radius.parse(radius, radius_scale),
        inputs=inputs,
        arithmetic=arithmetic,
        bound=bound,
        timeout=timeout,
        exhaustive=exhaustive,
        black_box=black_box,
        checkpoint=checkpoint,
        solver=solver,
        batch_size=batch_size,
        then=then,
        then_timeout=then_timeout,
    )
    if certificate is not None:
        refuse_other(question.other_solver)
        refuse_replacing(certificate)
    hands = engine_of(engine, workers, address, cpus, gpus)
    keep_freed_memory()
    asked = ask(artifact, images, question, tell=say)
    folder = out or model.parent / folder_name(model, data, question, radius)
    notes = [found, asked_for.note, artifact.told]
    if hands is not None:
        hands.check()
        notes.append(engines.few_batches(len(images), asked.verification.batch_size))
    if fresh:
        put_aside(folder, model)
    with progress_bar() as bar, interruptible(_AGAIN), engines.going_on(_AGAIN):
        task = bar.add_task(f"verifying {data}", total=len(images), note="")

        def on_batch(count: int) -> None:
            while notes:  # nothing is refused any more
                say(notes.pop(0))
            bar.update(task, advance=count)

        verdicts = asked.run(folder, on_batch, start, engine=hands)
    if certificate is not None:
        verdicts.write_certificate(certificate)
    if json:
        print_json(_facts(verdicts.summary(), verdicts.run, folder))
        return
    OUT.print(run_table(NamedRecords(model.name, verdicts.records)))
    if question.radius is not None:
        OUT.print(reason_table(verdicts.records))
    OUT.print(scope(verdicts.claim, verdicts.run.configuration.get("inputs")), highlight=False)
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
