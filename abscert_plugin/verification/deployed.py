"""The deployed classifier as a function of cells: any image of the cells gives what all of them give."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from abscert_plugin.artifact.metadata import IMAGE, Metadata
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.verification.cell import read_logits

PROBES: Final = 64
_PROBED_BATCHES: Final = (1, 7, 64)
_MOST_AT_ONCE: Final = 1024  # combinations of cells in a forward pass
_PIXELS_AT_ONCE: Final = 2**22  # their pixels: 27 images of 3 x 224 x 224
_FLOAT32_SHARE: Final = 2.0**-20  # of the largest logit: what sums in another order may move, on any provider


@final
class DeployedCells:
    """A `deploy.onnx`, run on combinations of cells.

    Each combination is run on one image that lies in it, the image of its lower edges; phi maps every other image of
    these cells to the same interval image, bit for bit.

    Args:
        classifier: the file, with the input `image`.
        metadata: what it says of its grid and shape.

    Raises:
        UnsupportedModelError: if the file takes interval images, so that no image can be replayed through it.
        VerifierError: if the file does not run.
    """

    def __init__(self, classifier: BlackBox, metadata: Metadata) -> None:
        if classifier.input_name != IMAGE:
            raise UnsupportedModelError(
                "expected a deploy.onnx for the claim `ball`, got an interval network: a ball is one of images, and "
                "counterexamples are replayed through the deployed file"
            )
        self._classifier = classifier
        self.metadata = metadata
        self._edges = metadata.grid.edges[:-1]
        self.batch_size = max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // math.prod(metadata.image_shape)))
        cells = np.random.default_rng(0).integers(0, metadata.grid.cells, (PROBES, *metadata.image_shape))
        self.floor = observed_floor(self.run, self._edges[cells])

    def run(self, images: Float32[np.ndarray, "batch channels height width"]) -> Float32[np.ndarray, "batch classes"]:
        """Return the logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails or the logits are not those of the metadata's classes.
        """
        logits = self._classifier.run(images)
        if logits.shape[1] != self.metadata.classes:
            raise VerifierError(f"expected {self.metadata.classes} logits, got {logits.shape[1]}")
        return logits

    def margins(
        self, cells: UInt8[np.ndarray, "batch channels height width"], labels: Int64[np.ndarray, "batch"]
    ) -> Float32[np.ndarray, "batch"]:
        """Return each label's logit minus the greatest other one on the cells; NaN where a logit is not finite.

        Raises:
            VerifierError: as `run`.
        """
        return read_logits(self.run(self._edges[cells]), labels).margin


def observed_floor(
    run: Callable[[np.ndarray], np.ndarray], probes: Float32[np.ndarray, "probes channels height width"]
) -> float:
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


@final
@dataclass(frozen=True, slots=True)
class Part:
    """All combinations of cells between two ends, of which it is to be decided whether they have one label.

    Args:
        lowest, highest: the ends of its reachable cells.
        label: the class that every combination should get.
        seconds: the time that it may take.
    """

    lowest: UInt8[np.ndarray, "channels height width"]
    highest: UInt8[np.ndarray, "channels height width"]
    label: int
    seconds: float


def undecided(margin: float, floor: float) -> str:
    """Return why a combination of cells leaves an image undecided."""
    if np.isnan(margin):
        return "a logit is not a finite number"
    if margin < -floor:
        return "a reachable combination of cells is mislabelled, but only rounding of the ball's ends reaches it"
    return f"a margin of {margin:.3g} is within the floor of {floor:.3g}, the logits' own differences between runs"


def combinations(
    lowest: UInt8[np.ndarray, "channels height width"],
    highest: UInt8[np.ndarray, "channels height width"],
    size: int,
) -> Iterator[UInt8[np.ndarray, "batch channels height width"]]:
    """Yield every combination of cells between two ends once, at most `size` at a time."""
    free = np.flatnonzero(lowest < highest)
    low, high = lowest.ravel(), highest.ravel()
    choices = [int(high[pixel]) - int(low[pixel]) + 1 for pixel in free]
    count = math.prod(choices)
    for start in range(0, count, size):
        number = np.arange(start, min(start + size, count), dtype=np.int64)
        cells = np.repeat(low[None], len(number), axis=0)
        for pixel, choice in zip(free, choices, strict=True):
            cells[:, pixel] += (number % choice).astype(np.uint8)
            number = number // choice
        yield cells.reshape(-1, *lowest.shape)
