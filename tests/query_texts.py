"""Queries for tests: their texts in both versions, written from formulas."""

from collections.abc import Sequence
from fractions import Fraction

from hypothesis import strategies as st

from abscert_plugin.query.formula import Atom, Every, Formula, Some
from abscert_plugin.query.terms import Number, Operation, Term, Variable

INPUTS, OUTPUTS = 2, 2


def decimal(value: Fraction) -> str:
    """Return a decimal of a number whose denominator divides a power of ten."""
    sign, places = "-" if value < 0 else "", 0
    value = abs(value)
    while (value * 10**places).denominator > 1:
        places += 1
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    return f"{sign}{digits[:-places] or '0'}.{digits[-places:]}" if places else f"{sign}{digits}.0"


def term_text(term: Term, version: int) -> str:
    if isinstance(term, Number):
        return decimal(term.value)
    if isinstance(term, Variable):
        letter = "XY"[term.is_output]
        return f"{letter}_{term.place}" if version == 1 else f"{letter}[0,{term.place}]"
    assert isinstance(term, Operation)
    return f"({term.sign} {' '.join(term_text(part, version) for part in term.parts)})"


def formula_text(formula: Formula, version: int) -> str:
    if isinstance(formula, Atom):
        sign = "<" if formula.is_strict else "<="
        return f"({sign} {term_text(formula.left, version)} {term_text(formula.right, version)})"
    word = "and" if isinstance(formula, Every) else "or"
    return f"({word} {' '.join(formula_text(part, version) for part in formula.parts)})"


def query_text(
    assertions: Sequence[str], version: int, kind: str = "float32", inputs: int = INPUTS, outputs: int = OUTPUTS
) -> str:
    """Return a query with given assertions over an input and an output of one row each."""
    lines = [f"(assert {text})" for text in assertions]
    if version == 1:
        entries = [f"X_{place}" for place in range(inputs)] + [f"Y_{place}" for place in range(outputs)]
        return "\n".join([*(f"(declare-const {entry} Real)" for entry in entries), *lines, ""])
    head = [
        "(vnnlib-version <2.0>)",
        f"(declare-network f (declare-input X {kind} [1,{inputs}])",
        f"(declare-output Y {kind} [1,{outputs}]))",
    ]
    return "\n".join([*head, *lines, ""])


def box_texts(version: int, low: float = -1.0, high: float = 1.0, inputs: int = INPUTS) -> list[str]:
    """Return assertions that bound every input."""
    entries = [term_text(Variable(False, place), version) for place in range(inputs)]
    return [text for entry in entries for text in (f"(>= {entry} {low})", f"(<= {entry} {high})")]


NUMBERS = st.sampled_from([Fraction(k, 8) for k in range(-12, 13)] + [Fraction(1, 10), Fraction(-3, 10)])


def terms(is_output: bool) -> st.SearchStrategy[Term]:
    """Return terms over entries of one tensor, products among them."""
    leaves = st.builds(Variable, st.just(is_output), st.integers(0, 1)) | st.builds(Number, NUMBERS)

    def joined(parts: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
        return st.builds(Operation, st.sampled_from("+-*"), st.lists(parts, min_size=2, max_size=3).map(tuple))

    entry = st.builds(Variable, st.just(is_output), st.integers(0, 1))
    return st.recursive(leaves, joined, max_leaves=4).filter(lambda term: any(term.variables())) | entry


def atoms(is_output: bool) -> st.SearchStrategy[Atom]:
    right = terms(is_output) | st.builds(Number, NUMBERS)
    return st.builds(Atom, terms(is_output), right, st.booleans(), st.just(1))


FORMULAS = st.recursive(
    atoms(True) | atoms(False),
    lambda parts: st.builds(
        lambda kind, found: kind(tuple(found)), st.sampled_from([Every, Some]), st.lists(parts, min_size=1, max_size=3)
    ),
    max_leaves=6,
)
