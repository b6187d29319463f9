"""`abscert check`."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.text import Text

from abscert_plugin.blackbox import Provider
from abscert_plugin.cli import options
from abscert_plugin.cli.ball import ball_decider
from abscert_plugin.cli.console import OUT, interruptible, print_json, progress_bar
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import RecordError
from abscert_plugin.radius import Radius, RadiusScale
from abscert_plugin.verification.cell import CellDecider, read_logits
from abscert_plugin.verification.certificate import Certificate, Check, check_certificate, read_certificate
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.run import Artifact
from abscert_plugin.verification.verdict import Claim

_FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("check")(check)


def check(  # one parameter per option
    certificate: Annotated[Path, typer.Argument(help="What `abscert verify --certificate` wrote.")],
    model: Annotated[Path, typer.Argument(help="The ONNX file that it is about.")],
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    image_size: options.ImageSize = None,
    sample: Annotated[int, typer.Option("--sample", help="How many certified images are decided anew.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="Decide all certified images anew.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample.")] = 0,
    timeout: options.Timeout = 10.0,
    black_box: options.BlackBoxOnly = False,
    provider: Annotated[Provider, typer.Option("--provider", help="Where to run.")] = Provider.AUTO,
    json: options.Json = False,
) -> None:
    """Check a certificate: replay its counterexamples, decide its certified images anew; status 1 if one fails."""
    if sample < 1 or seed < 0:
        raise RecordError(f"expected a sample and a seed of at least 1 and 0, got {sample} and {seed}")
    stored, is_intact = read_certificate(certificate)
    radius = _radius(stored) if stored.claim == Claim.BALL else Radius(Fraction(0))
    artifact = Artifact.open(model, provider)
    images = load_data(data, Split.TEST, data_dir, image_size)
    found: list[Check] = []
    with progress_bar() as bar, interruptible("nothing was written"):
        task = bar.add_task("checking", total=len(stored.rows) if everything else sample, note="")
        checks = _checks(
            stored,
            is_intact,
            artifact,
            images,
            lambda: ball_decider(artifact, images, radius, _inputs(stored), timeout, 256, black_box),
            None if everything else sample,
            seed,
            lambda count: bar.update(task, advance=count),
        )
        for item in checks:
            found.append(item)
            if not json:
                mark = Text("ok      ", "green") if item.holds else Text("FAILED  ", "bold red")
                OUT.print(Text.assemble(mark, f"{item.name}: {item.detail}"), soft_wrap=True)
    holds = all(item.holds for item in found)
    if json:
        checked = [{"name": item.name, "holds": item.holds, "detail": item.detail} for item in found]
        print_json({"claim": stored.claim, "rows": len(stored.rows), "holds": holds, "checks": checked})
    else:
        OUT.print(stored.says)
    if not holds:
        raise typer.Exit(_FAILED)


def _checks(
    stored: Certificate,
    is_intact: bool,
    artifact: Artifact,
    images: DataSet,
    make_ball: Callable[[], Any],
    sample: int | None,
    seed: int,
    on_images: Callable[[int], None],
) -> Iterator[Check]:
    yield Check("digest", is_intact, "as written" if is_intact else "the file was changed after it was written")
    is_same = stored.model.get("sha256") == artifact.sha256
    yield Check("model", is_same, "the same file" if is_same else f"{artifact.path} is another file or was changed")
    is_same_data = stored.data.get("sha256") == images.sha256 and stored.data.get("name") == images.name
    yield Check(
        "data", is_same_data, "the same images" if is_same_data else "other images than the certificate is about"
    )
    if not (is_same and is_same_data):
        return
    grid = artifact.metadata.grid
    decider: Decider
    if stored.claim == Claim.BALL:
        verifier = make_ball()
        decider, contains, floor, run = verifier, verifier.ball.contains, verifier.floor, verifier.run
    else:
        decider = CellDecider(artifact.classifier, artifact.metadata)
        floor, run = 0.0, artifact.run_images

        def contains(center: np.ndarray, image: np.ndarray) -> bool:
            return bool((grid.cell(center) == grid.cell(image)).all())

    def margin(image: np.ndarray, label: int) -> float:
        return float(read_logits(run(image[None]), np.array([label], dtype=np.int64)).margin[0])

    yield from check_certificate(stored, images, decider, contains, margin, floor, sample, seed, on_images)


def _radius(stored: Certificate) -> Radius:
    try:
        scale = RadiusScale(str(stored.configuration.get("radius_scale")))
        return Radius.parse(str(stored.configuration.get("radius")), scale)
    except ValueError as error:
        raise RecordError(f"the certificate's radius has no scale: {error}") from error


def _inputs(stored: Certificate) -> str:
    return str(stored.configuration.get("inputs"))
