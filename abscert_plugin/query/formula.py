"""Formulas of a query: comparisons of terms under `and` and `or`, and the disjuncts that they stand for."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from types import MappingProxyType
from typing import Final, TypeAlias, final

import numpy as np
from jaxtyping import Bool

from abscert_plugin.errors import QueryError
from abscert_plugin.query.terms import Ends, Number, Term, Values, Variable

MOST_DISJUNCTS: Final = 100_000
"""A query that stands for more is refused."""


@final
@dataclass(frozen=True)
class Atom:
    """left <= right, or left < right.

    Args:
        left, right: the terms.
        is_strict: whether it is <.
        line: where it stands in the file.
    """

    left: Term
    right: Term
    is_strict: bool
    line: int

    def holds(self, values: Values, in_float32: bool) -> bool:
        """Return whether it holds in exact rationals and, if so asked, as written in float32 as well."""
        left, right = self.left.exact(values), self.right.exact(values)
        if not (left < right or (left == right and not self.is_strict)):
            return False
        if not in_float32:
            return True
        near, far = self.left.single(values), self.right.single(values)
        return bool(near < far) if self.is_strict else bool(near <= far)

    def may_hold(self, is_real: bool) -> bool:
        """Return whether an atom of numbers alone holds exactly or, unless it is about real numbers, in float32."""
        none: Values = ((), ())
        if self.holds(none, False) or is_real:
            return self.holds(none, False)
        left, right = self.left.single(none), self.right.single(none)
        return bool(left < right) if self.is_strict else bool(left <= right)

    def with_rounded(self, places: Collection[int]) -> "Atom":
        """Return it with its number rounded to float32 where it bounds one of some inputs."""
        terms = self.left, self.right
        for variable, number in (terms, terms[::-1]):
            if isinstance(variable, Variable) and isinstance(number, Number):
                if variable.is_output or variable.place not in places or not np.isfinite(number.rounded):
                    return self
                nearer = Number(Fraction(float(number.rounded)))
                return replace(self, left=nearer) if number is self.left else replace(self, right=nearer)
        return self

    def fails_between(self, inputs: Ends, outputs: Ends) -> Bool[np.ndarray, "batch"]:
        """Return where it holds for nothing between ends, [batch, entries] each, however it is read."""
        least, _ = self.left.between(inputs, outputs)
        _, most = self.right.between(inputs, outputs)
        return np.asarray(least >= most if self.is_strict else least > most, dtype=bool)

    def variables(self) -> Iterator[Variable]:
        """Yield the entries that it reads."""
        yield from self.left.variables()
        yield from self.right.variables()


@final
@dataclass(frozen=True)
class Every:
    """All of some formulas."""

    parts: "tuple[Formula, ...]"


@final
@dataclass(frozen=True)
class Some:
    """At least one of some formulas."""

    parts: "tuple[Formula, ...]"


Formula: TypeAlias = Atom | Every | Some
Conjunction: TypeAlias = tuple[Atom, ...]


def with_rounded(formula: Formula, places: Collection[int]) -> Formula:
    """Return a formula with numbers rounded to float32 that bound some inputs."""
    if isinstance(formula, Atom):
        return formula.with_rounded(places)
    return replace(formula, parts=tuple(with_rounded(part, places) for part in formula.parts))


def compared(sign: str, left: Term, right: Term, line: int) -> Formula:
    """Return the formula that a comparison stands for.

    Raises:
        KeyError: if the sign is none of `SIGNS`.
    """
    return SIGNS[sign](left, right, line)


SIGNS: Final[Mapping[str, Callable[[Term, Term, int], Formula]]] = MappingProxyType(
    {
        "<=": lambda left, right, line: Atom(left, right, False, line),
        "<": lambda left, right, line: Atom(left, right, True, line),
        ">=": lambda left, right, line: Atom(right, left, False, line),
        ">": lambda left, right, line: Atom(right, left, True, line),
        "==": lambda left, right, line: Every((Atom(left, right, False, line), Atom(right, left, False, line))),
        "!=": lambda left, right, line: Some((Atom(left, right, True, line), Atom(right, left, True, line))),
    }
)
"""Comparisons of VNN-LIB; version 1 has the first four and `=`."""


def spread(assertions: tuple[Formula, ...]) -> tuple[Conjunction, Iterator[Conjunction]]:
    """Return what all disjuncts of a conjunction of formulas have in common, and what each has besides.

    Raises:
        QueryError: if there are more than `MOST_DISJUNCTS`.
    """
    whole = Every(assertions)
    count = _count(whole)
    if count > MOST_DISJUNCTS:
        raise QueryError(f"expected at most {MOST_DISJUNCTS:,} disjuncts, got {np.format_float_scientific(count, 3)}")
    common, rest = [], []
    waiting: list[Formula] = [whole]
    while waiting:
        formula = waiting.pop()
        if isinstance(formula, Atom):
            common.append(formula)
        elif isinstance(formula, Every) or len(formula.parts) == 1:
            waiting += reversed(formula.parts)
        else:
            rest.append(formula)
    return tuple(common), _disjuncts(Every(tuple(rest)))


def _count(formula: Formula) -> float:
    """Return how many disjuncts a formula stands for; inf where a float holds no such number."""
    if isinstance(formula, Atom):
        return 1.0
    counts = [_count(part) for part in formula.parts]
    with np.errstate(over="ignore"):
        return float(np.prod(counts)) if isinstance(formula, Every) else float(np.sum(counts))


def _disjuncts(formula: Formula) -> Iterator[Conjunction]:
    if isinstance(formula, Atom):
        yield (formula,)
    elif isinstance(formula, Some):
        for part in formula.parts:
            yield from _disjuncts(part)
    else:
        for chosen in product(*(tuple(_disjuncts(part)) for part in formula.parts)):
            yield tuple(atom for part in chosen for atom in part)


def holds(formula: Formula, values: Values, in_float32: bool) -> bool:
    """Return whether a formula holds for an input and its output: exactly, and as written in float32 if so asked."""
    if isinstance(formula, Atom):
        return formula.holds(values, in_float32)
    found = (holds(part, values, in_float32) for part in formula.parts)
    return all(found) if isinstance(formula, Every) else any(found)
