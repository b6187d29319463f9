"""The claim `cell`: one forward pass at phi(x) decides every image that lies in the same cells as x."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.errors import VerifierError
from abscert_plugin.grid import check_pixels
from abscert_plugin.records import SCHEMA_VERSION, Record
from abscert_plugin.verification.decision import ITSELF, Decided
from abscert_plugin.verification.logits import Answers, read_logits

_METHOD: Final = "forward"


@final
@dataclass(frozen=True, slots=True)
class CellDecider:
    """Decides images on the claim `cell`.

    Soundness: the network sees phi(x) alone (opening the file has made sure), and phi is equal for all images in the
    same cells, so one forward pass decides them all. Complete: x itself lies in its cells, so where x is mislabelled
    the claim is false. Ties, logits that are not numbers and a failing backend are `unknown`.

    Args:
        artifact: the ONNX file, with the input `image` or `interval`.

    Raises:
        UnsupportedModelError: if the file has no cells.

    Source: AbsCert paper, section 4.1; docs/METHOD.md on what it covers.
    """

    artifact: Artifact

    def __post_init__(self) -> None:
        self.artifact.cells  # noqa: B018 - raises where there are none

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
    ) -> list[Decided]:
        """Return the verdicts on a batch of images, in order.

        Args:
            images: pixels on the pixel scale [0, 1].
            labels: classes from 0.
            index: each image's place in its data set.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
            DataError: if the images do not have the file's shape, or a label lies outside its classes.
        """
        self.artifact.check_fit(images.shape[1:], labels)
        check_pixels(images)
        start = time.perf_counter()
        try:
            logits = self.artifact.run_images(images)
            if logits.shape[1] != self.artifact.metadata.classes:
                raise VerifierError(f"expected {self.artifact.metadata.classes} logits, got {logits.shape[1]}")
        except VerifierError as error:
            return [
                Decided(_record(int(place), int(label), -1, Verdict.UNKNOWN, str(error), float("nan"), 0.0))
                for place, label in zip(index, labels, strict=True)
            ]
        answers = read_logits(logits, labels)
        seconds = round((time.perf_counter() - start) / len(images), 9)
        return [Decided(record) for record in _rows(index, labels, answers, seconds)]


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
