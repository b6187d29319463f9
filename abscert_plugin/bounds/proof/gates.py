"""Products of a value and a sigmoid, tanh or erf of the same value: Swish, and Gelu as it is written out.

Taken for a product of two values they would leave much room, since the factors rise and fall together. A product
a v is recognised where a = A x, v = P g(q x) + C, all by single numbers, with C = 0 for a sigmoid and C = P for tanh or
erf. In real numbers it is then K B(k x), where B is Swish or Gelu:

    t sigmoid(t) = swish(t);   t (1 + tanh t) = swish(2 t);   t (1 + erf t) = sqrt(2) gelu(sqrt(2) t).

Its chain goes through: x is the *ideal* value, and what is computed lies within

    e_a (|v| + e_v) + |A P / q| (T + G e_t) e_t + |a| e_v + gamma(4) (|a| + e_a)(|v| + e_v)

of it, e being errors of a, of t = q x, of g itself and of v's chain, e_v of the last two, G the largest slope of g and
T the largest |t g'(t)|. A reciprocal q is known to a share d alone, which adds |A P / q| d / 2, as t^2 g'(t) < 1 / 2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic, functions
from abscert_plugin.bounds.proof.activations import Function
from abscert_plugin.bounds.proof.affine import Affine, Shift
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.descent import Descent, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import OFF, Scale
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.s_shaped import SIGMOID, SIGMOID_ERROR, TANH, TANH_ERROR
from abscert_plugin.bounds.proof.smooth import Error, Smooth, turning, within


@final
@dataclass(frozen=True, slots=True)
class _Kind:
    """A function g that gates, and what t (C / P + g(t)) is of a `base` function.

    Args:
        base: the function B.
        height, rate: t (C / P + g(t)) = height * B(rate * t).
        bend: bound of |B''|.
        turn: where B turns.
        offset: C / P.
        slope: largest slope of g.
        leaning: bound of |t g'(t)|.
        error: of a computed g.
    """

    base: Smooth
    height: float
    rate: float
    bend: float
    turn: float
    offset: float
    slope: float
    leaning: float
    error: float


_SWISH_TURN: Final = -1.2784645427610738
_GELU_TURN: Final = -0.7517915246935645
_ROOT: Final = math.sqrt(2)
_KINDS: Final[Sequence[tuple[Function, _Kind]]] = (
    (SIGMOID, _Kind(functions.SWISH, 1.0, 1.0, 0.5, _SWISH_TURN, 0.0, 0.25, 0.2241, SIGMOID_ERROR)),
    (TANH, _Kind(functions.SWISH, 1.0, 2.0, 0.5, _SWISH_TURN, 1.0, 1.0, 0.4478, TANH_ERROR)),
    (functions.ERF, _Kind(functions.GELU, _ROOT, _ROOT, 0.7979, _GELU_TURN, 1.0, 1.1284, 0.4840, functions.ERF_ERROR)),
)


@final
@dataclass(frozen=True, slots=True)
class Gate(Step):
    """K B(k x), computed as a product of a = A x and v = P g(q x) + C.

    Args:
        output: name of what it gives.
        source: name of x.
        factor, inner, gate: names of a, of t = q x and of v.
        function: K B(k x), exact.
        kind: of g.
        share: |P|.
        height: |A P / q|.
    """

    is_curved: ClassVar[bool] = True
    ends_chains: ClassVar[bool] = True
    output: str
    source: str
    factor: str
    inner: str
    gate: str
    function: Smooth
    kind: _Kind
    share: float
    height: float

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.source, self.factor, self.inner, self.gate)

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        value, error = values[self.source], self._error(values)
        least, most = self.function.interval(value.lower, value.upper)
        return held(least - error, most + error)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        value = descent.values[self.source]
        lower, upper = value.lower, value.upper
        below, above = self.function.slopes(lower, upper)
        start, end = self.function.offsets(lower, upper, below, above)
        error = self._error(descent.values)
        is_positive = rows > 0
        terms = rows * torch.where(is_positive, (start - error).unsqueeze(1), (end + error).unsqueeze(1))
        sent = rows * torch.where(is_positive, below.unsqueeze(1), above.unsqueeze(1))
        descent.add(terms.flatten(2).sum(2))
        descent.account(terms.abs(), torch.ones_like(lower))
        descent.account(sent, value.magnitude)
        descent.send(self.source, sent)

    def _error(self, values: Mapping[str, Enclosure]) -> Tensor:
        factor, gate = values[self.factor], values[self.gate]
        of_factor, of_inner, of_gate = (_error_of(values[name]) for name in (self.factor, self.inner, self.gate))
        size = torch.maximum(factor.lower.abs(), factor.upper.abs())
        of_gate = of_gate + self.share * self.kind.error
        tall = torch.maximum(gate.lower.abs(), gate.upper.abs()) + of_gate
        moved = self.height * ((self.kind.leaning + self.kind.slope * of_inner) * of_inner + OFF / 2)
        rounded = arithmetic.gamma(4) * (size + of_factor) * tall
        flushed = arithmetic.underflow(8.0) * (1 + size + tall)
        return (of_factor * tall + moved + size * of_gate + rounded + flushed) * (1 + 2.0**-20)


def _error_of(value: Enclosure) -> Tensor:
    error = value.error()
    return torch.zeros_like(value.lower) if error is None else error


def gate_of(view: View) -> bool:
    """Give the product of a node's two values as a `Gate` where it is one, and return whether it is."""
    steps = {step.output: step for step in view.walk.steps}
    for place in (0, 1):
        factor, gate = view.node.inputs[place], view.node.inputs[1 - place]
        root, share, offset = _lines(steps, gate)[-1]
        curve = steps.get(root)
        kind = _kind_of(curve.function) if isinstance(curve, Activation) else None
        if kind is None or not share or offset != share * kind.offset:
            continue
        assert isinstance(curve, Activation)
        lines = {name: (slope, shift) for name, slope, shift in _lines(steps, factor)}
        for source, rate, shift in _lines(steps, curve.input):
            scale, other_shift = lines.get(source, (0.0, 0.0))
            if not shift and not other_shift and rate and scale:
                height = scale * share / rate
                function = _scaled(kind, height * kind.height, rate * kind.rate)
                parts = (source, factor, curve.input, gate)
                view.walk.append(Gate(view.output, *parts, function, kind, abs(share), abs(height)))
                return True
    return False


def _kind_of(function: Function) -> _Kind | None:
    return next((kind for known, kind in _KINDS if known is function), None)


def _lines(steps: Mapping[str, Step], name: str) -> list[tuple[str, float, float]]:
    """Return the values that another one is a line of by single numbers, itself first, with slopes and offsets."""
    slope, offset = 1.0, 0.0
    found = [(name, slope, offset)]
    while True:
        step = steps.get(name)
        if isinstance(step, Affine) and isinstance(step.map, Scale) and step.bias is None:
            weights = step.map.weights
            number = _single(weights.center) if weights.are_numbers else None
            slope *= number or 0.0
        elif isinstance(step, Shift) and (step.bias is None or step.bias.is_point):
            number = 0.0 if step.bias is None else _single(step.bias.lower)
            slope, offset = slope * step.sign, offset + slope * (number or 0.0)
        else:
            return found
        if number is None:
            return found
        name = step.input
        found.append((name, slope, offset))


def _single(values: Tensor) -> float | None:
    """Return the number that all entries are, None where they differ."""
    first = float(values.flatten()[0])
    return first if bool((values == first).all()) and math.isfinite(first) else None


def _scaled(kind: _Kind, height: float, rate: float) -> Smooth:
    """Return height * B(rate * x)."""

    def value(points: Tensor) -> Tensor:
        return height * kind.base.value(rate * points)

    def bend(lower: Tensor, _: Tensor) -> Tensor:
        return torch.full_like(lower, abs(height) * rate * rate * kind.bend * (1 + 2.0**-40))

    own = 16 * (1 + abs(height * rate) + abs(height))  # numbers of a chain are rounded in float64 as well
    most = 1e30 / max(1.0, abs(rate), abs(height))  # beyond, products on the way might overflow in some order
    return Smooth(value, bend, Error(), turning(value, kind.turn / rate), known=within(-most, most), own=own)
