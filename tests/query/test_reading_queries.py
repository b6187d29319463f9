"""Reading queries of both versions: what they say, and what is refused in one line."""

import gzip
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from query_texts import FORMULAS, NUMBERS, box_texts, formula_text, query_text

from abscert_plugin.errors import QueryError
from abscert_plugin.query.formula import Atom, Every, Formula, holds
from abscert_plugin.query.naming import is_query
from abscert_plugin.query.query import ElementType, Query
from abscert_plugin.query.reading import parse, read_query
from abscert_plugin.query.terms import Variable, nearest

pytest.importorskip("vnnlib")
GRID = [Fraction(k, 8) for k in (-8, -3, 0, 1, 8)]
ENTRY = {1: "X_0", 2: "X[0,0]"}


def plain(formula: Formula, inputs: Sequence[Fraction], outputs: Sequence[Fraction]) -> bool:
    """Return whether a formula holds, by Python's own arithmetic on the text of version 2."""
    text = formula_text(formula, 2)
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()

    def value() -> object:
        token = tokens.pop(0)
        if token != "(":
            if token[0] in "XY":
                return (inputs, outputs)[token[0] == "Y"][int(token[4])]
            return Fraction(token)
        sign, parts = tokens.pop(0), []
        while tokens[0] != ")":
            parts.append(value())
        tokens.pop(0)
        if sign in ("and", "or"):
            return all(parts) if sign == "and" else any(parts)
        symbol = {"<=": "<=", "<": "<", "+": "+", "-": "-", "*": "*"}[sign]
        return eval(symbol.join(f"parts[{place}]" for place in range(len(parts))), {"parts": parts})

    return bool(value())


@settings(max_examples=60)
@given(FORMULAS, st.sampled_from([1, 2]), st.lists(NUMBERS, min_size=4, max_size=4))
def test_a_query_says_what_is_written(formula: Formula, version: int, point: list[Fraction]) -> None:
    text = query_text([*box_texts(version), formula_text(formula, version)], version, "real")
    try:
        query = parse(text)
    except QueryError:  # a box may be empty, or numbers alone contradict each other
        assert not (all(-1 <= entry <= 1 for entry in point[:2]) and plain(formula, point[:2], point[2:]))
        return
    inputs, outputs = point[:2], point[2:]
    is_inside = all(-1 <= entry <= 1 for entry in inputs)
    by_cases = any(
        all(
            Fraction(float(low)) <= entry <= Fraction(float(high))
            for low, entry, high in zip(case.lower, inputs, case.upper, strict=True)
        )
        and holds(Every(case.inputs), (inputs, outputs), False)
        and any(holds(Every(part), (inputs, outputs), False) for part in case.outputs)
        for case in query.cases
    )
    said = is_inside and plain(formula, inputs, outputs)
    assert holds(Every(query.assertions), (inputs, outputs), False) == said
    # the ends of a box of real numbers are rounded outward: strict ones, and those that are no float64
    assert by_cases or not said


@settings(max_examples=100)
@given(st.fractions(Fraction(-2), Fraction(2), max_denominator=10**9), st.booleans(), st.integers(0, 3))
def test_a_box_holds_just_the_float32_that_satisfy_its_bounds_in_either_reading(
    value: Fraction, is_strict: bool, steps: int
) -> None:
    text = f"{value.numerator * 10**12 // value.denominator}"
    written = Fraction(int(text), 10**12)
    sign = ">" if is_strict else ">="
    shown = f"{'-' if written < 0 else ''}{abs(int(text)) // 10**12}.{abs(int(text)) % 10**12:012d}"
    query = parse(query_text(["(<= X_0 9.0)", f"({sign} X_0 {shown})", "(<= Y_0 0.0)"], 1, inputs=1, outputs=1))
    end = np.float32(query.cases[0].lower[0])
    assert float(end) == query.cases[0].lower[0]

    def satisfies(entry: np.float32) -> bool:
        exactly, rounded = Fraction(float(entry)), nearest(written)
        near = bool(entry > rounded) if is_strict else bool(entry >= rounded)
        return near or (exactly > written if is_strict else exactly >= written)

    assert satisfies(end)
    assert not satisfies(np.nextafter(end, np.float32(-np.inf)))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(0.0, 1.0))
def test_nearest_is_the_nearest_float32(value: float, share: float) -> None:
    above = float(np.nextafter(np.float32(value), np.float32(np.inf)))
    if not np.isfinite(above):
        return
    between = Fraction(value) + Fraction(share) * (Fraction(above) - Fraction(value))
    half = (Fraction(value) + Fraction(above)) / 2
    found = float(nearest(between))
    if between != half:
        assert found == (value if between < half else above)
    else:
        assert int(np.float32(found).view(np.uint32)) % 2 == 0


def test_disjuncts_with_one_box_are_one_case() -> None:
    either = "(or (and (<= X_0 0.0) (<= Y_0 0.0)) (and (<= X_0 0.0) (<= Y_1 0.0)) (and (>= X_0 0.5) (<= Y_0 Y_1)))"
    query = parse(query_text([*box_texts(1), either], 1))
    assert [len(case.outputs) for case in query.cases] == [2, 1]


def test_a_disjunct_without_inputs_is_left_out() -> None:
    query = parse(query_text([*box_texts(2), "(or (>= X[0,0] 2.0) (<= Y[0,0] 0.0))"], 2))
    assert len(query.cases) == 1
    assert query.network == "f"
    assert query.input.kind is ElementType.FLOAT32


def in_version(version: int, *assertions: str) -> str:
    return query_text([*box_texts(version), *assertions], version)


def deep(version: int) -> str:
    return in_version(version, "(and " * 200 + "(<= Y_0 0.0)" + ")" * 200)


def many(version: int) -> str:
    entry = {1: "Y_0", 2: "Y[0,0]"}[version]
    return in_version(version, *[f"(or (<= {entry} 0.0) (<= {entry} 1.0))"] * 40)


REFUSED = [
    (in_version(1, "(<= X_0 Y_0)"), "line 9: .*between inputs and outputs"),
    (in_version(2, "(<= X[0,0] Y[0,0])"), "line 8: .*between inputs and outputs"),
    (query_text(["(<= X_0 1.0)", "(<= Y_0 0.0)"], 1), "line 5: expected finite bounds.*below of X_0"),
    (query_text(["(<= X[0,0] 1.0)"], 2), r"line 4: expected finite bounds.*below of X\[0,0\]"),
    (in_version(1, "(>= X_0 2.0)"), "line 9: the box of inputs is empty: 2 <= X_0 <= 1"),
    (in_version(2, "(>= X[0,1] 2.0)"), r"line 8: the box of inputs is empty: 2 <= X\[0,1\] <= 1"),
    (in_version(1, "(<= Y_2 0.0)"), "line 9: Y_2 is not declared"),
    (in_version(2, "(<= Y[0,2] 0.0)"), "line 8"),
    (in_version(2, "(<= Y[0,-1] 0.0)"), "line 8: expected whole numbers"),
    (in_version(2, "(<= Y[0,1.5] 0.0)"), "line 8: expected whole numbers"),
    (in_version(2, "(<= Z[0,1] 0.0)"), "line 8"),
    (in_version(2, "(<= Y[0,1] 0)"), "line 8: Type mismatch"),
    (in_version(2, "(<= Y[0,1]"), "line"),
    (in_version(1, "(<= Y_0 nan)"), "line 9: expected a number, got 'nan'"),
    (in_version(1, "(<= Y_0 1e999)"), "line 9: expected a number of at most"),
    (in_version(1, "(<= Y_0 1e999999999)"), "line 9: expected a number"),
    (in_version(1, f"(<= Y_0 {'9' * 5000})"), "line 9: expected a number"),
    (in_version(2, f"(<= Y[0,0] {'9' * 500}.0)"), "line 8: expected numbers below"),
    (in_version(1, "(<= Y_0 \N{ARABIC-INDIC DIGIT THREE})"), "line 9: expected a number"),
    (in_version(1, "(<= Y_\N{FULLWIDTH DIGIT ZERO} 0.0)"), "line 9: expected a number, got 'Y_"),
    (in_version(2, "(<= Y[0,0] \N{ARABIC-INDIC DIGIT THREE}.0)"), "line 8: expected letters and digits of ASCII"),
    (in_version(2, "(<= Y[0,\N{FULLWIDTH DIGIT ZERO}] 0.0)"), "line 8: expected letters and digits of ASCII"),
    (in_version(1, "(<= Y_0"), "line 9: expected [)]"),
    (in_version(1, "(implies Y_0 Y_1)"), "line 9: expected and, or"),
    (in_version(1, "(<= Y_0 Y_1)") + ")", "line 10: expected [(]"),
    (in_version(1) + "(define-fun f)", "line 9: expected declare-const or assert"),
    (in_version(1) + "(check-sat)\n(assert (<= Y_0 0))", "line 10: expected nothing after check-sat but a question"),
    (in_version(1) + '(set-info :source "it\nnever ends)', 'line 9: expected a second " before the end of the file'),
    ("(declare-const X_1 Real)\n(declare-const Y_0 Real)", "X_0 to X_n to be declared without gaps"),
    ("(declare-const X_0 Int)", "line 1: expected [(]declare-const X_0 Real"),
    ("(declare-const X_00 Real)", "line 1: expected [(]declare-const X_0 Real"),  # SMT-LIB: another name than X_0
    ("", "X_0 to X_n"),
    ("(declare-const X_999999999 Real)", "declared once and below"),
    (deep(1), "line 9: expected at most 100 open parentheses"),
    (deep(2), "line 8: expected at most 100 open parentheses"),
    (many(1), "at most 100,000 disjuncts"),
    (many(2), "at most 100,000 disjuncts"),
    (in_version(2, "(<= Y[0,0] 0.0)").replace("float32", "float16"), "line 2: expected float32 or real"),
    (in_version(2, "(<= Y[0,0] 0.0)").replace("<2.0>", "<3.0>"), "vnnlib-version <2.0>"),
    (query_text(["(<= Y[0,0] 0.0)"], 2, inputs=10**8), "line 2: expected at most .* entries"),
    (in_version(2, "(<= Y[0,0] 0.0)").replace("Y float32 [1,2]", "Y real [1,2]"), "of float32 or of real"),
    (
        in_version(2, "(<= Y[0,0] 0.0)").replace("(declare-output", "(declare-input Z float32 [1])\n(declare-output"),
        "2, 1",
    ),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_has_no_meaning_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason) as fault:
        parse(text)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("quoted", ['"a ""b"") ; (assert (<= X_0 -0.5)\n("', "|) (assert (<= X_0 -0.5)) \n ; (|"])
def test_what_stands_in_quotes_is_one_word(quoted: str) -> None:
    text = in_version(1, "(<= Y_0 0.0)")
    query = parse(f"(set-info :source {quoted})\n{text}(check-sat)\n(exit)\n")
    assert repr(query.cases) == repr(parse(f"\n\n{text}").cases)  # lines of the quotation are counted
    with pytest.raises(QueryError, match="line 13: expected declare-const"):
        parse(f"(set-info :source {quoted})\n{text}\n(wrong)")


def test_a_file_may_be_packed(tmp_path: Path) -> None:
    text = in_version(1, "(<= Y_0 0.0)")
    packed, bare = tmp_path / "q.vnnlib.gz", tmp_path / "q.vnnlib"
    packed.write_bytes(gzip.compress(text.encode()))
    bare.write_text(text)
    assert is_query(packed)
    assert read_query(packed).sha256 == read_query(bare).sha256


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSCERT_MAX_BYTES", "100000")
    path = tmp_path / "q.vnnlib.gz"
    path.write_bytes(gzip.compress(b" " * 10**7))
    with pytest.raises(QueryError, match="holds more than 100,000 bytes"):
        read_query(path)


def test_brackets_that_never_end_are_refused_at_once() -> None:
    begun = time.process_time()
    with pytest.raises(QueryError, match="line 8: syntax error"):
        parse(in_version(2, f"(<= Y{'[' * 60_000} 0.0)"))
    assert time.process_time() - begun < 3.0


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.vnnlib"
    path.write_bytes(b"; ok\n\xff")
    with pytest.raises(QueryError, match="line 2: expected text in UTF-8"):
        read_query(path)


def test_a_conjunct_that_is_left_out_is_seen() -> None:
    """The property test above fails where a reader forgets a constraint."""
    query = parse(in_version(2, "(<= Y[0,0] 0.0)"))
    weaker = Query(query.version, "f", query.input, query.output, query.assertions[:-1], query.cases)
    assert weaker.holds([Fraction(0)] * 2, [Fraction(1)] * 2)
    assert not query.holds([Fraction(0)] * 2, [Fraction(1)] * 2)


@pytest.mark.parametrize("version", [1, 2])
def test_numbers_that_no_float32_is_are_met_in_both_readings(version: int) -> None:
    """0.1 lies below the float32 that is nearest to it: neither reading alone makes a point satisfy the query."""
    query = parse(in_version(version, f"(<= {ENTRY[version]} 0.1)"))
    rounded = Fraction(float(np.float32(0.1)))
    below = Fraction(float(np.nextafter(np.float32(0.1), np.float32(0))))
    assert query.cases[0].upper[0] == float(rounded)
    assert query.holds([below, Fraction(0)], [Fraction(0)] * 2)
    assert not query.holds([rounded, Fraction(0)], [Fraction(0)] * 2)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("text", "value"), [("(- 0.1)", -0.1), ("(- (- 0.25))", 0.25), ("-0.1", -0.1)])
def test_the_negative_of_a_number_bounds_an_input(version: int, text: str, value: float) -> None:
    query = parse(in_version(version, f"(>= {ENTRY[version]} {text})"))
    assert query.cases[0].lower[0] == np.float32(value)
    assert not query.cases[0].inputs


def test_the_signs_of_version_2_are_all_known() -> None:
    text = in_version(2, "(== Y[0,0] 0.0)", "(!= Y[0,1] 0.0)", "(> Y[0,0] -1.0)", "(< Y[0,0] 1.0)")
    query = parse(text)
    (case,) = query.cases
    assert len(case.outputs) == 2
    for first, second in product([-1, 0, 1], repeat=2):
        assert query.holds([Fraction(0)] * 2, [Fraction(first), Fraction(second)]) == (first == 0 and second != 0)
    assert all(isinstance(atom, Atom) for part in case.outputs for atom in part)


PIECES = [
    "(",
    ")",
    "[",
    "]",
    '"',
    "assert",
    "X",
    "-",
    "1e5",
    "9" * 30,
    "\0",
    "<2.0>",
    "\n",
    ";",
    "(declare-hidden H float32 [1] ",
]


@settings(max_examples=150)
@given(
    st.sampled_from([1, 2]), st.lists(st.tuples(st.integers(0, 400), st.sampled_from(PIECES)), min_size=1, max_size=4)
)
def test_whatever_is_written_is_read_or_refused_in_one_line(version: int, changes: list[tuple[int, str]]) -> None:
    text = in_version(version, formula_text(Every((Atom(Variable(True, 0), Variable(True, 1), True, 1),)), version))
    for place, piece in changes:
        text = text[:place] + piece + text[place + len(piece) % 3 :]
    try:
        parse(text)
    except QueryError as error:
        fault = str(error)
        if len(fault.splitlines()) > 1 or len(fault) > 600:
            raise AssertionError(fault) from error


DECIMALS = st.integers(-(10**9), 10**9).map(lambda number: f"{number / 10**9:.9f}")


def in_boxes(boxes: Sequence[Sequence[tuple[str, str]]], version: int) -> Query:
    """Return a query about several boxes of two inputs, given by their ends."""
    parts = [
        " ".join(
            f"(>= {name} {low}) (<= {name} {high})"
            for name, (low, high) in zip((("X_0", "X_1") if version == 1 else ("X[0,0]", "X[0,1]")), box, strict=True)
        )
        for box in boxes
    ]
    return parse(query_text([f"(or {' '.join(f'(and {part})' for part in parts)})"], version))


@given(DECIMALS, st.sampled_from([1, 2]))
def test_an_input_that_is_fixed_to_a_decimal_is_the_float32_next_to_it(decimal: str, version: int) -> None:
    query = in_boxes([[(decimal, decimal), ("-0.5", "0.3")]], version)
    near = nearest(Fraction(decimal))
    is_held = Fraction(float(near)) == Fraction(decimal)
    assert query.rounded == (frozenset() if is_held else {0})
    (case,) = query.cases
    assert case.inner[:, 0].tolist() == [near, near]
    others = [near, np.nextafter(near, np.float32(2)), np.nextafter(near, np.float32(-2))]
    for found, place in product(others, (Fraction(0), Fraction("0.3"), Fraction(float(np.float32(0.3))))):
        point = [Fraction(float(found)), place]
        # the other input is read as it is written, and rounded as well: 0.3 lies below the float32 next to it
        assert query.holds(point, [Fraction(0)] * 2) == (found == near and place <= Fraction("0.3"))


@given(st.lists(st.tuples(st.booleans(), DECIMALS, DECIMALS), min_size=2, max_size=3), st.sampled_from([1, 2]))
def test_boxes_that_hold_a_float32_are_read_as_they_are_written(
    boxes: list[tuple[bool, str, str]], version: int
) -> None:
    """What satisfies a query satisfies it in both readings, but for boxes that hold no float32 in one of them."""
    ends = [
        (low, low) if is_fixed else (min(low, high, key=Fraction), max(low, high, key=Fraction))
        for is_fixed, low, high in boxes
    ]
    query = in_boxes([[pair, ("-1.0", "1.0")] for pair in ends], version)
    for low, high in ends:
        for value in (nearest(Fraction(low)), nearest(Fraction(high))):
            if query.holds([Fraction(float(value)), Fraction(0)], [Fraction(0)] * 2):
                held = [(a, b) for a, b in ends if Fraction(a) <= Fraction(float(value)) <= Fraction(b)]
                fixed = [(a, b) for a, b in ends if nearest(Fraction(a)) <= value <= nearest(Fraction(b))]
                assert held or (query.rounded and all(not _held(a, b) for a, b in fixed))


def _held(low: str, high: str) -> bool:
    """Return whether a float32 lies between two decimals."""
    first = nearest(Fraction(low))
    first = first if Fraction(float(first)) >= Fraction(low) else np.nextafter(first, np.float32(2))
    return Fraction(float(first)) <= Fraction(high)
