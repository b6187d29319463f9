"""Arguments of another kind than a parameter takes: told in one line, before anything is made of them."""

import inspect
import operator
import reprlib
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin

import numpy as np

from abscert_plugin.data import DataSet
from abscert_plugin.engines.job import Engine
from abscert_plugin.errors import ConfigError
from abscert_plugin.telling import Tell


def _is_whole(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]  # that is what is tried
    except (TypeError, ValueError, RuntimeError):  # the latter two of a tensor of many
        return False
    return True


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, (str, bytes)) and float(value) is not None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


_KINDS: Final[Mapping[object, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        bool: ("True or False", lambda value: isinstance(value, (bool, np.bool_, int))),
        int: ("a whole number", _is_whole),
        float: ("a number", _is_number),
        str: ("a str", lambda value: isinstance(value, str)),
        Path: ("a path", lambda value: isinstance(value, PathLike)),
        PathLike: ("a path", lambda value: isinstance(value, PathLike)),
        Callable: ("a function", callable),
        Tell: ("a function", callable),
        DataSet: ("a data set", lambda value: isinstance(value, DataSet)),
        Engine: ("an engine, such as Processes(2)", lambda value: isinstance(value, Engine)),
        NoneType: ("None", lambda value: value is None),
    }
)
"""What messages call each kind, and whether a value is of it: anything that numpy, or torch, gives as a number is one.

Parameters of other kinds (images, models, radii) are checked where they are read, which knows more of them.
"""


def parameter_kinds(function: Callable[..., Any]) -> dict[str, tuple[object, ...]]:
    """Return the kinds of each parameter of a function that is made of those that are checked here.

    >>> def decide(path: str | None, images: list[str], seconds: float = 1.0) -> None: ...
    >>> parameter_kinds(decide)
    {'path': (<class 'str'>, <class 'NoneType'>), 'seconds': (<class 'float'>,)}
    """
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = parameter.annotation
        parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        kinds = tuple(get_origin(part) or part for part in parts)
        if all(isinstance(kind, type) and kind in _KINDS for kind in kinds):
            found[name] = kinds
    return found


def check_arguments(kinds: Mapping[str, tuple[object, ...]], given: Mapping[str, object]) -> None:
    """Raise unless each argument is of one of its parameter's kinds.

    >>> check_arguments({"seconds": (int, NoneType)}, {"seconds": "x"})
    Traceback (most recent call last):
    abscert_plugin.errors.ConfigError: expected seconds as a whole number or None, got 'x'

    Raises:
        ConfigError: naming the first that is not.
    """
    for name, value in given.items():
        taken = [_KINDS[kind] for kind in kinds.get(name, ())]
        if taken and not any(is_of(value) for _, is_of in taken):
            words = " or ".join(dict.fromkeys(word for word, _ in taken)).replace(
                "a whole number or a number", "a number"
            )
            raise ConfigError(f"expected {name} as {words}, got {reprlib.repr(value)}")
