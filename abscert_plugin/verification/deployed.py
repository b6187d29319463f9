"""The deployed classifier as a function of points: cells of all pixels, or the pixels themselves."""

import math
import time
from collections.abc import Callable
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.claim import PROVABLE, Arithmetic
from abscert_plugin.errors import ConfigError, UnsupportedModelError, VerifierError
from abscert_plugin.front import Front, Images, Points
from abscert_plugin.verification.logits import read_logits, unshown
from abscert_plugin.verification.proving import Prover

_PROBED_BATCHES: Final = (1, 7, 64)
_MOST_AT_ONCE: Final = 1024  # images in a forward pass
_PIXELS_AT_ONCE: Final = 2**22  # their pixels: 27 images of 3 x 224 x 224
_FLOAT32_SHARE: Final = 2.0**-20  # of the largest logit: what sums in another order may move, on any provider


@final
class Deployed:
    """A `deploy.onnx`, run on images and on points.

    A combination of cells is run on one image that lies in it; phi maps every other image of these cells to the same
    interval image, bit for bit.

    Args:
        artifact: the file, with the input `image`.
        arithmetic: any order of its sums, or this runtime; None asks for any order where its graph can be read.
        is_black_box: whether its graph is left alone, and nothing proven of it.

    Attributes:
        prover: proves margins for any order of the sums; None where nothing is proven.
        arithmetic: what verdicts are asked to hold for.
        shows_logits: whether margins that are run are those that are proven; behind a Softmax only their signs are.
        note: why they hold for this runtime alone where nobody asked for that; empty elsewhere.

    Raises:
        ConfigError: if any order is asked for of a file whose graph is left alone.
        UnsupportedModelError: if the file takes interval images, so that no image can be replayed through it, or any
            order was asked for and its graph cannot be read.
        VerifierError: if the file does not run.
    """

    def __init__(self, artifact: Artifact, arithmetic: Arithmetic | None = None, is_black_box: bool = False) -> None:
        if is_black_box and arithmetic in PROVABLE:
            raise ConfigError(
                "expected --arithmetic this-runtime with --black-box: of what is run alone nothing is proven"
            )
        if not artifact.takes_images:
            raise UnsupportedModelError(
                "expected a deploy.onnx for the claim `ball`, got an interval network: a ball is one of images, and "
                "counterexamples are replayed through the deployed file"
            )
        self._artifact = artifact
        self._classes = artifact.metadata.classes
        self.front: Front = artifact.front
        self.image_shape = shape = artifact.metadata.image_shape
        self.batch_size = max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // math.prod(shape)))
        self.floor = observed_floor(self.run, self.front.probes(shape))
        self.prover: Prover | None = None
        self.note = ""
        if not is_black_box:
            try:
                self.prover = Prover(artifact, arithmetic)
            except UnsupportedModelError as error:
                if arithmetic in PROVABLE:
                    raise
                self.note = str(error) if arithmetic is None else ""
        self.shows_logits = self.prover is None or self.prover.tail is None
        self.arithmetic = arithmetic or Arithmetic.THIS_RUNTIME
        if self.prover is not None and arithmetic is not Arithmetic.THIS_RUNTIME:
            self.arithmetic = self.prover.arithmetic

    def run(self, images: Images) -> Float32[np.ndarray, "batch classes"]:
        """Return the logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails or the logits are not those of the metadata's classes.
        """
        logits = self._artifact.run_images(images)
        if logits.shape[1] != self._classes:
            raise VerifierError(f"expected {self._classes} logits, got {logits.shape[1]}")
        return logits

    def margins(self, points: Points, labels: Int64[np.ndarray, "batch"]) -> Float32[np.ndarray, "batch"]:
        """Return each label's logit minus the greatest other one at the points; NaN where a logit is not finite.

        Raises:
            VerifierError: as `run`.
        """
        images, size = self.front.images(points), self.batch_size
        parts = [self.run(images[start : start + size]) for start in range(0, len(images), size)]
        return read_logits(np.concatenate(parts), labels).margin

    def shown(
        self,
        points: Points,
        labels: Int64[np.ndarray, "batch"],
        margins: Float32[np.ndarray, "batch"],
        seconds: float = math.inf,
    ) -> Bool[np.ndarray, "batch"]:
        """Return at which points the label is shown in the arithmetic that is asked for.

        Args:
            points: the points.
            labels: the classes.
            margins: as `margins` gives them.
            seconds: after which linear bounds are of no further point; one that is left out is not shown.
        """
        end = time.perf_counter() + seconds
        is_shown = margins > self.floor
        if self.arithmetic is Arithmetic.THIS_RUNTIME or self.prover is None:
            return is_shown
        rows = np.flatnonzero(is_shown)
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            left = end - time.perf_counter()
            is_shown[part] = self.prover.at_points(points[part], labels[part], margins[part], seconds=left) > 0
        return is_shown

    def undecided(self, margin: float) -> str:
        """Return why a point at which the label is not shown leaves an image undecided."""
        if margin > self.floor:
            return unshown(margin)
        if np.isnan(margin):
            return "a logit is not a finite number"
        if margin < -self.floor:
            return "a reachable combination of cells is mislabelled, but only rounding of the ball's ends reaches it"
        floor = f"within the floor of {self.floor:.3g}, the logits' own differences between runs"
        return f"a margin of {margin:.3g} is {floor}"


def observed_floor(run: Callable[[np.ndarray], np.ndarray], probes: Images) -> float:
    """Return the margin below which a verdict could depend on the batch size or the provider.

    It is twice the largest difference of logits seen between batch sizes, since a margin is a difference of two
    logits, but at least 2^-20 of the largest logit seen; then the next power of two, so that it is the same from run
    to run.

    Args:
        run: the file's logits of images on the pixel scale.
        probes: what it is run on.
    """
    runs = [
        np.concatenate([run(probes[start : start + size]) for start in range(0, len(probes), size)])
        for size in _PROBED_BATCHES
    ]
    largest = max(1.0, max(float(np.nan_to_num(np.abs(logits)).max()) for logits in runs))
    with np.errstate(invalid="ignore"):  # two infinite logits; their difference counts as none
        difference = max(float(np.nan_to_num(np.abs(logits - runs[0])).max()) for logits in runs)
    return 2.0 ** math.ceil(math.log2(max(2 * difference, _FLOAT32_SHARE * largest)))
