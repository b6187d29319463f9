"""What a classifier that this project did not make does with a few images: is it a function of one image?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.blackbox import BlackBox
from abscert_plugin.errors import UnsupportedModelError, VerifierError

_SAME_ROW: Final = 1e-4  # of the largest logit: a backend sums in another order for another batch size


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """What was seen.

    Args:
        logits: of each probe image on its own.
        batch: the batch size that must be kept to, None where any will do.
        notes: what the user should know.
    """

    logits: Float32[np.ndarray, "images classes"]
    batch: int | None
    notes: tuple[str, ...]


def probe(
    classifier: BlackBox, inputs: Float32[np.ndarray, "images *feature"], path: Path, obstacle: str | None = None
) -> Probe:
    """Run a classifier on each input alone, one of them twice, and on all at once.

    Args:
        classifier: the classifier.
        inputs: what it is run on.
        path: its file, for messages.
        obstacle: what keeps it from being shown that images of a batch do not meet; None where it is shown.

    Raises:
        UnsupportedModelError: if it fails, has fewer than 2 classes, gives other bits for the same input, or mixes
            the images of the batch size that it demands.
    """
    try:
        logits = np.concatenate([classifier.run(inputs[index : index + 1]) for index in range(len(inputs))])
        again = classifier.run(inputs[:1])
    except VerifierError as error:
        raise UnsupportedModelError(
            f"{path} cannot be run on images [1, ...] of {inputs.shape[1:]}: {error}"
        ) from error
    if logits.shape[1] < 2:
        raise UnsupportedModelError(f"{path}: expected logits of 2 classes or more, got {logits.shape[1]}")
    if again.tobytes() != logits[:1].tobytes():
        raise UnsupportedModelError(
            f"{path} gives other logits for the same image when run again, so no verdict about it would hold; "
            "export it for inference"
        )
    batch, notes = _batch(classifier, inputs, logits, path, obstacle)
    if np.isnan(logits).any():
        notes += ("its logits are not numbers (NaN) on some images; verdicts about such cells will be unknown",)
    return Probe(logits, batch, notes)


def agree(logits: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Return whether all logits differ by at most `tolerance` of the largest logit of their row."""
    if logits.shape != expected.shape:
        return False
    sizes = np.abs(np.where(np.isfinite(expected), expected, 0)).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        close = np.abs(logits - expected) <= tolerance * sizes
    return bool((close | (logits == expected) | (np.isnan(logits) & np.isnan(expected))).all())


def _batch(
    classifier: BlackBox, inputs: np.ndarray, logits: np.ndarray, path: Path, obstacle: str | None
) -> tuple[int | None, tuple[str, ...]]:
    """Return the batch size that holds, and what to say about it."""
    declared = classifier.input_shape[0]
    if declared == 1:
        return 1, ("its batch is fixed to 1, so images are run one by one",)
    try:
        together = classifier.run(inputs)
        reason = "" if agree(together, logits, _SAME_ROW) else "gives other logits for images of a batch than alone"
    except VerifierError:
        reason = "cannot run a batch of images"
    if not reason and declared is None and obstacle is not None:
        return 1, (f"{obstacle}, although its batch is free: the batch is fixed to 1",)
    if not reason:
        return declared, ()
    if declared is not None:
        raise UnsupportedModelError(f"{path} {reason}, and demands batches of {declared}; export it with a batch of 1")
    return 1, (f"it {reason}, although it says that its batch is free: the batch is fixed to 1",)
