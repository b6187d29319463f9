"""VNN-LIB 1: SMT-LIB's `declare-const` and `assert`, over X_0, X_1, ... and Y_0, Y_1, ..."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, final

from abscert_plugin.errors import QueryError
from abscert_plugin.query.formula import Every, Formula, Some, compared
from abscert_plugin.query.query import MOST_ENTRIES, VERSION_1, Declared, ElementType, Query, build
from abscert_plugin.query.terms import Number, Term, Variable, operation

# what stands in quotes is one word, whatever is in it: SMT-LIB 2.6, section 3.1
_TOKEN: Final = re.compile(
    r"""(?P<comment>;[^\n]*)|(?P<word>[()]|"(?:[^"]|"")*"|\|[^|]*\||[^\s();"|]+)|(?P<line>\n)|(?P<quote>["|])"""
)
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_ENTRY: Final = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
_LONGEST: Final = 1000  # characters of a number
_LARGEST: Final = 2**127  # near the largest float32
_SETTINGS: Final = ("set-logic", "set-info", "set-option")
_QUESTIONS: Final = ("check-sat", "get-model", "exit")
_DEEPEST: Final = 100  # parentheses
_COMPARISONS: Final[Mapping[str, str]] = {"<=": "<=", ">=": ">=", "<": "<", ">": ">", "=": "==", "!=": "!="}


@final
@dataclass(slots=True)
class _Tree:
    """A word, or what stands in a pair of parentheses.

    Args:
        line: where it begins.
        word: the word; empty where it is none.
        parts: what stands in the parentheses.
    """

    line: int
    word: str = ""
    parts: "list[_Tree]" = field(default_factory=list)

    @property
    def head(self) -> str:
        """The first word in the parentheses; empty where there is none."""
        return self.parts[0].word if self.parts else ""


def read_version_1(text: str) -> Query:
    """Return the query of a file of version 1; its types are written as Real, and it is read as one about float32.

    Raises:
        QueryError: if it cannot be read; names the line and the reason.
    """
    counts: dict[str, set[int]] = {"X": set(), "Y": set()}
    assertions = []
    asked = ""
    for tree in _trees(text):
        if tree.head in _QUESTIONS:
            asked = tree.head
        elif asked:  # it is asked of what stands before it
            raise QueryError(f"line {tree.line}: expected nothing after {asked} but a question, got {tree.head[:40]!r}")
        elif tree.head == "declare-const":
            _declare(tree, counts)
        elif tree.head == "assert" and len(tree.parts) == 2:
            assertions.append(_formula(tree.parts[1], counts))
        elif tree.head not in _SETTINGS:
            raise QueryError(f"line {tree.line}: expected declare-const or assert, got {tree.head[:40]!r}")
    tensors = []
    for letter, places in counts.items():
        if not places or max(places) >= len(places):
            raise QueryError(
                f"expected {letter}_0 to {letter}_n to be declared without gaps, got {len(places)} of them"
            )
        tensors.append(Declared(letter, ElementType.REAL, None, len(places)))
    return build(VERSION_1, None, tensors[0], tensors[1], assertions)


def _declare(tree: _Tree, counts: Mapping[str, set[int]]) -> None:
    words = [part.word for part in tree.parts]
    match = _ENTRY.fullmatch(words[1]) if len(words) == 3 else None
    if match is None or words[2] != "Real":
        raise QueryError(f"line {tree.line}: expected (declare-const X_0 Real), or Y_0, got {' '.join(words)[:80]!r}")
    place, places = int(match[2]), counts[match[1]]
    if place in places or place >= MOST_ENTRIES:
        raise QueryError(
            f"line {tree.line}: expected each entry to be declared once and below {MOST_ENTRIES:,}, got {words[1]}"
        )
    places.add(place)


def _trees(text: str) -> Iterator[_Tree]:
    """Yield what stands in the outermost parentheses of a file."""
    line = 1
    stack: list[_Tree] = []
    for match in _TOKEN.finditer(text):
        word = match["word"]
        if match["quote"]:
            raise QueryError(f"line {line}: expected a second {match['quote']} before the end of the file")
        if match["line"]:
            line += 1
        if word is None:
            continue
        if word == "(":
            stack.append(_Tree(line))
            if len(stack) > _DEEPEST:
                raise QueryError(f"line {line}: expected at most {_DEEPEST} open parentheses, got more")
        elif not stack:
            raise QueryError(f"line {line}: expected (, got {word[:40]!r}")
        elif word == ")":
            done = stack.pop()
            if stack:
                stack[-1].parts.append(done)
            else:
                yield done
        else:
            stack[-1].parts.append(_Tree(line, word))
            line += word.count("\n")
    if stack:
        raise QueryError(f"line {stack[-1].line}: expected ) before the end of the file")


def _formula(tree: _Tree, declared: Mapping[str, set[int]]) -> Formula:
    head, rest = tree.head, tree.parts[1:]
    if head in ("and", "or") and rest:
        found = tuple(_formula(part, declared) for part in rest)
        return Every(found) if head == "and" else Some(found)
    if head in _COMPARISONS and len(rest) == 2:
        left, right = (_term(part, declared) for part in rest)
        return compared(_COMPARISONS[head], left, right, tree.line)
    raise QueryError(
        f"line {tree.line}: expected and, or, or a comparison of two terms, got {(head or tree.word)[:40]!r}"
    )


def _term(tree: _Tree, declared: Mapping[str, set[int]]) -> Term:
    if tree.word:
        match = _ENTRY.fullmatch(tree.word)
        if match is None:
            return number(tree.word, tree.line)
        if int(match[2]) not in declared[match[1]]:
            raise QueryError(f"line {tree.line}: {tree.word} is not declared")
        return Variable(match[1] == "Y", int(match[2]))
    if tree.head in ("+", "-", "*") and len(tree.parts) > 1:
        return operation(tree.head, tuple(_term(part, declared) for part in tree.parts[1:]))
    raise QueryError(
        f"line {tree.line}: expected a number, an entry, or a sum, difference or product, got {tree.head[:40]!r}"
    )


def number(text: str, line: int) -> Number:
    """Return a decimal.

    Raises:
        QueryError: if it is none, or longer than a number has to be.
    """
    if len(text) > _LONGEST or not _DECIMAL.fullmatch(text):
        raise QueryError(f"line {line}: expected a number, got {text[:40]!r}")
    value = Fraction(text)
    if abs(value) > _LARGEST:
        raise QueryError(f"line {line}: expected a number of at most 2^127, got {text[:40]!r}")
    return Number(value)
