"""`abscert.guard`: a classifier that certifies every image it is given, written as plain ONNX, and how to ask it."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Unpack, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from abscert_plugin.api.arrays import as_pixels
from abscert_plugin.api.models import Model, as_file, open_model
from abscert_plugin.api.radii import RadiusLike, as_radius
from abscert_plugin.api.reading import Reading, opening_of
from abscert_plugin.api.wording import in_python
from abscert_plugin.artifact.metadata import is_guard
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider, Runner
from abscert_plugin.choices import member
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.guards.guarded import CERTIFIED, LABEL, MARGIN, RADIUS, named_bound
from abscert_plugin.guards.write import write_guard
from abscert_plugin.telling import Tell, nobody

_AT_ONCE: Final = 256  # images in a forward pass


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """What a guard answers for images; with several radii, `certified` and `margin` have a column for each.

    Args:
        logits: as the classifier gives them.
        label: the class of each image.
        certified: whether every image of the ball provably gets that label, on any runtime.
        margin: proven lower bound of the label's logit minus any other, over the ball.
        radius: the largest of the radii that is certified, 0 where none is; None of a guard that was not asked for it.
    """

    logits: Float32[np.ndarray, "images classes"]
    label: Int64[np.ndarray, "images"]
    certified: Bool[np.ndarray, "images ..."]
    margin: Float32[np.ndarray, "images ..."]
    radius: Float32[np.ndarray, "images"] | None


@final
class Guard:
    """A guard that was written: `guard(images)` runs the file.

    Attributes:
        path: the ONNX file, which needs onnxruntime alone.
        radii: what it certifies for, as its columns go.
    """

    def __init__(self, path: Path, artifact: Artifact, radii: Sequence[Radius], logits: str) -> None:
        self.path = path
        self.radii = tuple(radii)
        self._artifact = artifact
        self._logits = logits
        self._runner = Runner(path)

    def __call__(self, images: Any) -> Answers:
        """Return the guard's answers.

        Args:
            images: [count, channels, height, width], an array or tensor of floats in [0, 1] or of uint8.

        Raises:
            DataError: if they do not have the classifier's shape, or a pixel lies outside [0, 1].
        """
        fed = self._artifact.front.file_input(as_pixels(images, self._artifact.metadata.image_shape))
        parts = [self._runner.run(fed[start : start + _AT_ONCE]) for start in range(0, len(fed), _AT_ONCE)]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        labels = whole[LABEL].astype(np.int64)  # runtimes give long long, which is another type of the same size
        return Answers(whole[self._logits], labels, whole[CERTIFIED], whole[MARGIN], whole.get(RADIUS))

    def __repr__(self) -> str:
        return f"<Guard: {self.path}, radius {', '.join(map(str, self.radii))}>"


def make_guard(
    artifact: Artifact,
    out: Path,
    balls: Sequence[Ball],
    largest: bool = False,
    bound: str = "ibp",
    tell: Tell = nobody,
) -> Guard:
    """Write the guard of an opened classifier; `tell` is told how far it is.

    Raises:
        ConfigError: if the name of the file or an option has no meaning.
        UnsupportedModelError: if the classifier has no guard.
        ExportError: if it cannot be written, or does not do what it should.
    """
    made = write_guard(artifact, balls, out, largest, named_bound(bound), tell)
    return Guard(out, artifact, [ball.radius for ball in balls], made.logits)


def check_target(out: Path, model: Path | None) -> None:
    """Refuse a name that a guard cannot have.

    Raises:
        ConfigError: if it is no ONNX file, or one is there that is no guard.
    """
    if out.suffix != ".onnx":
        raise ConfigError(f"expected --out as the name of an ONNX file, such as guard.onnx, got {out}")
    if model is not None and out.exists() and model.exists() and out.resolve() == model.resolve():
        raise ConfigError(f"expected --out beside the model, got the model itself: {out}")
    if out.exists() and not _is_guard(out):
        raise ConfigError(f"{out} is there and is no guard, so it is not replaced; choose another --out")


def _is_guard(path: Path) -> bool:
    try:
        return is_guard(read_model(path))
    except UnsupportedModelError:
        return False


@in_python
def guard(
    model: Model,
    out: str | PathLike[str],
    radius: RadiusLike | Sequence[RadiusLike],
    *,
    radius_scale: str = "pixel",
    inputs: str = "float",
    bound: str = "ibp",
    largest: bool = False,
    progress: Tell = nobody,
    **reading: Unpack[Reading],
) -> Guard:
    """Write a classifier that certifies every image it is given: logits, label, certified and margin, in plain ONNX.

        guard = abscert.guard("runs/own", "guard.onnx", radius=0.05)
        answers = guard(images)
        answers.label[answers.certified]

    `certified` is true only where every image within the radius provably gets the label, in any order of the float32
    sums, on any runtime.

    Args:
        model: as of `verify`; of a torch module, name `image_shape=(channels, height, width)` too.
        out: the ONNX file to write.
        radius: of the l-infinity ball, on `radius_scale`; several have a column each.
        radius_scale: `pixel` (of pixels in [0, 1]) or `training` (of [-1, 1]).
        inputs: images of the ball: `float`, or `uint8` for those of 8 bits alone.
        bound: what certifies: `ibp`, or `crown-ibp`, which certifies more and takes longer.
        largest: also answer the largest of the radii that is certified.
        progress: called with what is done, how much of it, how much there is, and a note.
        **reading: how a model of others reads pixels, see `Reading`.

    Raises:
        ConfigError: if an option has no meaning.
        UnsupportedModelError: if the model cannot be read or exported, or has no guard.
        ExportError: if the guard cannot be written or does not do what it should; nothing is written then.
    """
    path, opening = Path(out), opening_of(reading)
    several = radius if isinstance(radius, Sequence) and not isinstance(radius, str) else [radius]
    kind = member(Inputs, "inputs", inputs)
    balls = [Ball(as_radius(one, radius_scale), kind) for one in several]
    with tempfile.TemporaryDirectory(prefix="abscert-") as folder:
        file = as_file(model, Path(folder), None, opening)
        check_target(path, file)
        return make_guard(open_model(model, file, opening, Provider.CPU), path, balls, largest, bound, progress)
