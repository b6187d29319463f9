"""Sizes, and small constants that sizes are made of: what `batch_obstacle` knows of them."""

from collections.abc import Callable, Mapping
from itertools import repeat
from types import MappingProxyType
from typing import Final

from onnx import TensorProto, numpy_helper

from abscert_plugin.graph.carried import BATCH, LARGE, Fixed, NotShownError, Rule, Scope, Sizes, Value, small

_INT32: Final = 2**31

Entry = int | str | None


def _need(holds: bool) -> None:
    if not holds:
        raise NotShownError


def _sizes(pick: Callable[[Scope], tuple[int | str | None, ...]]) -> Rule:
    return lambda scope: [Sizes(pick(scope))]


def _constant(scope: Scope) -> list[Value]:
    attributes = scope.node.attributes
    if "value" in attributes:
        return [Fixed(small(attributes["value"]))]
    if "value_int" in attributes:
        return [Fixed((attributes["value_int"],))]
    return [Fixed(tuple(attributes["value_ints"]) if "value_ints" in attributes else None)]


def _cast(scope: Scope) -> tuple[int | str | None, ...]:
    _need(scope.node.attributes["to"] in (TensorProto.INT32, TensorProto.INT64))
    entries = scope.entries(0)
    _need(all(not isinstance(entry, int) or abs(entry) < _INT32 for entry in entries))
    return entries


def _gathered(scope: Scope) -> tuple[int | str | None, ...]:
    entries, indices = scope.entries(0), scope.integers("", 1)
    _need(indices is not None and scope.node.attributes.get("axis", 0) == 0 and scope.rank(0) == 1)
    return tuple(entries[index] for index in indices or ())


def _sliced(scope: Scope) -> tuple[int | str | None, ...]:
    starts, ends = scope.integers("starts", 1) or [], scope.integers("ends", 2) or []
    steps = scope.integers("steps", 4) or [1]
    _need(len(starts) == len(ends) == 1 and steps == [1] and scope.rank(0) == 1)
    return scope.entries(0)[starts[0] : ends[0]]


def _filled(scope: Scope) -> tuple[Entry, ...]:
    (size,) = scope.entries(0)
    _need(isinstance(size, int) and size <= LARGE)
    value = scope.node.attributes.get("value")
    number = 0 if value is None else numpy_helper.to_array(value).reshape(-1)[0].item()
    _need(isinstance(number, int))
    return (number,) * int(size or 0)


def _product(scope: Scope) -> tuple[Entry, ...]:
    found: list[Entry] = []
    for first, second in _pairs(scope, 0, 1):
        _need(BATCH not in (first, second))
        is_known = isinstance(first, int) and isinstance(second, int)
        found.append(first * second if is_known else None)  # type: ignore[operator]
        _need(not is_known or abs(found[-1]) < _INT32)  # type: ignore[arg-type]
    return tuple(found)


def _equal(scope: Scope) -> tuple[Entry, ...]:
    """Return 1 and 0 for true and false; the size of a batch is no number below 0."""
    found: list[Entry] = []
    for pair in _pairs(scope, 0, 1):
        numbers = [entry for entry in pair if isinstance(entry, int)]
        if BATCH in pair:
            _need(len(numbers) == 1 and numbers[0] < 0)
            found.append(0)
        else:
            found.append(int(numbers[0] == numbers[1]) if len(numbers) == 2 else None)
    return tuple(found)


def _chosen(scope: Scope) -> tuple[Entry, ...]:
    answers = scope.entries(0)
    pairs = list(_pairs(scope, 1, 2))
    _need(all(answer in (0, 1) for answer in answers) and len(answers) == len(pairs))
    return tuple(first if answer else second for answer, (first, second) in zip(answers, pairs, strict=True))


def _pairs(scope: Scope, *places: int) -> list[tuple[Entry, Entry]]:
    """Return the entries of two inputs side by side; one entry goes with all."""
    first, second = (scope.entries(place) for place in places)
    _need(all(scope.rank(place) <= 1 for place in places))
    _need(len(first) == len(second) or 1 in (len(first), len(second)))
    count = max(len(first), len(second))
    spread = [entries if len(entries) == count else tuple(repeat(entries[0], count)) for entries in (first, second)]
    return list(zip(*spread, strict=True))


def _joined(scope: Scope) -> tuple[int | str | None, ...]:
    _need(all(scope.rank(place) == 1 for place in range(len(scope.node.inputs))))
    return tuple(entry for place in range(len(scope.node.inputs)) for entry in scope.entries(place))


SIZE_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "Cast": _sizes(_cast),
        "Concat": _sizes(_joined),
        "Constant": _constant,
        "ConstantOfShape": _sizes(_filled),
        "Equal": _sizes(_equal),
        "Gather": _sizes(_gathered),
        "Identity": _sizes(lambda scope: scope.entries(0)),
        "Mul": _sizes(_product),
        "Slice": _sizes(_sliced),
        "Squeeze": _sizes(lambda scope: scope.entries(0)),
        "Unsqueeze": _sizes(lambda scope: scope.entries(0)),
        "Where": _sizes(_chosen),
    }
)
"""Operators that only pick and order sizes."""
