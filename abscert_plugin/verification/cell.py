"""The claim `cell`: one forward pass at phi(x) decides every image that lies in the same cells as x."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.artifact.metadata import IMAGE, Metadata, PlainMetadata
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.errors import DataError, UnsupportedModelError, VerifierError
from abscert_plugin.grid import check_pixels
from abscert_plugin.records import SCHEMA_VERSION, Record
from abscert_plugin.verification.decision import ITSELF, Decided

_METHOD: Final = "forward"


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """What a batch of logits says.

    Args:
        prediction: the class with the greatest logit, -1 where a logit is not a finite number.
        margin: logit of the label minus the greatest other logit, NaN where a logit is not a finite number.
    """

    prediction: Int64[np.ndarray, "batch"]
    margin: Float32[np.ndarray, "batch"]


def read_logits(logits: Float32[np.ndarray, "batch classes"], labels: Int64[np.ndarray, "batch"]) -> Answers:
    """Return predictions and margins of a batch of logits."""
    rows = np.arange(len(labels))
    finite = np.isfinite(logits).all(axis=1)
    safe = np.where(finite[:, None], logits, np.float32(0))
    others = safe.copy()
    others[rows, labels] = -np.inf
    with np.errstate(over="ignore"):  # the difference of two finite logits may be infinite; its sign holds
        difference = safe[rows, labels] - others.max(axis=1)
    margin = np.where(finite, difference, np.float32(np.nan)).astype(np.float32)
    return Answers(np.where(finite, safe.argmax(axis=1), -1), margin)


@final
@dataclass(frozen=True, slots=True)
class CellDecider:
    """Decides images on the claim `cell`.

    Args:
        classifier: the ONNX file, with the input `image` or `interval`.
        metadata: what the file says of its grid and shape.
    """

    classifier: BlackBox
    metadata: Metadata

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The claim; it has no radius."""
        return {"claim": Claim.CELL.value, "radius": None, "radius_scale": None}

    @property
    def versions(self) -> Mapping[str, str]:
        """No library but onnxruntime takes part."""
        return {}

    def decide(
        self,
        images: Float32[np.ndarray, "batch channels height width"],
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> Sequence[Decided]:
        """Return the verdicts on a batch of images, as `verify_cells`."""
        return [Decided(record) for record in verify_cells(self.classifier, self.metadata, images, labels, index)]


def verify_cells(
    classifier: BlackBox,
    metadata: Metadata,
    images: Float32[np.ndarray, "batch channels height width"],
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
) -> list[Record]:
    """Return the verdict of each image on the claim `cell`.

    Soundness: the network sees phi(x) alone (`check_artifact` has made sure), and phi is equal for all images in the
    same cells, so one forward pass decides them all. Complete: x itself lies in its cells, so where x is mislabelled
    the claim is false. Ties, logits that are not numbers and a failing backend are `unknown`.

    Args:
        classifier: the ONNX file, with the input `image` or `interval`.
        metadata: what the file says of its grid and shape.
        images: pixels on the pixel scale [0, 1].
        labels: classes from 0.
        index: each image's place in its data set.

    Raises:
        GridError: if a pixel is NaN or lies outside [0, 1].
        DataError: if the images do not have the file's shape, or a label lies outside its classes.

    Source: AbsCert paper, section 4.1; design.md section 1 on what it covers.
    """
    check_fit(metadata, images.shape[1:], labels)
    check_pixels(images)
    start = time.perf_counter()
    grid = metadata.grid
    inputs = images if classifier.input_name == IMAGE else grid.interval_image(images)
    try:
        logits = classifier.run(inputs)
        if logits.shape[1] != metadata.classes:
            raise VerifierError(f"expected {metadata.classes} logits, got {logits.shape[1]}")
    except VerifierError as error:
        return [
            _record(int(place), int(label), -1, Verdict.UNKNOWN, str(error), float("nan"), 0.0)
            for place, label in zip(index, labels, strict=True)
        ]
    answers = read_logits(logits, labels)
    seconds = round((time.perf_counter() - start) / len(images), 9)
    return list(_rows(index, labels, answers, seconds))


def decide(margin: float) -> tuple[Verdict, str]:
    """Return the verdict and its reason for the label's margin on the one interval image of a cell."""
    if margin > 0:
        return Verdict.CERTIFIED, "the label has the greatest logit on the cell"
    if margin < 0:
        return Verdict.FALSIFIED, "the image itself is mislabelled"
    if margin == 0:
        return Verdict.UNKNOWN, "the greatest logits are equal"
    return Verdict.UNKNOWN, "a logit is not a finite number"


def _rows(
    index: Int64[np.ndarray, "batch"], labels: Int64[np.ndarray, "batch"], answers: Answers, seconds: float
) -> Iterator[Record]:
    columns = (index.tolist(), labels.tolist(), answers.prediction.tolist(), answers.margin.tolist())
    for place, label, prediction, margin in zip(*columns, strict=True):
        verdict, reason = decide(margin)
        yield _record(place, label, prediction, verdict, reason, margin, seconds)


def _record(
    index: int, label: int, prediction: int, verdict: Verdict, reason: str, margin: float, seconds: float
) -> Record:
    return Record(
        index=index,
        label=label,
        prediction=prediction,
        claim=Claim.CELL,
        radius=None,
        radius_scale=None,
        verdict=verdict,
        reason=reason,
        method=_METHOD,
        reachable_log2=0.0,
        margin=margin if math.isfinite(margin) else None,
        seconds=seconds,
        counterexample=ITSELF if verdict is Verdict.FALSIFIED else None,
        schema=SCHEMA_VERSION,
    )


def check_fit(metadata: Metadata | PlainMetadata, shape: tuple[int, ...], labels: Int64[np.ndarray, "batch"]) -> None:
    """Raise unless images of this shape and these labels fit an ONNX file.

    Raises:
        DataError: if the images do not have the file's shape, or a label lies outside its classes.
        UnsupportedModelError: if the file has fewer than two classes.
    """
    if metadata.classes < 2:
        raise UnsupportedModelError(f"expected a classifier of at least 2 classes, got {metadata.classes}")
    if shape != metadata.image_shape:
        raise DataError(f"expected images of shape {metadata.image_shape}, got {shape}; choose other --data")
    outside = (labels < 0) | (labels >= metadata.classes)
    if outside.any():
        raise DataError(
            f"expected labels from 0 to {metadata.classes - 1}, got {labels[outside][0]}; choose other --data"
        )
