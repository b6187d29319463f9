"""A query: what it declares, what it asserts, and the boxes of inputs that its disjuncts are about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from math import prod
from typing import Final, final

import numpy as np
from jaxtyping import Float32, Float64

from abscert_plugin.errors import QueryError
from abscert_plugin.query.formula import Atom, Conjunction, Formula, holds, spread, with_rounded
from abscert_plugin.query.terms import Number, Values, Variable, nearest

MOST_ENTRIES: Final = 2**24
"""A tensor that declares more entries is refused."""

_MOST_ENDS: Final = 2**27  # of all boxes together


class ElementType(StrEnum):
    """What entries of a declared tensor are."""

    FLOAT32 = "float32"
    REAL = "real"
    INT64 = "int64"


@final
@dataclass(frozen=True)
class Declared:
    """A tensor that a query declares.

    Args:
        name: its name in the query.
        kind: the type of its entries.
        shape: its shape; None where the query tells the number of entries alone, as in version 1.
        count: number of its entries.
    """

    name: str
    kind: ElementType
    shape: tuple[int, ...] | None
    count: int

    @classmethod
    def of(cls, name: str, kind: ElementType, shape: tuple[int, ...]) -> "Declared":
        """Return a tensor of a shape.

        Raises:
            QueryError: if it holds more than `MOST_ENTRIES`.
        """
        if prod(shape) > MOST_ENTRIES:
            raise QueryError(f"expected at most {MOST_ENTRIES:,} entries of {name}, got {prod(shape):,}")
        return cls(name, kind, shape, prod(shape))


@final
@dataclass(frozen=True)
class Case:
    """A box of inputs, and what their outputs are to satisfy: at least one of some conjunctions.

    Args:
        lower, upper: ends of the box, row-major. They hold every input of the query's type that satisfies the bounds
            as they are written, or with their numbers rounded to float32.
        inner: float32 ends of what satisfies the bounds in both readings; the lower one is above the upper one where
            no float32 does.
        written: float32 ends of what satisfies them as they are written; likewise.
        inputs: constraints on inputs that are no bounds.
        outputs: the conjunctions of constraints on outputs.
    """

    lower: Float64[np.ndarray, "entries"]
    upper: Float64[np.ndarray, "entries"]
    inner: Float32[np.ndarray, "2 entries"]
    written: Float32[np.ndarray, "2 entries"]
    inputs: Conjunction
    outputs: tuple[Conjunction, ...]


@final
@dataclass(frozen=True)
class Query:
    """Is there an input such that all assertions hold for it and its output?

    Args:
        version: of the language, such as 2.0.
        network: the name of the network; None where the query gives none, as in version 1.
        input: what the network reads.
        output: what it gives.
        assertions: what is to hold.
        cases: the same as boxes of inputs with constraints on outputs, of which one is to be satisfied.
        rounded: inputs between whose bounds lies no float32 as they are written: they are read as the nearest ones.
    """

    version: str
    network: str | None
    input: Declared
    output: Declared
    assertions: tuple[Formula, ...]
    cases: tuple[Case, ...] = field(repr=False)
    rounded: frozenset[int] = frozenset()

    @property
    def is_real(self) -> bool:
        """Whether it is about the network in real arithmetic, not about the file in float32."""
        return self.input.kind is ElementType.REAL and self.version != VERSION_1

    def holds(self, inputs: Sequence[Fraction], outputs: Sequence[Fraction]) -> bool:
        """Return whether an input and its output satisfy it, in exact rationals of the decimals as they are written.

        Of a query about float32, they have to satisfy it as well where its numbers and sums are rounded to float32.
        """
        values: Values = (inputs, outputs)
        return all(holds(formula, values, not self.is_real) for formula in self.assertions)


VERSION_1: Final = "1.0"


def build(
    version: str, network: str | None, source: Declared, output: Declared, assertions: Sequence[Formula]
) -> Query:
    """Return a query.

    An input that is fixed to a decimal is meant to be the float32 next to it, as files of the field write their images;
    no float32 at all is that decimal. So bounds that leave none are rounded first.

    Raises:
        QueryError: if a constraint joins inputs and outputs, an input is not bounded on both sides, no disjunct has an
            input at all, or there are more disjuncts than are taken up.
    """
    query = _built(version, network, source, output, assertions)
    if query.is_real:
        return query
    places = _unheld(query.cases)
    if not places:
        return query
    nearer = [with_rounded(formula, places) for formula in assertions]
    return _built(version, network, source, output, nearer, places)


def _unheld(cases: Sequence[Case]) -> frozenset[int]:
    """Return the inputs that no float32 satisfies in some boxes, and whose bounds are float32 themselves in all others.

    So where a box is read as it is written, it still is when these are rounded.
    """
    is_empty = np.stack([case.written[0] > case.written[1] for case in cases])
    is_exact = np.stack([(case.inner == (case.lower, case.upper)).all(axis=0) for case in cases])
    return frozenset(np.flatnonzero(is_empty.any(axis=0) & (is_empty | is_exact).all(axis=0)).tolist())


def _built(
    version: str,
    network: str | None,
    source: Declared,
    output: Declared,
    assertions: Sequence[Formula],
    rounded: frozenset[int] = frozenset(),
) -> Query:
    common, disjuncts = spread(tuple(assertions))
    is_real = source.kind is ElementType.REAL and version != VERSION_1
    start = _Box.whole(source.count, is_real)
    shared = start.split(common)
    if shared is None:
        raise QueryError(_empty(start, common, source))
    inputs, outputs = shared
    found: dict[tuple[bytes, Conjunction], tuple[_Box, list[Conjunction]]] = {}
    unfit = ""
    for disjunct in disjuncts:
        box = start.copy()
        split = box.split(disjunct)
        if split is None:
            unfit = unfit or _empty(box, disjunct, source)
            continue
        box.need_ends(source)
        key = (box.ends, inputs + split[0])
        found.setdefault(key, (box, []))[1].append(outputs + split[1])
        if len(found) * source.count > _MOST_ENDS:
            raise QueryError(f"expected boxes of at most {_MOST_ENDS:,} ends together, got more")
    if not found:
        raise QueryError(unfit or "expected an assertion that something satisfies, got none")
    cases = [
        Case(box.lower, box.upper, box.inner, box.written, inputs, tuple(parts))
        for (_, inputs), (box, parts) in found.items()
    ]
    return Query(version, network, source, output, tuple(assertions), tuple(cases), rounded)


@final
@dataclass
class _Box:
    """Ends of a box in the making; `is_real` says whether the query is about real numbers."""

    lower: np.ndarray
    upper: np.ndarray
    inner: np.ndarray
    written: np.ndarray
    is_real: bool
    lines: dict[int, int] = field(default_factory=dict)  # of the last bound of an entry

    @classmethod
    def whole(cls, entries: int, is_real: bool) -> "_Box":
        inner = np.array([[-np.inf], [np.inf]], np.float32).repeat(entries, axis=1)
        return cls(np.full(entries, -np.inf), np.full(entries, np.inf), inner, inner.copy(), is_real)

    def copy(self) -> "_Box":
        lower, upper, inner, written = (end.copy() for end in (self.lower, self.upper, self.inner, self.written))
        return _Box(lower, upper, inner, written, self.is_real, dict(self.lines))

    @property
    def ends(self) -> bytes:
        """All ends, as a key."""
        return b"".join(end.tobytes() for end in (self.lower, self.upper, self.inner, self.written))

    def split(self, atoms: Iterable[Atom]) -> tuple[Conjunction, Conjunction] | None:
        """Take up bounds; return the other constraints, on inputs and on outputs; None where nothing satisfies them."""
        inputs, outputs = [], []
        fits = True
        for atom in atoms:
            sides = {variable.is_output for variable in atom.variables()}
            if len(sides) == 2:
                raise QueryError(f"line {atom.line}: a constraint between inputs and outputs is not supported")
            if not sides:
                fits &= atom.may_hold(self.is_real)
            elif sides == {True}:
                outputs.append(atom)
            elif not self._bound(atom):
                inputs.append(atom)
        if not fits or bool((self.lower > self.upper).any()):
            return None
        return tuple(inputs), tuple(outputs)

    def _bound(self, atom: Atom) -> bool:
        """Take up an atom on inputs as an end of the box; return whether it is one."""
        left, right = atom.left, atom.right
        if isinstance(left, Variable) and isinstance(right, Number):  # an upper end is a lower one of the negative
            side, place, value = 1, left.place, -right.value
        elif isinstance(left, Number) and isinstance(right, Variable):
            side, place, value = 0, right.place, left.value
        else:
            return False
        sign, closer, ends = (-1, min, self.upper) if side else (1, max, self.lower)
        ends[place] = closer(ends[place], sign * self._end(value, atom.is_strict))
        for float32s, end in ((self.inner, _inner_end), (self.written, _written_end)):
            float32s[side, place] = closer(float32s[side, place], sign * end(value, atom.is_strict))
        self.lines[place] = max(atom.line, self.lines.get(place, 0))
        return True

    def _end(self, value: Fraction, is_strict: bool) -> float:
        """Return the least number of the query's type that is at least (or above) a number, or its rounding."""
        if self.is_real:
            end = float(value)
            return float(np.nextafter(end, -np.inf)) if Fraction(end) > value else end
        return float(_written_end(value, is_strict) if is_strict else nearest(value))

    def need_ends(self, source: Declared) -> None:
        """Raise unless each entry has finite ends on both sides."""
        open_ = np.flatnonzero(~(np.isfinite(self.lower) & np.isfinite(self.upper)))
        if len(open_):
            place = int(open_[0])
            side = "below" if not np.isfinite(self.lower[place]) else "above"
            line = f"line {self.lines[place]}: " if place in self.lines else ""
            raise QueryError(f"{line}expected finite bounds of every input, got none {side} of {_name(source, place)}")


def _written_end(value: Fraction, is_strict: bool) -> np.float32:
    """Return the least float32 that is at least (or above) a number itself."""
    found = nearest(value)
    if not np.isfinite(found):
        return found
    exact = Fraction(float(found))
    return np.nextafter(found, np.float32(np.inf)) if exact < value or (is_strict and exact == value) else found


def _inner_end(value: Fraction, is_strict: bool) -> np.float32:
    """Return the least float32 that is at least (or above) a number and its rounding."""
    return np.nextafter(nearest(value), np.float32(np.inf)) if is_strict else _written_end(value, is_strict)


def _empty(box: _Box, atoms: Conjunction, source: Declared) -> str:
    """Return why nothing satisfies some atoms."""
    places = np.flatnonzero(box.lower > box.upper)
    if not len(places):
        return f"line {max(atom.line for atom in atoms)}: nothing satisfies what is asserted of numbers alone"
    place = int(places[0])
    ends = f"{box.lower[place]:.9g} <= {_name(source, place)} <= {box.upper[place]:.9g}"
    return f"line {box.lines[place]}: the box of inputs is empty: {ends}"


def _name(source: Declared, place: int) -> str:
    if source.shape is None:
        return f"{source.name}_{place}"
    indices = ",".join(map(str, np.unravel_index(place, source.shape))) if source.shape else ""
    return f"{source.name}[{indices}]" if indices else source.name
