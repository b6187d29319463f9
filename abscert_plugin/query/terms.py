"""Terms of a query over entries of inputs and outputs: exactly, in float32 as written, and between ends."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Final, TypeAlias, final

import numpy as np
from torch import Tensor
from typing_extensions import override

Values: TypeAlias = tuple[Sequence[Fraction], Sequence[Fraction]]
"""Entries of an input and of an output, row-major."""

Ends: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Float64 ends, of a batch of boxes."""

_LARGEST: Final = Fraction(float(np.finfo(np.float32).max))


@final
@dataclass(frozen=True)
class Linear:
    """constant + sum of coefficients times entries, exact.

    Args:
        coefficients: by entry.
        constant: the rest.
    """

    coefficients: "Mapping[Variable, Fraction]"
    constant: Fraction

    def plus(self, other: "Linear", factor: Fraction = Fraction(1)) -> "Linear":
        """Return self + factor * other."""
        found = dict(self.coefficients)
        for variable, coefficient in other.coefficients.items():
            found[variable] = found.get(variable, Fraction(0)) + factor * coefficient
        return Linear(found, self.constant + factor * other.constant)

    def times(self, factor: Fraction) -> "Linear":
        """Return factor * self."""
        return Linear({}, Fraction(0)).plus(self, factor)


class Term(ABC):
    """A term."""

    @abstractmethod
    def variables(self) -> "Iterator[Variable]":
        """Yield the entries that it reads."""

    @abstractmethod
    def exact(self, values: Values) -> Fraction:
        """Return its value in exact rationals."""

    @abstractmethod
    def single(self, values: Values) -> np.float32:
        """Return its value in float32, computed as it is written, each operation rounded to nearest."""

    @abstractmethod
    def between(self, inputs: Ends, outputs: Ends) -> Ends:
        """Return ends of its value, exact or in float32, for entries between ends ([batch, entries])."""

    @abstractmethod
    def tensor(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return about its value for a batch, [batch] or a single number, for gradients."""

    @abstractmethod
    def linear(self) -> Linear | None:
        """Return it as a linear function; None where it is none."""


@final
@dataclass(frozen=True)
class Variable(Term):
    """An entry of the input or of the output.

    Args:
        is_output: whose.
        place: its place, row-major.
    """

    is_output: bool
    place: int

    @override
    def variables(self) -> "Iterator[Variable]":
        yield self

    @override
    def exact(self, values: Values) -> Fraction:
        return values[self.is_output][self.place]

    @override
    def single(self, values: Values) -> np.float32:
        return nearest(values[self.is_output][self.place])

    @override
    def between(self, inputs: Ends, outputs: Ends) -> Ends:
        lower, upper = outputs if self.is_output else inputs
        return lower[:, self.place], upper[:, self.place]

    @override
    def tensor(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return (outputs if self.is_output else inputs)[:, self.place]

    @override
    def linear(self) -> Linear:
        return Linear({self: Fraction(1)}, Fraction(0))


@final
@dataclass(frozen=True)
class Number(Term):
    """A decimal as it is written.

    Args:
        value: exactly.
    """

    value: Fraction

    @cached_property
    def rounded(self) -> np.float32:
        """The nearest float32."""
        return nearest(self.value)

    @override
    def variables(self) -> Iterator[Variable]:
        yield from ()

    @override
    def exact(self, values: Values) -> Fraction:
        return self.value

    @override
    def single(self, values: Values) -> np.float32:
        return self.rounded

    @override
    def between(self, inputs: Ends, outputs: Ends) -> Ends:
        least, most = sorted((float(self.value), float(self.rounded)))
        if least == most and Fraction(least) == self.value:
            return np.array([least]), np.array([least])
        return np.array([np.nextafter(least, -np.inf)]), np.array([np.nextafter(most, np.inf)])

    @override
    def tensor(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs.new_tensor(float(self.value))

    @override
    def linear(self) -> Linear:
        return Linear({}, self.value)


@final
@dataclass(frozen=True)
class Operation(Term):
    """Sum, difference or product of terms, from left to right; the difference of one term is its negative.

    Args:
        sign: +, - or *.
        parts: the terms.
    """

    sign: str
    parts: tuple[Term, ...]

    @override
    def variables(self) -> Iterator[Variable]:
        for part in self.parts:
            yield from part.variables()

    @override
    def exact(self, values: Values) -> Fraction:
        first, *others = (part.exact(values) for part in self.parts)
        if not others:
            return -first if self.sign == "-" else first
        for other in others:
            first = first + other if self.sign == "+" else first - other if self.sign == "-" else first * other
        return first

    @override
    def single(self, values: Values) -> np.float32:
        first, *others = (part.single(values) for part in self.parts)
        if not others:
            return np.float32(-first if self.sign == "-" else first)
        with np.errstate(over="ignore", invalid="ignore"):
            for other in others:
                first = first + other if self.sign == "+" else first - other if self.sign == "-" else first * other
        return np.float32(first)

    @override
    def between(self, inputs: Ends, outputs: Ends) -> Ends:
        (lower, upper), *others = (part.between(inputs, outputs) for part in self.parts)
        if not others:
            return (-upper, -lower) if self.sign == "-" else (lower, upper)
        for other in others:
            lower, upper = _widened(*_combined(self.sign, (lower, upper), other))
        return lower, upper

    @override
    def tensor(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        first, *others = (part.tensor(inputs, outputs) for part in self.parts)
        if not others:
            return -first if self.sign == "-" else first
        for other in others:
            first = first + other if self.sign == "+" else first - other if self.sign == "-" else first * other
        return first

    @override
    def linear(self) -> Linear | None:
        parts = [part.linear() for part in self.parts]
        if any(part is None for part in parts):
            return None
        first, *others = (part for part in parts if part is not None)
        if not others:
            return first.times(Fraction(-1)) if self.sign == "-" else first
        for other in others:
            if self.sign != "*":
                first = first.plus(other, Fraction(1 if self.sign == "+" else -1))
            elif not other.coefficients:
                first = first.times(other.constant)
            elif not first.coefficients:
                first = other.times(first.constant)
            else:
                return None
        return first


def operation(sign: str, parts: tuple[Term, ...]) -> Term:
    """Return an operation on terms; the negative of a number is a number, which rounds as the operation does."""
    first, *others = parts
    if sign == "-" and not others and isinstance(first, Number):
        return Number(-first.value)
    return Operation(sign, parts)


def _combined(sign: str, one: Ends, other: Ends) -> Ends:
    with np.errstate(over="ignore", invalid="ignore"):
        if sign == "+":
            return one[0] + other[0], one[1] + other[1]
        if sign == "-":
            return one[0] - other[1], one[1] - other[0]
        products = np.stack(np.broadcast_arrays(*(first * second for first in one for second in other)))
    return products.min(axis=0), products.max(axis=0)


def _widened(lower: np.ndarray, upper: np.ndarray) -> Ends:
    """Return ends that hold what is between them with the roundings of one operation in float32, and of our own."""
    with np.errstate(over="ignore", invalid="ignore"):
        room = np.maximum(abs(lower), abs(upper)) * 2.0**-23 + 2.0**-125  # u, and what a flushed result loses; doubled
        lower, upper = lower - room, upper + room
        fits = (lower > -float(_LARGEST)) & (upper < float(_LARGEST))  # NaN does not
    return np.where(fits, lower, -np.inf), np.where(fits, upper, np.inf)


def nearest(value: Fraction) -> np.float32:
    """Return the float32 nearest to a number, of two the even one; inf beyond the largest."""
    if abs(value) >= _LARGEST * (1 + Fraction(1, 2**25)):
        return np.float32(np.inf if value > 0 else -np.inf)
    if abs(value) > _LARGEST:
        return np.float32(float(_LARGEST) if value > 0 else -float(_LARGEST))
    first = np.float32(float(value))
    if Fraction(float(first)) == value:
        return first
    around = [np.nextafter(first, np.float32(-np.inf)), first, np.nextafter(first, np.float32(np.inf))]
    finite = [item for item in around if np.isfinite(item)]
    return min(finite, key=lambda item: (abs(Fraction(float(item)) - value), int(item.view(np.uint32)) & 1))
