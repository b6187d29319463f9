"""From nonlinear nodes that rise with what they read to those of a guard: one function an operator."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from abscert_plugin.bounds.proof import functions
from abscert_plugin.bounds.proof.activations import Function
from abscert_plugin.bounds.proof.s_shaped import SIGMOID_ERROR, TANH_ERROR
from abscert_plugin.bounds.proof.smooth import Error, Smooth
from abscert_plugin.graph.walk import need
from abscert_plugin.guards import layers
from abscert_plugin.guards.affine_rules import fitted
from abscert_plugin.guards.values import Ends, Line, Rectified
from abscert_plugin.guards.walk import View

_MODERATE: Final = 1e6
_SLOPED: Final = 2.0**-21  # of one rounding of the file and some of the guard's own


def _relu(view: View) -> None:
    line = view.value()
    if isinstance(line, Line) and not view.walk.is_backward:
        made = layers.rectified_ends(view.emitter, line, view.fact)
        if made is not None:
            view.give(made)
            return
    value = view.ends()
    lower, upper = (view.emitter.node("Relu", [name]) for name in (value.lower, value.upper))
    origin = Rectified(line, value, view.shape_after) if isinstance(line, Line) and not line.moves else None
    view.give(Ends(lower, upper, value.power, view.fact.top, is_positive=True, origin=origin))


def _largest(view: View) -> None:
    value, attributes = view.ends(), view.node.attributes
    need(len([name for name in view.node.outputs if name]) == 1, "expected no indices")
    view.read.update(attributes)
    lower, upper = (view.emitter.copy(view.node.operator, attributes, [name]) for name in (value.lower, value.upper))
    view.give(Ends(lower, upper, value.power, view.fact.top, value.is_positive))


def _reduced_largest(view: View) -> None:
    axes, rank = view.integers("axes", 1), len(view.shape()) + 1
    need(bool(axes) and all(axis % rank for axis in axes or ()), "expected axes, and the images to stay apart")
    value, attributes, emitter = view.ends(), view.node.attributes, view.emitter
    more = [emitter.constant(view.array(place)) for place in range(1, len(view.node.inputs))]
    view.read.update(attributes)
    lower, upper = (emitter.copy("ReduceMax", attributes, [name, *more]) for name in (value.lower, value.upper))
    view.give(Ends(lower, upper, value.power, view.fact.top, value.is_positive))


def _clip(view: View) -> None:
    bounds: list[np.ndarray | None] = []
    for place, name in ((1, "min"), (2, "max")):
        given = view.array(place).reshape(-1) if view.has(place) else view.attribute(name, None)
        bounds.append(None if given is None else np.array(np.reshape(given, -1)[0], dtype=np.float32))
    if bounds == [None, None]:  # its chain goes on
        view.give(view.value())
        return
    value = layers.plain(view.emitter, view.ends())
    names = ["" if bound is None else view.emitter.constant(bound) for bound in bounds]
    lower, upper = (view.emitter.node("Clip", [name, *names]) for name in (value.lower, value.upper))
    least, most = bounds
    is_positive = value.is_positive or (least is not None and float(least) >= 0)
    is_positive &= most is None or float(most) >= 0
    view.give(Ends(lower, upper, 0, view.fact.top, is_positive))


def _leaky(view: View) -> None:
    """Give LeakyRelu or PRelu; a slope of 0 to 1 rises, and the file rounds once."""
    if view.node.operator == "PRelu":
        slopes = fitted(view, 1)
        more = [view.emitter.nearest(slopes)]
        attributes: Mapping[str, float] = {}
    else:
        alpha = float(view.attribute("alpha", 0.01))
        slopes, more, attributes = np.array(alpha), [], {"alpha": alpha}
    need(bool(((slopes >= 0) & (slopes <= 1)).all()), "expected slopes from 0 to 1")
    value, share = view.ends(), view.emitter.number(_SLOPED)
    ends = []
    for name, way in ((value.lower, "Sub"), (value.upper, "Add")):
        found = view.emitter.copy(view.node.operator, attributes, [name, *more])
        slack = view.emitter.node("Mul", [view.emitter.node("Abs", [found]), share])
        ends.append(view.emitter.node(way, [found, slack]))
    view.give(Ends(ends[0], ends[1], value.power, view.fact.top))


def _rising(made: Callable[[View], Error]) -> Callable[[View], None]:
    """Give a function that rises, which the file and the guard compute to within an error."""

    def rule(view: View) -> None:
        value, error, emitter = layers.plain(view.emitter, view.ends()), made(view), view.emitter
        fixed = emitter.number(2 * error.fixed * layers.OUTWARD + 2.0**-100)
        size = layers.size_of(emitter, value) if error.by_input else ""
        ends = []
        for name, way in ((value.lower, "Sub"), (value.upper, "Add")):
            found = emitter.copy(view.node.operator, view.node.attributes, [name])
            share = emitter.number(2 * error.share + _SLOPED)
            slack = emitter.node("Add", [emitter.node("Mul", [emitter.node("Abs", [found]), share]), fixed])
            if size:
                slack = emitter.node("Add", [slack, emitter.node("Mul", [size, emitter.number(2.5 * error.by_input)])])
            ends.append(emitter.node(way, [found, slack]))
        view.give(Ends(ends[0], ends[1], 0, view.fact.top))

    return rule


def _of(function: Function) -> Error:
    assert isinstance(function, Smooth)
    return function.error


def _elu(view: View) -> Error:
    alpha = float(view.attribute("alpha", 1.6732631921768188 if view.node.operator == "Selu" else 1.0))
    factor = float(view.attribute("gamma", 1.0507010221481323)) if view.node.operator == "Selu" else 1.0
    need(0 <= alpha < _MODERATE and 0 < factor < _MODERATE, "expected a function that rises")
    return _of(functions.elu(alpha, factor))


def _celu(view: View) -> Error:
    alpha = float(view.attribute("alpha", 1.0))
    need(1 / _MODERATE < alpha < _MODERATE, "expected a moderate alpha above 0")
    return _of(functions.celu(alpha))


def _hard_sigmoid(view: View) -> Error:
    alpha, beta = float(view.attribute("alpha", 0.2)), float(view.attribute("beta", 0.5))
    need(1 / _MODERATE < alpha < _MODERATE and abs(beta) < _MODERATE, "expected a moderate alpha above 0")
    return _of(functions.hard_sigmoid(alpha, beta))


RISING_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Celu": _rising(_celu),
        "Clip": _clip,
        "Elu": _rising(_elu),
        "Erf": _rising(lambda _: _of(functions.ERF)),
        "GlobalMaxPool": _largest,
        "HardSigmoid": _rising(_hard_sigmoid),
        "LeakyRelu": _leaky,
        "MaxPool": _largest,
        "PRelu": _leaky,
        "ReduceMax": _reduced_largest,
        "Relu": _relu,
        "Selu": _rising(_elu),
        "Sigmoid": _rising(lambda _: Error(fixed=SIGMOID_ERROR)),
        "Softplus": _rising(lambda _: _of(functions.SOFTPLUS)),
        "Softsign": _rising(lambda _: _of(functions.SOFTSIGN)),
        "Tanh": _rising(lambda _: Error(fixed=TANH_ERROR)),
    }
)
