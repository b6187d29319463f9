"""From nonlinear ONNX nodes of one entry to steps."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from abscert_plugin.bounds.proof import functions
from abscert_plugin.bounds.proof.activations import Function
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.graph.walk import need


def _function(made: Function) -> Callable[[View], None]:
    return lambda view: give(view, made)


def give(view: View, function: Function) -> None:
    """Give a function of what the node reads first."""
    view.walk.append(Activation(view.output, view.name(), function))


def number(view: View, name: str, default: float) -> float:
    """Return an attribute, which has to be a finite number."""
    found = float(view.attribute(name, default))
    need(math.isfinite(found), f"expected a finite {name}")
    return found


def _gelu(view: View) -> None:
    kind = view.attribute("approximate", b"none")
    need(kind in (b"none", b"tanh"), f"expected approximate = none or tanh, got {kind!r}")
    give(view, functions.GELU if kind == b"none" else functions.GELU_TANH)


def _elu(view: View) -> None:
    give(view, functions.elu(number(view, "alpha", 1.0)))


def _selu(view: View) -> None:
    alpha, gamma = number(view, "alpha", 1.6732631921768188), number(view, "gamma", 1.0507010221481323)
    give(view, functions.elu(alpha, gamma))


def _celu(view: View) -> None:
    alpha = number(view, "alpha", 1.0)
    need(1e-6 < alpha < 1e6, f"expected a moderate alpha above 0, got {alpha}")
    give(view, functions.celu(alpha))


def _hard_sigmoid(view: View) -> None:
    alpha, beta = number(view, "alpha", 0.2), number(view, "beta", 0.5)
    need(1e-6 < abs(alpha) < 1e6 and abs(beta) < 1e6, f"expected a moderate alpha and beta, got {alpha} and {beta}")
    give(view, functions.hard_sigmoid(alpha, beta))


def _hard_swish(view: View) -> None:
    give(view, functions.HARD_SWISH)


def _swish(view: View) -> None:
    alpha = number(view, "alpha", 1.0)
    need(1e-6 < abs(alpha) < 1e6, f"expected a moderate alpha other than 0, got {alpha}")
    give(view, functions.swish(alpha))


def _thresholded(view: View) -> None:
    give(view, functions.cut_off(number(view, "alpha", 1.0)))


def _shrink(view: View) -> None:
    limit, shift = number(view, "lambd", 0.5), number(view, "bias", 0.0)
    need(limit >= 0, f"expected lambd of at least 0, got {limit}")
    give(view, functions.cut_off(limit, shift, below=True))


SMOOTH_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Abs": _function(functions.ABS),
        "Ceil": _function(functions.CEIL),
        "Celu": _celu,
        "Cos": _function(functions.COS),
        "Elu": _elu,
        "Erf": _function(functions.ERF),
        "Exp": _function(functions.EXP),
        "Floor": _function(functions.FLOOR),
        "Gelu": _gelu,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _hard_swish,
        "Log": _function(functions.LOG),
        "Mish": _function(functions.MISH),
        "Reciprocal": _function(functions.RECIPROCAL),
        "Round": _function(functions.ROUND),
        "Selu": _selu,
        "Shrink": _shrink,
        "Sign": _function(functions.SIGN),
        "Sin": _function(functions.SIN),
        "Softplus": _function(functions.SOFTPLUS),
        "Softsign": _function(functions.SOFTSIGN),
        "Sqrt": _function(functions.SQRT),
        "Swish": _swish,
        "Tan": _function(functions.TAN),
        "ThresholdedRelu": _thresholded,
    }
)
