"""Proving that nothing in a box satisfies a case: constraints on outputs as rows of a proof, with what rounding does.

A case is refuted on a box where each of its conjunctions holds a constraint that no output of the box satisfies, or one
of its constraints on inputs is satisfied nowhere in it. A conjunction is refuted too where a sum of its linear
constraints, each times a weight of at least 0, is satisfied by no output of the box.

**Readings.** A query about float32 may be read in exact rationals, or with its decimals and sums rounded to float32.
What is refuted here is refuted in both: a constraint of k roundings is loosened by gamma(k) of its absolute terms. It
says nothing of outputs so large that something in it may overflow, or of numbers that float32 holds as subnormals.

**Real arithmetic.** Enclosures of `bounds/proof` hold every evaluation of the file in float32. They hold the exact
results of its graph as well, by induction along the graph: at each chain these satisfy the theorem's inequality with no
error at all, and what a nonlinear node gives for an exact value between the ends lies between the ends that its rule
gives, since errors only widen these. So what is refuted for all evaluations in float32 over a box with ends rounded
outward is refuted for the network as a function of real numbers.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, takewhile
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof, arithmetic
from abscert_plugin.bounds.proof.descent import Part
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.query.formula import Atom
from abscert_plugin.query.query import Case
from abscert_plugin.query.terms import Linear, Number, Operation, Term

METHODS: Final = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
_HUGE: Final = Fraction(2) ** 1000
_TOO_MANY: Final = 10**6  # roundings
_FITS: Final = Fraction(2) ** 127  # float32 holds what is less, after roundings too
_LEAST: Final = Fraction(1, 2**126)  # the least normal number
_TINY: Final = 1e-300  # more than what underflows in float64 adds up to, over any number of constraints


@final
class Refuter:
    """What refutes a case, box by box.

    Args:
        proof: of the network.
        case: the case.
        is_real: whether the query is about real numbers, so that nothing in it is rounded.
    """

    def __init__(self, proof: Proof, case: Case, is_real: bool) -> None:
        self._proof = proof
        self._inputs = case.inputs
        classes = proof.classes
        rows: dict[bytes, int] = {}
        found: list[np.ndarray] = []
        limits: list[_Limit] = []
        self._linear: list[list[int]] = []  # of each conjunction, places among the limits
        self._others: list[list[Atom]] = []  # and its constraints that ends of outputs may refute
        for conjunction in case.outputs:
            places, others = [], []
            for atom in conjunction:
                limit = _Limit.of(atom, classes, is_real)
                if limit is None or _is_plain(atom):
                    others.append(atom)
                if limit is None:
                    continue
                row = rows.setdefault(limit.row.tobytes(), len(found))
                if row == len(found):
                    found.append(limit.row)
                limit.place = row
                places.append(len(limits))
                limits.append(limit)
            self._linear.append(places)
            self._others.append(others)
        shape = (0, classes)
        self.rows = torch.from_numpy(np.stack(found) if found else np.zeros(shape))
        self._places = torch.tensor([limit.place for limit in limits], dtype=torch.int64)
        self._bounds = torch.tensor([limit.bound for limit in limits], dtype=torch.float64)
        self._slack = torch.from_numpy(np.stack([limit.slack for limit in limits]) if limits else np.zeros(shape))
        self._reach = torch.tensor([limit.reach for limit in limits], dtype=torch.float64)

    @property
    def is_linear(self) -> bool:
        """Whether there is a row to be bounded."""
        return bool(len(self.rows))

    @property
    def conjunctions(self) -> int:
        """How many conjunctions there are."""
        return len(self._linear)

    @property
    def limits(self) -> int:
        """How many linear constraints there are in all conjunctions."""
        return len(self._places)

    @property
    def combinable(self) -> int:
        """How many linear constraints a sum of them may have: 0 where there is more than one conjunction, or none."""
        return len(self._places) if len(self._linear) == 1 and len(self._places) > 1 else 0

    def intervals(self, lower: Tensor, upper: Tensor, refined: bool) -> dict[str, Enclosure]:
        """Return enclosures over boxes, [batch, entries] in float64."""
        shape = self._proof.input_shape
        return self._proof.intervals(
            lower.reshape(len(lower), *shape), upper.reshape(len(upper), *shape), refined=refined
        )

    def bounds(self, values: Mapping[str, Enclosure], method: BoundMethod) -> Float64[Tensor, "batch row"]:
        """Return lower bounds of the rows."""
        rows = self._repeated(values)
        if not self.is_linear:
            return torch.zeros((len(rows), 0), dtype=torch.float64)
        return self._proof.lower_bounds(values, rows, method)

    def explained(
        self, values: Mapping[str, Enclosure], part: Part | None = None
    ) -> tuple[Float64[Tensor, "batch row"], dict[str, Tensor]]:
        """Return lower bounds of the rows by linear bounds, and what these depend on."""
        return self._proof.explained_bounds(values, self._repeated(values), part)

    def _repeated(self, values: Mapping[str, Enclosure]) -> Tensor:
        batch = len(values[self._proof.output].lower)
        return self.rows.unsqueeze(0).expand(batch, -1, -1)

    def room(self, values: Mapping[str, Enclosure], bounds: Tensor) -> Float64[Tensor, "batch limit"]:
        """Return by how much the bounds pass each limit: above 0, no output satisfies the constraint."""
        return bounds[:, self._places] - self.most(values)

    def most(self, values: Mapping[str, Enclosure]) -> Float64[Tensor, "batch limit"]:
        """Return the most that the row of each limit may be where an output of the boxes satisfies its constraint."""
        output = values[self._proof.output]
        limits = _loosened(self._bounds, self._slack, output)
        return torch.where(self._in_reach(output), limits, torch.inf)

    def _in_reach(self, output: Enclosure) -> Bool[Tensor, "batch limit"]:
        """Return of each box whether its outputs are so small that nothing in a constraint overflows."""
        return output.size().flatten(1).amax(1, keepdim=True) <= self._reach

    def combined(
        self, values: Mapping[str, Enclosure], weights: Float64[Tensor, "batch limit"], part: Part | None = None
    ) -> Bool[Tensor, "batch"]:
        """Return the boxes in which no output satisfies the sum of the linear constraints of the one conjunction.

        Args:
            values: enclosures over the boxes.
            weights: of each box, finite and at least 0, as many as `combinable` says.
            part: ends of what ReLUs read, as in `explained`.
        """
        rows, terms = self.rows[self._places], len(self._places)
        lost = arithmetic.own_gamma(terms + 4)
        size, most = weights @ rows.abs(), weights @ self._bounds.abs()
        slack = (weights @ self._slack) * (1 + lost) + lost * size + _TINY
        limit = weights @ self._bounds + (lost * most + _TINY)
        row = (weights @ rows).unsqueeze(1)
        bound, _ = self._proof.explained_bounds(values, row, part)
        output = values[self._proof.output]
        room = (bound - _loosened(limit.unsqueeze(1), slack.unsqueeze(1), output)).squeeze(1)
        return (room > 0) & self._in_reach(output).all(dim=1)

    def refuted(
        self, values: Mapping[str, Enclosure], bounds: Float64[Tensor, "batch row"]
    ) -> Bool[Tensor, "batch conjunction"]:
        """Return which conjunctions no output of each box satisfies.

        Args:
            values: enclosures over the boxes.
            bounds: lower bounds of the rows there.
        """
        room = self.room(values, bounds)
        passed = room > 0  # of two float64 numbers that differ, the difference has the right sign
        found = torch.zeros((len(bounds), len(self._linear)), dtype=torch.bool)
        ends = None
        for place, (linear, others) in enumerate(zip(self._linear, self._others, strict=True)):
            if linear:
                found[:, place] = passed[:, linear].any(dim=1)
            for atom in others:
                if ends is None:
                    low, high = values[self._proof.output].computed()
                    ends = low.numpy(), high.numpy()
                found[:, place] |= torch.from_numpy(atom.fails_between(ends, ends))
        return found

    def refuted_inputs(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "batch"]:
        """Return the boxes in which no input satisfies the constraints on inputs."""
        ends = lower.numpy(), upper.numpy()
        found = np.zeros(len(lower), dtype=bool)
        for atom in self._inputs:
            found |= atom.fails_between(ends, ends)
        return torch.from_numpy(found)

    def worst(self, room: Tensor, refuted: Tensor) -> tuple[Tensor, Tensor]:
        """Return of each box the limit that is nearest to refuting its hardest conjunction, and by how much it fails.

        Args:
            room: what `room` returned.
            refuted: what `refuted` returned.
        """
        if not room.shape[1]:
            return torch.zeros(len(room), dtype=torch.int64), torch.full((len(room),), -torch.inf, dtype=torch.float64)
        best = torch.full(refuted.shape, -torch.inf, dtype=torch.float64)
        where = torch.zeros(refuted.shape, dtype=torch.int64)
        for place, linear in enumerate(self._linear):
            if linear:
                found, chosen = room[:, linear].max(dim=1)
                best[:, place], where[:, place] = found, torch.tensor(linear)[chosen]
        best = torch.where(refuted, torch.inf, best)
        least, hardest = best.min(dim=1)
        return where.gather(1, hardest.unsqueeze(1)).squeeze(1), least

    def row_of(self, limits: Tensor) -> Tensor:
        """Return the places of the rows that limits are of."""
        return self._places[limits] if len(self._places) else torch.zeros_like(limits)


@final
class _Limit:
    """A linear constraint row @ y <= bound, as float64 numbers that it implies.

    Args:
        row: coefficients.
        bound: the right side, rounded up, and loosened by what does not depend on y.
        slack: what multiplies |y| in loosening it further.
        reach: the largest |y| of which it is implied: nothing in the constraint overflows.
    """

    def __init__(self, row: np.ndarray, bound: float, slack: np.ndarray, reach: float) -> None:
        self.row, self.bound, self.slack, self.reach, self.place = row, bound, slack, reach, 0

    @classmethod
    def of(cls, atom: Atom, classes: int, is_real: bool) -> "_Limit | None":
        """Return the limit of an atom over outputs; None where it is not linear, or out of range."""
        left, right = atom.left.linear(), atom.right.linear()
        if left is None or right is None:
            return None
        whole = left.plus(right, Fraction(-1))
        roundings, gain = (0, Fraction(1)) if is_real else _roundings((atom.left, atom.right))
        if roundings >= _TOO_MANY or not (is_real or (_stays_normal(atom.left) and _stays_normal(atom.right))):
            return None
        share = Fraction(arithmetic.gamma(roundings)) if roundings else Fraction(0)
        size = _absolute(atom.left).plus(_absolute(atom.right))
        if not share < _HUGE or max([gain, abs(whole.constant), *size.coefficients.values()]) > _HUGE:
            return None
        row, slack = np.zeros(classes), np.zeros(classes)
        for variable, coefficient in size.coefficients.items():
            exact = whole.coefficients.get(variable, Fraction(0))
            row[variable.place] = float(exact)
            lost = share * coefficient + abs(Fraction(row[variable.place]) - exact)
            slack[variable.place] = _above(lost)
        bound = -whole.constant + share * size.constant
        if roundings:
            bound += 4 * (roundings + 1) * Fraction(arithmetic.TINY) * gain
        sides = atom.left, atom.right
        powers = (Fraction(2) ** power for power in range(127, -1, -1))
        fits = (float(most) for most in powers if max(_largest(side, most) for side in sides) < _FITS)
        reach = math.inf if is_real or not roundings else next(fits, -1.0)
        return cls(row, _above(bound), slack, reach)


def _loosened(bounds: Tensor, slack: Tensor, output: Enclosure) -> Float64[Tensor, "batch limit"]:
    """Return limits that outputs satisfy which satisfy row @ y <= bound + slack @ |y|, rounded up."""
    size = output.size().unsqueeze(1)
    lost = torch.where(slack > 0, slack * size, 0.0).sum(2) * (1 + 2.0**-30)
    whole = bounds + lost
    return torch.where(lost > 0, torch.nextafter(whole, torch.full_like(whole, torch.inf)), whole)


def _is_plain(atom: Atom) -> bool:
    """Return whether nothing is computed in an atom: then ends of outputs, which are exact, may just reach a limit."""
    return not isinstance(atom.left, Operation) and not isinstance(atom.right, Operation)


def _above(value: Fraction) -> float:
    """Return a float64 that is at least a number."""
    found = float(value)
    return found if Fraction(found) >= value else float(np.nextafter(found, np.inf))


def _roundings(terms: Sequence[Term]) -> tuple[int, Fraction]:
    """Return how often terms may be rounded in float32, and the product of their numbers above 1."""
    count, gain = 0, Fraction(1)
    for term in terms:
        if isinstance(term, Number):
            is_normal = not term.value or _LEAST <= abs(term.value) < _FITS
            count += Fraction(float(term.rounded)) != term.value if is_normal else _TOO_MANY
            gain *= max(Fraction(1), abs(term.value))
        elif isinstance(term, Operation):
            inner, more = _roundings(term.parts)
            count, gain = count + inner + len(term.parts) - 1, gain * more
    return count, gain


def _stays_normal(term: Term) -> bool:
    """Return whether no product of numbers alone may underflow on its way to the output that it multiplies.

    What underflows behind that output is lost by no more than the numbers that follow make of it, `_roundings`' gain.
    """
    if not isinstance(term, Operation):
        return True
    if term.sign != "*":
        return all(map(_stays_normal, term.parts))
    numbers = [part.value if isinstance(part, Number) else None for part in term.parts]
    before = list(takewhile(lambda number: number is not None, numbers))
    products = accumulate((abs(number) for number in before if number is not None), operator.mul)
    are_plain = all(number is not None for number in numbers[len(before) + 1 :])
    is_inside = all(map(_stays_normal, term.parts[len(before) : len(before) + 1]))
    return are_plain and is_inside and all(not product or product >= _LEAST for product in products)


def _largest(term: Term, most: Fraction) -> Fraction:
    """Return a number that nothing in a term is larger than, of entries no larger than another one."""
    if isinstance(term, Number):
        return abs(term.value)
    if not isinstance(term, Operation):
        return most
    parts = [_largest(part, most) for part in term.parts]
    if term.sign != "*":
        return max(sum(parts, Fraction(0)), *parts)
    return max(*parts, *accumulate(parts, operator.mul))  # factors below 1 come too late for those before them


def _absolute(term: Term) -> Linear:
    """Return the sum of the absolute terms of a linear term, as coefficients of absolute entries."""
    if isinstance(term, Number):
        return Linear({}, abs(term.value))
    if not isinstance(term, Operation):
        return Linear(dict.fromkeys(term.variables(), Fraction(1)), Fraction(0))
    first, *others = (_absolute(part) for part in term.parts)
    for other in others:
        if term.sign != "*":
            first = first.plus(other)
        else:
            first = first.times(other.constant) if not other.coefficients else other.times(first.constant)
    return first
