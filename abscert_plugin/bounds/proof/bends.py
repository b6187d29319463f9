"""Sums of functions of one value, each of straight pieces: ParamRamp, leaky ReLUs and clips as they are written out.

Taken term by term, relu(x) - relu(x - 1) may lie anywhere between -r and r for |x| <= r, as if the terms had nothing to
do with one another, although it is between 0 and 1. Such a sum is recognised where it is

    y = sum_k c_k f_k(a_k x + b_k),

f_k being straight, or of straight pieces. Then y is of straight pieces too: between two ends of x it is least and most
at an end or at a bend of one of the f_k. That is found of the *ideal* x. What is computed in front of f_k differs from
a_k x + b_k by the error e_k of its chain, and f_k(...) is held as computed: so the ideal y, which goes on with its
chain as any sum does, lies within sum |c_k| d_k of that, d_k being how far f_k may be apart for inputs e_k apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Piecewise, Ramp
from abscert_plugin.bounds.proof.affine import Affine, Join, Shift
from abscert_plugin.bounds.proof.arithmetic import SINGLE
from abscert_plugin.bounds.proof.descent import Descent, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import Scale
from abscert_plugin.bounds.proof.nonlinear import Activation

_MOST_TERMS: Final = 16
_MOST_STEPS: Final = 32  # that a term, or a line, is made of: sums of sums, each read twice, would double at each
_OWN: Final = arithmetic.own_gamma(128)  # of a value: a few operations for each factor, bias and term


@final
@dataclass(frozen=True, slots=True)
class Line:
    """slope * x + offset of a value x; `size` bounds the sum of the absolute numbers that make the offset."""

    slope: Tensor
    offset: Tensor
    size: Tensor


_ONE: Final = torch.ones(()).double()
_NONE: Final = torch.zeros(()).double()
_ITSELF: Final = Line(_ONE, _NONE, _NONE)


@final
@dataclass(frozen=True, slots=True)
class Term:
    """factor * function(line of x); `read` is the name of what the function reads, both None where it is straight."""

    factor: Tensor
    line: Line
    function: Ramp | Piecewise | None = None
    read: str | None = None


@final
@dataclass(frozen=True, slots=True)
class BentSum(Step):
    """A sum of functions of one value, closer than its terms are by themselves; chains and rows go through it.

    Args:
        output: name of what it gives.
        total: name of the sum as any other.
        source: name of x.
        terms: of the sum.
    """

    is_closer: ClassVar[bool] = True
    output: str
    total: str
    source: str
    terms: tuple[Term, ...]

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.total, self.source, *dict.fromkeys(term.read for term in self.terms if term.read is not None))

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        made, value = values[self.total], values[self.source]
        lower, upper = value.lower, value.upper
        points = [lower, upper]
        for term in self.terms:
            for kink in () if term.function is None else term.function.kinks:
                point = ((kink - term.line.offset) / term.line.slope).nan_to_num(nan=torch.inf)
                points.append(torch.minimum(torch.maximum(point, lower), upper))
        found = [self.value(point) for point in points]
        room = self.room(values)
        least, most = torch.stack(found).amin(0) - room, torch.stack(found).amax(0) + room
        is_known = least.isfinite() & most.isfinite()
        return replace(
            made,
            lower=torch.where(is_known, torch.maximum(made.lower, least), made.lower),
            upper=torch.where(is_known, torch.minimum(made.upper, most), made.upper),
        )

    def value(self, points: Tensor) -> Tensor:
        """Return the sum where x lies at points, about: see `room`."""
        found = torch.zeros_like(points)
        for term in self.terms:
            entered = term.line.slope * points + term.line.offset
            found = found + term.factor * (entered if term.function is None else term.function.value(entered))
        return found

    def size(self, most: Tensor) -> Tensor:
        """Return a bound of the sum of the absolute terms, where x is up to `most`."""
        found = torch.zeros_like(most)
        for term in self.terms:
            entered = term.line.slope.abs() * most + term.line.size
            found = found + term.factor.abs() * (entered if term.function is None else term.function.size(entered))
        return found * (1 + _OWN)

    def room(self, values: Mapping[str, Enclosure]) -> Tensor:
        """Return how far the ideal sum may lie from what `value` gives for the ideal x; bends are found in float64."""
        lower, upper = values[self.source].lower, values[self.source].upper
        found = _OWN * self.size(torch.maximum(lower.abs(), upper.abs()))
        steepness = self.steepness(lower)
        for term in self.terms:
            if term.function is None or term.read is None:
                continue
            found = found + term.factor.abs() * _apart(term.function, values[term.read])
            for kink in term.function.kinks:
                off = _OWN * (abs(kink) + term.line.size) / term.line.slope.abs()
                found = found + steepness * torch.minimum(off.nan_to_num(nan=torch.inf), upper - lower)
        return found * (1 + _OWN) + arithmetic.underflow(1.0)

    def steepness(self, like: Tensor) -> Tensor:
        """Return a bound of its absolute slope."""
        found = torch.zeros_like(like)
        for term in self.terms:
            slope = (term.factor * term.line.slope).abs()
            found = found + (slope if term.function is None else slope * term.function.steepness(like))
        return found * (1 + _OWN)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.send(self.total, rows)


def _apart(function: Ramp | Piecewise, entered: Enclosure) -> Tensor:
    """Return how far what a function gives, computed, may lie from its value at the ideal input."""
    error, (lower, upper) = entered.error(), entered.computed()
    near = arithmetic.underflow(1.0) + (torch.zeros_like(lower) if error is None else error)
    return function.apart(near, lower, upper) * (1 + _OWN) + arithmetic.underflow(2.0)


def bent_sum(steps: Sequence[Step], output: str, total: Join) -> BentSum | None:
    """Return the step that brings a sum of two values closer, None where they are no functions of one.

    Args:
        steps: those before the sum.
        output: name of what is to be given.
        total: the sum.
    """
    if total.first == total.second:  # whose ends are as close
        return None
    known = {step.output: step for step in steps}
    for source, found in _terms_of(total, _Terms(known), _MOST_STEPS).items():
        if any(term.function is not None for term in found):
            return BentSum(output, total.output, source, tuple(found))
    return None


@final
@dataclass(frozen=True, slots=True)
class _Terms:
    """Terms of the values before a sum, each found once."""

    steps: Mapping[str, Step]
    found: dict[str, dict[str, list[Term]]] = field(default_factory=dict)

    def of(self, name: str, most: int) -> dict[str, list[Term]]:
        """Return the terms that a value is the sum of, by the name of each value that all of them are functions of.

        Args:
            name: of the value.
            most: how many steps to go back at most.
        """
        if name not in self.found:
            step, itself = self.steps.get(name), {name: [Term(_ONE, _ITSELF)]}
            self.found[name] = itself if step is None or not most else itself | _terms_of(step, self, most - 1)
        return self.found[name]


def _terms_of(step: Step, terms: _Terms, most: int) -> dict[str, list[Term]]:
    made = _all_terms_of(step, terms, most)
    return {name: found for name, found in made.items() if len(found) <= _MOST_TERMS}


def _all_terms_of(step: Step, terms: _Terms, most: int) -> dict[str, list[Term]]:
    if isinstance(step, BentSum):
        return {step.source: list(step.terms)}
    if isinstance(step, Join) and step.kind is SINGLE:
        first, second = terms.of(step.first, most), terms.of(step.second, most)
        sign = torch.tensor(float(step.sign)).double()
        return {
            name: [*first[name], *(replace(term, factor=term.factor * sign) for term in second[name])]
            for name in first
            if name in second
        }
    if isinstance(step, Activation) and isinstance(step.function, Ramp | Piecewise) and step.kind is SINGLE:
        lines = _lines(terms.steps, step.input)
        return {name: [Term(_ONE, line, step.function, step.input)] for name, line in lines.items()}
    factor = _factor(step)
    if factor is not None:
        assert isinstance(step, Affine)
        return {
            name: [replace(term, factor=term.factor * factor) for term in found]
            for name, found in terms.of(step.input, most).items()
        }
    bias = _bias(step)
    if bias is not None:
        assert isinstance(step, Shift)
        constant = Term(_ONE, Line(_NONE, bias, bias.abs()))
        return {
            name: [*(replace(term, factor=term.factor * step.sign) for term in found), constant]
            for name, found in terms.of(step.input, most).items()
        }
    return {}


def _lines(steps: Mapping[str, Step], name: str) -> dict[str, Line]:
    """Return the values that another one is a line of, itself first."""
    found, line = {name: _ITSELF}, _ITSELF
    for _ in range(_MOST_STEPS):
        step = steps.get(name)
        if step is None:
            break
        factor, bias = _factor(step), _bias(step)
        if isinstance(step, Affine) and factor is not None:
            line = Line(line.slope * factor, line.offset, line.size)
        elif isinstance(step, Shift) and bias is not None:
            shift = line.slope * bias
            line = Line(line.slope * step.sign, line.offset + shift, line.size + shift.abs())
        else:
            break
        name = step.input
        found[name] = line
    return found


def _factor(step: Step) -> Tensor | None:
    """Return what a step multiplies by, known exactly; None where it is another step."""
    is_factor = isinstance(step, Affine) and isinstance(step.map, Scale) and step.bias is None and step.kind is SINGLE
    if not is_factor:
        return None
    assert isinstance(step, Affine)
    return step.map.weights.center if step.map.weights.radius is None else None


def _bias(step: Step) -> Tensor | None:
    """Return what a step adds, known exactly; None where it is another step."""
    if not isinstance(step, Shift) or step.kind is not SINGLE:
        return None
    if step.bias is None:
        return _NONE
    return step.bias.lower if step.bias.is_point else None
