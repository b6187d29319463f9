"""The claim `cell`: one forward pass at phi(x) decides every image that lies in the same cells as x."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.claim import Arithmetic, Claim, Verdict
from abscert_plugin.errors import ConfigError, UnsupportedModelError, VerifierError
from abscert_plugin.grid import check_pixels
from abscert_plugin.records import FORWARD, SCHEMA_VERSION, Record
from abscert_plugin.verification.decision import ITSELF, Decided
from abscert_plugin.verification.logits import Answers, read_logits, unshown


@final
@dataclass(frozen=True, slots=True)
class CellDecider:
    """Decides images on the claim `cell`.

    Soundness: the network sees phi(x) alone (opening the file has made sure), and phi is equal for all images in the
    same cells, so one forward pass decides them all. Complete: x itself lies in its cells, so where x is mislabelled
    the claim is false. Ties, logits that are not numbers and a failing backend are `unknown`.

    Args:
        artifact: the ONNX file, with the input `image` or `interval`.
        prove: returns lower bounds of the labels' margins on the cells of images that every evaluation in float32
            keeps, given the margins that were seen: `certified` asks for one above 0. None asks for this runtime alone.
        arithmetic: what `prove` proves them for.

    Raises:
        UnsupportedModelError: if the file has no cells.

    Source: AbsCert paper, section 4.1; docs/METHOD.md on what it covers.
    """

    artifact: Artifact
    prove: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    arithmetic: Arithmetic = Arithmetic.THIS_RUNTIME

    def __post_init__(self) -> None:
        self.artifact.cells  # noqa: B018 - raises where there are none

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The claim; it has no radius."""
        return {"claim": Claim.CELL.value, "radius": None, "radius_scale": None, "arithmetic": str(self.arithmetic)}

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
        proven: Bool[np.ndarray, "batch"] | None = None
        if self.prove is not None:
            proven, right = answers.margin > 0, np.flatnonzero(answers.margin > 0)
            proven[right] = self.prove(images[right], labels[right], answers.margin[right]) > 0
        seconds = round((time.perf_counter() - start) / len(images), 9)
        return [Decided(record) for record in _rows(index, labels, answers, proven, self.arithmetic, seconds)]


def open_cells(artifact: Artifact, arithmetic: Arithmetic | None) -> tuple[CellDecider, str]:
    """Return what decides the claim `cell`, and why for this runtime alone where nobody asked for that.

    Args:
        artifact: the ONNX file.
        arithmetic: what verdicts are to hold for; None: any order where the graph can be read, else this runtime.

    Raises:
        UnsupportedModelError: if the file has no cells, or any order was asked for and its graph cannot be read.
        ConfigError: if any order was asked for and torch, which proves it, is not installed.
    """
    if arithmetic is Arithmetic.THIS_RUNTIME:
        return CellDecider(artifact), ""
    try:
        # torch is imported here: cells are decided without it where it is not installed, or not needed
        from abscert_plugin.verification.proving import Prover

        prover, cells = Prover(artifact, arithmetic), artifact.cells
    except (UnsupportedModelError, ImportError) as error:
        if arithmetic is None:
            return CellDecider(artifact), f"verdicts hold for this runtime alone: {error}"
        if isinstance(error, ImportError):
            raise ConfigError(f"expected torch for --arithmetic any-order, which proves it: {error}") from error
        raise

    def prove(images: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return prover.at_points(cells.cell(images), labels, seen, prover.lines_at_points)

    return CellDecider(artifact, prove, prover.arithmetic), ""


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
    index: Int64[np.ndarray, "batch"],
    labels: Int64[np.ndarray, "batch"],
    answers: Answers,
    proven: Bool[np.ndarray, "batch"] | None,
    shown: Arithmetic,
    seconds: float,
) -> Iterator[Record]:
    columns = (index.tolist(), labels.tolist(), answers.prediction.tolist(), answers.margin.tolist())
    for row, (place, label, prediction, margin) in enumerate(zip(*columns, strict=True)):
        verdict, reason = decide(margin)
        arithmetic = None if verdict is Verdict.UNKNOWN else Arithmetic.THIS_RUNTIME
        if verdict is Verdict.CERTIFIED and proven is not None:
            arithmetic = shown if proven[row] else None
            if not proven[row]:
                verdict, reason = Verdict.UNKNOWN, unshown(margin)
        yield _record(place, label, prediction, verdict, reason, margin, seconds, arithmetic)


def _record(
    index: int,
    label: int,
    prediction: int,
    verdict: Verdict,
    reason: str,
    margin: float,
    seconds: float,
    arithmetic: Arithmetic | None = None,
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
        method=FORWARD,
        reachable_log2=0.0,
        margin=margin if math.isfinite(margin) else None,
        seconds=seconds,
        counterexample=ITSELF if verdict is Verdict.FALSIFIED else None,
        arithmetic=arithmetic,
        schema=SCHEMA_VERSION,
    )
