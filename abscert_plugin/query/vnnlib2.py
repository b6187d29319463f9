"""VNN-LIB 2, parsed and type-checked by the package `vnnlib`, which its authors maintain."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import vnnlib

from abscert_plugin.errors import QueryError
from abscert_plugin.query.formula import Every, Formula, Some, compared
from abscert_plugin.query.query import Declared, ElementType, Query, build
from abscert_plugin.query.terms import Term, Variable, operation
from abscert_plugin.query.vnnlib1 import number

_DEEPEST: Final = 100  # parentheses: the package's parser calls itself
_LONGEST: Final = 300  # characters of what the package says
_COMMENT: Final = re.compile(r";[^\n]*")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")
_INDICES: Final = re.compile(r"\s*(\d{1,9}\s*(,\s*\d{1,9}\s*)*)?")
_VERSION: Final = re.compile(r"\(\s*vnnlib-version\s*<(\d+\.\d+)>\s*\)")
_KINDS: Final[Mapping[str, ElementType]] = {
    "Real": ElementType.REAL,
    "F32": ElementType.FLOAT32,
    "I64": ElementType.INT64,
}
_COMPARISONS: Final = (
    (vnnlib.LessEqual, "<="),
    (vnnlib.LessThan, "<"),
    (vnnlib.GreaterEqual, ">="),
    (vnnlib.GreaterThan, ">"),
    (vnnlib.Equal, "=="),
    (vnnlib.NotEqual, "!="),
)
_OPERATIONS: Final = ((vnnlib.Negate, "-"), (vnnlib.Plus, "+"), (vnnlib.Minus, "-"), (vnnlib.Multiply, "*"))
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
# What the package raises: its own exception, and what C++ throws at numbers that are too long.
_FAULTS: Final = (vnnlib.VNNLibException, IndexError, ValueError, RuntimeError, OverflowError, MemoryError)


def read_version_2(text: str) -> Query:
    """Return the query of a file of version 2.

    Raises:
        QueryError: if it cannot be read, or is about more than one network with one input and one output, of float32
            or real; names the line and the reason.
    """
    bare = _COMMENT.sub("", text)
    version = _VERSION.search(bare)
    if version is None or version[1] != "2.0":
        raise QueryError(f"line 1: expected (vnnlib-version <2.0>), got {'none' if version is None else version[1]}")
    _check_form(bare)
    try:
        parsed = vnnlib.parse_query_string(text)
    except _FAULTS as error:
        raise QueryError(_reason(error, bare)) from error
    if len(parsed.networks) != 1:
        raise QueryError(f"expected one network, got {[network.name for network in parsed.networks]}")
    (network,) = parsed.networks
    if len(network.inputs) != 1 or len(network.outputs) != 1 or network.hidden:
        raise QueryError(
            f"expected one input and one output of network {network.name!r}, got {len(network.inputs)}, "
            f"{len(network.outputs)} and {len(network.hidden)} hidden ones"
        )
    source, output = (_declared(tensor, bare) for tensor in (network.inputs[0], network.outputs[0]))
    if source.kind is ElementType.INT64 or (source.kind is ElementType.REAL) != (output.kind is ElementType.REAL):
        raise QueryError(
            f"line {_line(bare, source.name)}: expected an input and an output of float32 or of real, got "
            f"{source.kind} and {output.kind}"
        )
    assertions = [_formula(assertion.expr, 0) for assertion in parsed.assertions]
    return build(version[1], network.name, source, output, assertions)


def _check_form(bare: str) -> None:
    """Raise where parentheses are too deep or an index is none, which the package does not see, or it cannot read."""
    depth = deepest = 0
    for line, words in enumerate(bare.split("\n"), 1):
        if not words.isascii():
            found = next(letter for letter in words if not letter.isascii())
            raise QueryError(f"line {line}: expected letters and digits of ASCII outside comments, got {found!r}")
        for letter in words:
            depth += (letter == "(") - (letter == ")")
            deepest = max(deepest, depth)
        if deepest > _DEEPEST:
            raise QueryError(f"line {line}: expected at most {_DEEPEST} open parentheses, got more")
    for match in _BRACKETS.finditer(bare):
        if not _INDICES.fullmatch(match[1]):
            line = bare.count("\n", 0, match.start()) + 1
            raise QueryError(f"line {line}: expected whole numbers of at least 0 in [], got {match[0][:40]!r}")


def _reason(error: Exception, bare: str) -> str:
    """Return in one line what the package says of a query that it does not take."""
    said = str(error)
    if said.endswith("stod"):  # the C++ function that reads numbers; it says no more
        lines = (number for number, words in enumerate(bare.split("\n"), 1) if _has_huge(words))
        return f"line {next(lines, 1)}: expected numbers below 2^1024 in size"
    try:
        first = json.loads(said)["errors"][0]
        found = f"line {first['line']}: {first['message']}, at {first['offendingSymbol']!r}. {first['hint']}"
    except (ValueError, KeyError, IndexError, TypeError):
        line = re.search(r"line (\d+)", said)
        found = (f"line {line[1]}: " if line else "") + (said.removeprefix("Parse error: ") or type(error).__name__)
    return " ".join(found.split())[:_LONGEST]


def _has_huge(words: str) -> bool:
    return any(math.isinf(float(number)) for number in _NUMBER.findall(words))


def _declared(tensor: Any, bare: str) -> Declared:
    kind = _KINDS.get(tensor.dtype.name)
    if kind is None:
        line = _line(bare, tensor.name)
        raise QueryError(f"line {line}: expected float32 or real entries of {tensor.name}, got {tensor.dtype.name}")
    try:
        return Declared.of(tensor.name, kind, tuple(tensor.shape))
    except QueryError as error:
        raise QueryError(f"line {_line(bare, tensor.name)}: {error}") from error


def _line(bare: str, name: str) -> int:
    """Return the line that declares a tensor."""
    found = re.search(rf"\(\s*declare-(?:input|output)\s+{re.escape(name)}\b", bare)
    return 1 if found is None else bare.count("\n", 0, found.end()) + 1


def _formula(node: Any, line: int) -> Formula:
    if isinstance(node, vnnlib.Connective):
        parts = tuple(_formula(part, line) for part in node.children())
        return Every(parts) if isinstance(node, vnnlib.And) else Some(parts)
    sign = next(sign for kind, sign in _COMPARISONS if isinstance(node, kind))
    left, right = _term(node.lhs), _term(node.rhs)
    return compared(sign, left, right, _where(node))


def _where(node: Any) -> int:
    """Return the line of the first entry or number of a node."""
    if isinstance(node, (vnnlib.Var, vnnlib.Literal)):
        return int(node.line)
    return max((_where(part) for part in node.children()), default=0)


def _term(node: Any) -> Term:
    if isinstance(node, vnnlib.Var):
        shape, indices = tuple(node.shape), tuple(node.indices)
        if len(shape) != len(indices) or any(not 0 <= index < size for index, size in zip(indices, shape, strict=True)):
            raise QueryError(
                f"line {node.line}: expected an entry of {node.name}, got {list(indices)} of {list(shape)}"
            )
        place = int(np.ravel_multi_index(indices, shape)) if shape else 0
        return Variable(node.kind == vnnlib.SymbolKind.Output, place)
    if isinstance(node, vnnlib.Literal):
        return number(node.lexeme, int(node.line))
    sign = next(sign for kind, sign in _OPERATIONS if isinstance(node, kind))
    return operation(sign, tuple(_term(part) for part in node.children()))
