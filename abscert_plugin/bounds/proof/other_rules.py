"""From nonlinear ONNX nodes of one entry each to steps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from abscert_plugin.bounds.proof.activations import RELU, Function, Piecewise
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.s_shaped import SIGMOID, TANH
from abscert_plugin.graph.walk import need


def _activation(function: Function) -> Callable[[View], None]:
    def rule(view: View) -> None:
        view.walk.append(Activation(view.output, view.name(), function))

    return rule


def _leaky_relu(view: View) -> None:
    alpha = float(view.attribute("alpha", 0.01))
    need(bool(np.isfinite(alpha)), "expected a finite alpha")
    _activation(Piecewise((0.0,), (alpha, 1.0), roundings=2))(view)


def _p_relu(view: View) -> None:
    slope = view.constant(1)
    need(slope.is_point, "expected slopes that are not computed")
    given, rank = tuple(slope.lower.shape), len(view.shape()) + 1
    need(len(given) < rank or (len(given) == rank and given[0] == 1), "expected the same slopes for all images")
    full = slope.lower.reshape((1,) * (rank - len(given)) + given)
    need(np.broadcast_shapes(full.shape[1:], view.shape()) == view.shape(), "expected slopes that fit the input")
    _activation(Piecewise((0.0,), (full, 1.0), roundings=2))(view)


def _clip(view: View) -> None:
    ends = []
    for place, name in ((1, "min"), (2, "max")):
        end: float | None = None
        if view.has(place):
            end = float(view.array(place).reshape(-1)[0])
        elif view.attribute(name, None) is not None:
            end = float(view.attribute(name, None))
        need(end is None or bool(np.isfinite(end)), "expected finite ends")
        ends.append(end)
    least, most = ends
    need(least is None or most is None or least < most, f"expected min < max, got {least} and {most}")
    bends = tuple(end for end in ends if end is not None)
    slopes = (*([] if least is None else [0.0]), 1.0, *([] if most is None else [0.0]))
    if bends:
        _activation(Piecewise(bends, slopes, bends[0]))(view)
    else:
        view.moved(lambda values: values)


OTHER_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Clip": _clip,
        "LeakyRelu": _leaky_relu,
        "PRelu": _p_relu,
        "Relu": _activation(RELU),
        "Sigmoid": _activation(SIGMOID),
        "Tanh": _activation(TANH),
    }
)
