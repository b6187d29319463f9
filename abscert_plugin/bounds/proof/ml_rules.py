"""From nodes of ai.onnx.ml, as skl2onnx writes them, to steps."""

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from abscert_plugin.bounds.proof.affine import Affine, Shift
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.constants import point, weights
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import Matrix, Scale
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.norms import NORMS
from abscert_plugin.bounds.proof.pairs import Ranged
from abscert_plugin.bounds.proof.s_shaped import SIGMOID
from abscert_plugin.bounds.proof.softmax import Softmax
from abscert_plugin.graph.walk import need


def _floats(view: View, name: str, default: Any, *shape: int) -> Enclosure:
    """Return an attribute as a constant; its numbers are float32."""
    numbers = np.array(view.attribute(name, default), dtype=np.float32)
    need(-1 in shape or numbers.size == prod(shape), f"expected {name} of shape {shape}, got {numbers.size} numbers")
    return point(numbers.reshape(shape))


def _scaler(view: View) -> None:
    """Give (x - offset) scale, each one number or one for each feature."""
    (features,) = _features(view)
    pair = _floats(view, "offset", [0.0], 1, -1), _floats(view, "scale", [1.0], 1, -1)
    need(all(one.lower.shape[1] in (1, features) for one in pair), f"expected numbers for {features} features")
    offset, scale = pair
    moved = view.walk.append(Shift(view.part(), view.name(), 1, offset.negated()))
    view.affine(moved, Scale(weights(scale)))


def _linear_classifier(view: View) -> None:
    """Give scores, the second output; the first one is the label."""
    (features,) = _features(view)
    for name in ("classlabels_ints", "classlabels_strings", "multi_class"):
        view.attribute(name, None)  # of the label alone
    intercepts = np.array(view.attribute("intercepts", []), dtype=np.float32)
    classes = len(intercepts)
    need(classes > 1, "expected a row of coefficients for each class")  # of one row, runtimes differ
    coefficients = _floats(view, "coefficients", [], classes, features)
    matrix = Matrix(weights(coefficients, lambda values: values.T.contiguous()))
    scores = view.walk.append(Affine(view.part(), view.name(), matrix, point(intercepts.reshape(1, -1))))
    transformed(view, scores, view.attribute("post_transform", b"NONE"), view.node.outputs[1])


def transformed(view: View, scores: str, kind: bytes, output: str) -> None:
    """Give what a post_transform makes of scores, [batch, classes]."""
    if kind == b"SOFTMAX":
        view.walk.append(Softmax(output, scores, (1,)))
    elif kind == b"LOGISTIC":
        view.walk.append(Activation(output, scores, SIGMOID))
    else:
        need(kind == b"NONE", f"expected another post_transform than {kind!r}")
        view.move(scores, lambda values: values, output)


def _normalizer(view: View) -> None:
    """Give x / |x| for each row, where |x| is its largest entry, or the sum or root of squares of all."""
    _features(view)
    kind = view.attribute("norm", b"MAX")
    need(kind in NORMS, f"expected norm = MAX, L1 or L2, got {kind!r}")
    view.walk.append(Ranged(view.output, (view.name(),), NORMS[kind]))


def _features(view: View) -> tuple[int, ...]:
    need(len(view.shape()) == 1, f"expected features, got the shape {view.shape()}")
    return view.shape()


ML_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "ai.onnx.ml.LinearClassifier": _linear_classifier,
        "ai.onnx.ml.Normalizer": _normalizer,
        "ai.onnx.ml.Scaler": _scaler,
    }
)
