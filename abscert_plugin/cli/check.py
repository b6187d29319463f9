"""`abscert check`."""

import secrets
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer
from rich.text import Text

from abscert_plugin.api.looking import certificate_in, model_in, model_of
from abscert_plugin.artifact.foreign import reopen
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Arithmetic, Claim, Verdict, scope
from abscert_plugin.cli import completion, manual, options
from abscert_plugin.cli.console import OUT, interruptible, print_json, say, say_closed
from abscert_plugin.cli.progress import progress_bar, working
from abscert_plugin.cli.query import check_proof, need_query
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RecordError,
    UnsupportedModelError,
    VerifierError,
)
from abscert_plugin.report.figures import INPUTS
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.certificate import Certificate, read_certificate
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.finding import Check
from abscert_plugin.verification.origin import check_origin
from abscert_plugin.verification.replay import Replay, check_verdicts
from abscert_plugin.verification.run import model_facts
from abscert_plugin.verification.summary import counted

_FAILED: Final = 1
_MARKS: Final[Mapping[bool | None, tuple[str, str]]] = MappingProxyType(
    {True: ("ok      ", "green"), False: ("FAILED  ", "bold red"), None: ("-       ", "yellow")}
)
_EXAMPLE: Final = "abscert check ball.json runs/ball --data mnist --sample 200"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("check", epilog=_EXAMPLE, rich_help_panel=manual.VERIFY)(check)


def check(  # one parameter per option
    certificate: Annotated[
        Path,
        typer.Argument(help="What `abscert verify --certificate` wrote.", autocompletion=completion.json_file),
    ],
    model: Annotated[
        Path | None,
        typer.Argument(
            help="The ONNX file that it is about, or the folder of its training.  [default: looked for by name and "
            "checksum near the certificate]",
            autocompletion=completion.model,
        ),
    ] = None,
    data: options.KnownData = None,
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    sample: Annotated[
        int,
        typer.Option("--sample", help="How many certified images are proven again.", rich_help_panel=manual.CONTENT),
    ] = 100,
    everything: Annotated[
        bool, typer.Option("--all", help="Prove all certified images again.", rich_help_panel=manual.CONTENT)
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed of the sample.  [default: by chance]", rich_help_panel=manual.CONTENT),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", help="Seconds for an image that is proven again.", rich_help_panel=manual.RUNNING),
    ] = 10.0,
    black_box: options.BlackBoxOnly = False,
    checkpoint: options.CheckpointFolder = None,
    provider: options.ProviderName = Provider.AUTO,
    json: options.Json = False,
    query: Annotated[
        Path | None,
        typer.Option(
            "--query",
            help="The query that an unsat proof of `abscert verify` is about.  [default: none]",
            metavar="FILE",
            rich_help_panel=manual.QUERIES,
            autocompletion=completion.model,
        ),
    ] = None,
) -> None:
    """Check a certificate: replay its counterexamples, prove its certified images again; status 1 if one fails."""
    certificate, found_certificate = certificate_in(certificate)
    model, found_model = (None, "") if model is None else model_in(model)
    if query is not None:
        if model is None:
            raise ConfigError("expected the ONNX file after the proof: a proof does not tell where it lies")
        check_proof(certificate, model, query, json)
        return
    seed = secrets.randbits(31) if seed is None else seed
    if sample < 1:
        raise ConfigError(f"expected --sample of at least 1, got {sample}")
    if seed < 0:
        raise ConfigError(f"expected --seed of at least 0, got {seed}")
    if not 0 <= timeout < float("inf"):
        raise ConfigError(f"expected a time-out of at least 0 seconds, got {timeout}")
    try:
        stored, is_intact = read_certificate(certificate)
    except RecordError as error:
        need_query(certificate, error)
    data, note = options.known_data(data, stored.data.get("name"), "the certificate")
    if model is None:
        model, found_model = model_of(certificate, stored.model)
    with working(f"reading {data}"):
        images = load_data(data, Split.TEST, data_dir, image_size)
    artifact = reopen(model, provider, stored.model, images.shape, len(images.classes))
    certified = sum(row.record.verdict == Verdict.CERTIFIED for row in stored.rows)
    decided = certified if everything else min(sample, certified)
    found: list[Check] = []
    with progress_bar() as bar, interruptible("nothing was written"):
        task = bar.add_task(f"checking {data}", total=decided, note="")

        def verdicts() -> Iterator[Check]:
            try:
                replay = _replay(stored, artifact, images, timeout, black_box, checkpoint)
            except (
                CheckpointError,
                ConfigError,
                DataError,
                RecordError,
                UnsupportedModelError,
                VerifierError,
            ) as error:
                yield Check("claim fits the file and the data", False, str(error))
                return
            number = None if everything else sample
            yield from check_verdicts(stored, images, replay, number, seed, lambda n: bar.update(task, advance=n))

        runs_alone = bool(artifact.classifier.settings.get("one_by_one"))
        origin = check_origin(stored, is_intact, model_facts(artifact), images, runs_alone)
        _show(origin, found, quiet=json)
        if all(item.holds for item in found if item.name in ("model", "data")):
            _show(verdicts(), found, quiet=json)
    holds = all(item.holds is not False for item in found)
    for line in (found_certificate, found_model, note):
        say(line)
    counts = {verdict.value: sum(row.record.verdict == verdict for row in stored.rows) for verdict in Verdict}
    if json:
        checked = [{"name": item.name, "holds": item.holds, "detail": item.detail} for item in found]
        facts = {"claim": stored.claim, **(_claimed(stored) if holds else {}), "rows": len(stored.rows), **counts}
        facts |= {"decided_anew": decided, "not_proven": certified - decided, "seed": seed}
        print_json({**facts, "holds": holds, "checks": checked})
    else:
        if decided < certified:
            OUT.print(f"{decided} of {certified} certified images were drawn with --seed {seed}", highlight=False)
        if holds:
            OUT.print(_told(stored, counts), highlight=False, soft_wrap=True)
        OUT.print(scope(Claim(stored.claim), stored.ball and stored.ball.inputs), highlight=False)
    if not holds:
        raise typer.Exit(_FAILED)


def _claimed(stored: Certificate) -> dict[str, str]:
    """Return the radius, scale and images of a ball, and what the certified rows hold for, or would."""
    certified = (row.record for row in stored.rows if row.record.verdict == Verdict.CERTIFIED)
    holds_for = counted(str(record.holds_for) for record in certified) or str(stored.arithmetic or Arithmetic.UNPROVEN)
    ball = stored.ball
    return {
        **({} if ball is None else {**ball.radius.as_options(), "inputs": str(ball.inputs)}),
        "arithmetic": holds_for,
    }


def _told(stored: Certificate, counts: Mapping[str, int]) -> str:
    """Return what holds, in a line."""
    ball = stored.ball
    of_ball = ""
    if ball is not None:  # the radius as it was given: rounded up, it would be one that nobody proved
        of_ball = f", radius {ball.radius.written} ({ball.radius.scale} scale), {INPUTS[ball.inputs]}"
    others = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (Verdict.FALSIFIED, Verdict.UNKNOWN))
    of = f"{counts[Verdict.CERTIFIED]} of {len(stored.rows)} images are certified, {others}"
    return f"claim {stored.claim}{of_ball}, arithmetic {_claimed(stored)['arithmetic']}: {of}"


def _show(checks: Iterator[Check], found: list[Check], quiet: bool) -> None:
    for item in checks:
        found.append(item)
        if not quiet:
            OUT.print(Text.assemble(_MARKS[item.holds], f"{item.name}: {item.detail}"), soft_wrap=True)


def _replay(
    stored: Certificate, artifact: Artifact, images: DataSet, timeout: float, black_box: bool, checkpoint: Path | None
) -> Replay:
    artifact.check_fit(images.shape, images.labels)
    ball = stored.ball
    if ball is None:
        cells, closed = open_cells(artifact, stored.arithmetic)
        say_closed(closed)
        return Replay(lambda _: cells, None, artifact.run_images, artifact.front, None, 0.0)
    # torch is imported here: cells are checked without it
    from abscert_plugin.verification.budget import Budget
    from abscert_plugin.verification.deployed import Deployed
    from abscert_plugin.verification.opening import BallQuestion, NetworkChoice, check_inputs, open_verifier
    from abscert_plugin.verification.reproof import Reproof

    choice = NetworkChoice(black_box, checkpoint)
    check_inputs(images, ball)
    deployed = Deployed(artifact, stored.arithmetic, black_box)

    @cache
    def verifier(arithmetic: Arithmetic | None) -> Decider:
        """Return what searches again: opened where a row asks for it alone, since auto_LiRPA may not be there."""
        found, closed = open_verifier(BallQuestion(artifact, images, ball, Budget(seconds=timeout), choice, arithmetic))
        say_closed(closed)
        return found

    reproof = Reproof(deployed, ball)
    return Replay(verifier, reproof.fault, deployed.run, artifact.front, ball, deployed.floor)
