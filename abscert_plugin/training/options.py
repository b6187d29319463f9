"""What a method's options mean: each field of its dataclass, by the docstring, with its default and its range.

A field says its range by its type, or by its metadata: `UNIT`, `PART`, `POSITIVE` or `NOT_NEGATIVE`. The dataclass
calls `check_ranges` in `__post_init__`.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import EnumType
from types import MappingProxyType
from typing import Any, Final, final, get_type_hints

from abscert_plugin.errors import ConfigError

PATIENCE: Final = 0
"""`TrainingConfig.patience` of methods where nothing else is asked for: a loss that rises with the radius is no reason
to end."""
GRADIENT_CLIP: Final = 10.0
"""`TrainingConfig.gradient_clip` likewise; as in the code of Shi et al. 2021."""


@final
@dataclass(frozen=True, slots=True)
class _Range:
    words: str
    holds: Callable[[float], bool]


_RANGE: Final = "range"
UNIT: Final[Mapping[str, _Range]] = MappingProxyType({_RANGE: _Range("from 0 to 1", lambda value: 0 <= value <= 1)})
POSITIVE: Final[Mapping[str, _Range]] = MappingProxyType({_RANGE: _Range("of at least 1", lambda value: value >= 1)})
PART: Final[Mapping[str, _Range]] = MappingProxyType(
    {_RANGE: _Range("above 0 and at most 1", lambda value: 0 < value <= 1)}
)
NOT_NEGATIVE: Final[Mapping[str, _Range]] = MappingProxyType(
    {_RANGE: _Range("of at least 0", lambda value: 0 <= value < math.inf)}
)
_KINDS: Final[Mapping[Any, str]] = MappingProxyType(
    {bool: "true, false", int: "a whole number", float: "a number", str: "text"}
)


@final
@dataclass(frozen=True, slots=True)
class OptionFacts:
    """What is told of an option.

    Args:
        name: what `--set` calls it.
        meaning: what it is, in a line; empty where its class does not say.
        default: its value where none is given; empty where one has to be.
        range: the values that it may have, in words.
    """

    name: str
    meaning: str
    default: str
    range: str


def check_ranges(options: Any) -> None:
    """Raise ConfigError if a field of a dataclass of options is outside the range that its metadata say."""
    for field in dataclasses.fields(options):
        limits, value = field.metadata.get(_RANGE), getattr(options, field.name)
        if limits is not None and not limits.holds(value):
            raise ConfigError(f"expected {field.name} {limits.words}, got {value}")


def facts_of(options: type[Any]) -> tuple[OptionFacts, ...]:
    """Return what the fields of a dataclass of options are.

    >>> @dataclass
    ... class Options:
    ...     '''Some.
    ...
    ...     Args:
    ...         share: of the loss,
    ...             at last.
    ...     '''
    ...     share: float = dataclasses.field(default=0.5, metadata=UNIT)
    >>> facts_of(Options)
    (OptionFacts(name='share', meaning='of the loss, at last', default='0.5', range='0 to 1'),)
    """
    meanings, kinds = _meanings(options), get_type_hints(options)
    return tuple(
        OptionFacts(field.name, meanings.get(field.name, ""), _shown(field.default), _range(field, kinds[field.name]))
        for field in dataclasses.fields(options)
    )


def _meanings(options: type[Any]) -> dict[str, str]:
    """Return what the section `Args` of a class's docstring says of each name."""
    _, _, section = (inspect.getdoc(options) or "").partition("\nArgs:\n")
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(field: "dataclasses.Field[Any]", kind: Any) -> str:
    if isinstance(kind, EnumType):
        members: list[Any] = list(kind)
        return ", ".join(str(member.value) for member in members)
    limits = field.metadata.get(_RANGE)
    return _KINDS.get(kind, "") if limits is None else limits.words.removeprefix("from ").removeprefix("of ")
