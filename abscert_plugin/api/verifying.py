"""`abscert.verify`, and what the command `verify` shares with it: a question, opened, and run over images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Unpack, final

from numpy.typing import ArrayLike

from abscert_plugin.api.arrays import Images, as_data_set
from abscert_plugin.api.guess import ToldByModel, asked_of, told_by
from abscert_plugin.api.models import Model, as_file, open_model
from abscert_plugin.api.question import THEN_SECONDS, Question
from abscert_plugin.api.radii import RadiusLike, as_radius
from abscert_plugin.api.reading import Reading, opening_of
from abscert_plugin.api.scratch import Scratch
from abscert_plugin.api.sending import elsewhere
from abscert_plugin.api.verdicts import Verdicts
from abscert_plugin.api.wording import in_python
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.choices import member
from abscert_plugin.claim import Arithmetic, Claim, Inputs, Radius, RadiusScale, decided_at_once
from abscert_plugin.data import DataSet
from abscert_plugin.data.arrays import ARRAYS
from abscert_plugin.engines.job import Engine
from abscert_plugin.errors import ConfigError, DataError
from abscert_plugin.grid import ONE_CELL
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.run import Verification


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A question about images to an opened model, ready to run.

    Args:
        verification: the model, the images, and what decides.
        question: what is decided.
        notes: what there is to say, a line each.
    """

    verification: Verification
    question: Question
    notes: tuple[str, ...]

    def run(
        self,
        folder: Path,
        on_batch: Callable[[int], None],
        since: float | None = None,
        holder: object = None,
        engine: Engine | None = None,
    ) -> Verdicts:
        """Decide every image, with records in a folder; images that it holds equal records of are not run again.

        Raises:
            EngineError: if the engine's workers cannot be started or reached.
            RecordError: if the folder cannot be written or holds another run.
        """
        verification = self.verification
        asked = (verification.artifact, verification.data, self.question)
        others = None if engine is None else elsewhere(engine, *asked)
        records, info = verification.run(folder, on_batch, since, others)
        return Verdicts(records, info, verification.data, folder, verification.artifact.path, self.notes, holder)


def ask(
    artifact: Artifact,
    images: DataSet,
    question: Question,
    taken: str = "",
    tell: Callable[[str], object] | None = None,
) -> Asked:
    """Return a question about images to a model, with what decides it opened.

    Args:
        artifact: the model.
        images: the images.
        question: what is decided of each, and how.
        taken: a line that says what was taken from the model, as nobody gave it.
        tell: told each note as soon as it is known.

    Raises:
        AbscertError: if an option has no meaning, or the images do not fit the model.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        if tell is not None:
            tell(line)

    if artifact.grid is not None and artifact.grid.cells == 1:
        note(ONE_CELL)
    question.check()
    decider, closed = _decider(artifact, images, question)
    if closed:
        note(f"note: {closed}")
    if question.arithmetic is None and decider.configuration.get("arithmetic") == Arithmetic.WIDE_SUMS:
        note("note: sums of float16 are taken to be held in float32; --arithmetic any-order has them in float16 too")
    size = decided_at_once(question.claim, question.timeout) if question.batch_size is None else question.batch_size
    verification = Verification(artifact, images, size, decider)
    verification.check()
    return Asked(verification, question, (*notes, *(line for line in (taken, artifact.told) if line)))


def _decider(artifact: Artifact, images: DataSet, question: Question) -> tuple[Decider, str]:
    """Return what decides, and what of the model stays closed to it."""
    asked = question.asked_arithmetic
    if question.radius is None:
        return open_cells(artifact, asked)
    # torch is imported here: deciding cells must start without it
    from abscert_plugin.bounds.bounder import BoundMethod
    from abscert_plugin.verification.budget import Budget
    from abscert_plugin.verification.opening import BallQuestion, NetworkChoice
    from abscert_plugin.verification.solvers import OWN, open_solver

    ball = Ball(question.radius, member(Inputs, "inputs", question.inputs))
    only = None if question.bound is None else member(BoundMethod, "bound", question.bound)
    budget = Budget(seconds=question.timeout, exhaustive=question.exhaustive, only=only)
    choice = NetworkChoice(question.black_box, question.checkpoint)
    of_balls = BallQuestion(artifact, images, ball, budget, choice, asked)
    decider, closed = open_solver(question.other_solver or OWN, of_balls)
    if question.then is None:
        return decider, closed
    from abscert_plugin.verification.following import open_follower
    from abscert_plugin.verification.query_solvers import from_anywhere

    return open_follower(from_anywhere(question.then), question.then_timeout, decider, of_balls), closed


def folder_name(model: Path, data: str, question: Question, radius: str | None) -> str:
    """Return what the folder of a run is called beside its model.

    Args:
        model: the file.
        data: the data set's name.
        question: what is decided.
        radius: the radius as it was written.
    """
    name = f"verify-{model.stem}-{data}-{question.claim}"
    if question.radius is not None:
        name += f"-{radius}-{question.radius.scale}-{question.inputs}"
    then = None if question.then is None else f"then-{Path(question.then).name}"
    chosen = (question.bound, question.other_solver, question.arithmetic, then)
    return (name + "".join(f"-{given}" for given in chosen if given is not None)).replace("/", "_")


@in_python
def verify(
    model: Model,
    images: Images,
    labels: ArrayLike | None = None,
    radius: RadiusLike | None = None,
    claim: str | None = None,
    *,
    radius_scale: str = "pixel",
    inputs: str = "float",
    arithmetic: str | None = None,
    bound: str | None = None,
    timeout: int | float = 10.0,
    exhaustive: int = 256,
    black_box: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    solver: str | None = None,
    then: str | None = None,
    then_timeout: int | float = THEN_SECONDS,
    batch_size: int | None = None,
    provider: str = "auto",
    classes: int | Sequence[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
    engine: Engine | None = None,
    out: str | PathLike[str] | None = None,
    **reading: Unpack[Reading],
) -> Verdicts:
    """Decide for each image whether the model keeps its label on everything that the claim covers.

        verdicts = abscert.verify(network, images, labels, radius=8 / 255)
        print(verdicts)                 # the claim, counts and the verified error
        verdicts.certified              # a bool for each image

    What is verified is an ONNX file: a torch module is exported first (a copy of it in evaluation mode, on the CPU; the
    module stays as it is), and the verdicts are about that file, `verdicts.model`. A module reads pixels in [0, 1];
    where it expects normalised images, say so by `mean` and `std`, and give images that are not normalised.

    Args:
        model: path of an ONNX file or of a training's folder, an `onnx.ModelProto`, or a `torch.nn.Module`.
        images: [count, channels, height, width], an array or tensor of floats in [0, 1] or of uint8, which stand for
            value / 255; or a data set of `load_data`, which has labels of its own.
        labels: the class of each, whole numbers from 0.
        radius: of the l-infinity ball, such as 0.1 or 8 / 255, on `radius_scale`; none for the claim `cell`. The
            one that the model says it was trained for, where None.
        claim: `ball`: every image within the radius gets the label. `cell`: every image whose pixels lie in the same
            cells does, of a model with cells. By default `ball` where there is a radius; without
            both, the claim that the model says it was trained for, with its radius.
        radius_scale: `pixel` (of pixels in [0, 1]) or `training` (of [-1, 1]).
        inputs: images of the ball: `float`, or `uint8` for those of 8 bits alone.
        arithmetic: what verdicts hold for: `any-order` of the model's sums, `wide-sums`, or `this-runtime`; by default
            any order where its graph can be read.
        bound: decide by this bound alone: `ibp`, `crown-ibp`, `crown-lbp`, `crown` or `optimised`.
        timeout: seconds an image, claim `ball`; an image that takes longer is `unknown`.
        exhaustive: balls of no more combinations of cells than this are run whole.
        black_box: run the model alone: no gradients, no bounds.
        checkpoint: a training's folder, whose network serves gradients and bounds in place of the model's own.
        solver: another package's solver in place of our own.
        then: a second solver for images that stay `unknown`: `vibecheck`, `marabou`, `alpha-beta-CROWN`, an entry
            point of `abscert.solvers`, a folder of competition scripts, or a program with the command line of the
            VNN-LIB standard. What it certifies holds for real numbers alone, and its rows say so.
        then_timeout: seconds an image for the second solver.
        batch_size: images that are decided together.
        provider: where the model runs: `auto`, `cpu`, `cuda`.
        classes: names of the classes or their number; needed only of a model that gives labels and no scores.
        progress: called with (images decided, images) after each batch.
        engine: who decides batches of images in place of this process: `Processes(4)` on this machine, or
            `Cluster("HOST:PORT")`, a Ray cluster.
        out: folder for the records; a verification that it holds is gone on with, and with a longer `timeout` what
            it left open is decided again. A temporary one where None, see `Verdicts.save`.
        **reading: how a model of others reads pixels: `mean`, `std`, `input_range`, `layout`, `output`, `constants`,
            `image_shape`; see `Reading`.

    Returns:
        A verdict for each image, in their order.

    Raises:
        ConfigError: if an option has no meaning or does not fit the model.
        DataError: if images or labels have no meaning or do not fit the model.
        UnsupportedModelError: if the model cannot be read, exported or run, or is no classifier of such images.
        ExportError: if a module's file gives other logits than the module.
        EngineError: if the engine's workers cannot be started or reached.
        VerifierError, RecordError, CheckpointError: as `abscert verify`.
    """
    start = time.perf_counter()
    opening = opening_of(reading)
    data = as_data_set(images, labels, classes)
    scratch = Scratch(out)
    probes = data.first(8).all_pixels()
    path = as_file(model, scratch.path, data.shape, opening, probes)
    known = None if data.name == ARRAYS and classes is None else len(data.classes)
    read = read_model(path)
    ball, taken = _claimed(told_by(read, path), path, claim, radius, radius_scale)
    how = Question(
        radius=ball,
        inputs=inputs,
        arithmetic=arithmetic,
        bound=bound,
        timeout=float(timeout),
        exhaustive=exhaustive,
        black_box=black_box,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        solver=solver,
        batch_size=batch_size,
        then=then,
        then_timeout=float(then_timeout),
    )
    artifact = open_model(model, path, opening, member(Provider, "provider", provider), data.shape, known, read)
    check_labels(artifact, data)
    asked = ask(artifact, data, how, taken)
    done = 0

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(data))

    return asked.run(scratch.path, on_batch, start, scratch, engine)


def _claimed(
    told: ToldByModel, path: Path, claim: str | None, radius: RadiusLike | None, scale: str
) -> tuple[Radius | None, str]:
    """Return the ball's radius, None for the claim `cell`, and a line that says what the model was asked for."""
    named = None if claim is None else member(Claim, "claim", claim)
    if radius is not None:
        if named is Claim.CELL:
            raise ConfigError("expected --radius with --claim ball alone: the claim cell has none")
        return as_radius(radius, scale), ""
    asked = asked_of(path, told, ARRAYS, named, None, member(RadiusScale, "radius-scale", scale))
    return None if asked.radius is None else Radius.parse(asked.radius, asked.scale), asked.note


def check_labels(artifact: Artifact, data: DataSet) -> None:
    """Raise where labels of arrays lie outside the model's classes.

    Raises:
        DataError: if one does.
    """
    if data.name == ARRAYS and len(data.labels):
        largest, classes = int(data.labels.max()), artifact.metadata.classes
        if largest >= classes:
            raise DataError(f"expected labels from 0 to {classes - 1}, the model's classes, got {largest}")
