"""What a batch of logits says of labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.data import DataSet

_AT_ONCE: Final = 250  # images


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


def unshown(margin: float) -> str:
    """Return why a margin that was seen is not enough where every order of the sums is asked for."""
    return f"a margin of {margin:.3g} is seen in this runtime; another order of the sums may undo it"


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


def accuracy(
    run: Callable[[np.ndarray], np.ndarray], data: DataSet, on_images: Callable[[int], object] = lambda _: None
) -> float:
    """Return the share of a data set's images whose largest logit is that of their label.

    Args:
        run: logits [batch, classes] of images on the pixel scale.
        data: the images.
        on_images: told how many more were run.
    """
    right = 0
    for batch in data.batches(_AT_ONCE):
        right += int((read_logits(run(data.pixels(batch.images)), batch.labels).prediction == batch.labels).sum())
        on_images(len(batch.labels))
    return right / len(data)
