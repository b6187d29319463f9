"""What the answer of a classifier of others means: held against what else the file says, on a few images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from abscert_plugin.errors import UnsupportedModelError

_INERT: Final = (
    *("Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"),
    *("Transpose", "Unsqueeze"),
)
THRESHOLD: Final = 0.5  # of a probability of the second of two classes


def is_probability(graph: onnx.GraphProto, name: str) -> bool:
    """Return whether a Sigmoid gives the values of a tensor."""
    makers = {output: node for node in graph.node for output in node.output}
    while name in makers and makers[name].op_type in _INERT:
        name = makers[name].input[0]
    return name in makers and makers[name].op_type == "Sigmoid"


def need_score(name: str, answers: Sequence[np.ndarray], path: Path) -> None:
    """Raise UnsupportedModelError if a single number of each image is no score that changes its sign with the class.

    Args:
        name: of the output, which no Sigmoid gives.
        answers: what it gave for some images.
        path: the file, for messages.
    """
    values = np.concatenate([answer.reshape(-1) for answer in answers])
    if bool(((values >= 0) & (values <= 1)).all()) or bool((values == np.rint(values)).all()):
        raise UnsupportedModelError(
            f"{path}: its answer {name!r} is one number for each image, which looks like a probability or a label, and "
            "no Sigmoid tells that it is one; give out the score before it, or name that output with --output"
        )


def need_own_labels(name: str, runs: Sequence[dict[str, np.ndarray]], second_above: float, path: Path) -> None:
    """Raise UnsupportedModelError if an output of labels says other classes than the scores that were chosen.

    Args:
        name: of the scores.
        runs: what all outputs gave for some images.
        second_above: of one score, above which the class is the second of two.
        path: the file, for messages.
    """
    for run in runs:
        for other, given in run.items():
            if other == name or given.dtype.kind not in "iu" or not given.size or run[name].size % given.size:
                continue
            scores = run[name].reshape(given.size, -1)
            found = scores.argmax(axis=1) if scores.shape[1] > 1 else scores[:, 0] > second_above
            if (given.reshape(-1) != found).any():
                raise UnsupportedModelError(
                    f"{path}: its output {other!r} gives other labels than the largest of {name!r}; name the output of "
                    "scores with --output: their places are the classes"
                )
