"""Messages name an option as the command line spells it; to a caller of Python it is a keyword argument."""

import functools
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from abscert_plugin.api.arguments import check_arguments, parameter_kinds
from abscert_plugin.errors import AbscertError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_OPTION: Final = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)")
_NAMES: Final = {"data": "images", "constant": "constants", "resume": "resume=True"}


def in_python(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a function that refuses arguments of another kind than its parameters say.

    Its errors name options as keyword arguments: `--batch-size` is `batch_size`.
    """
    signature, kinds = inspect.signature(function), parameter_kinds(function)

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with suppress(TypeError):  # of arguments that are missing or unknown, which Python says better below
            check_arguments(kinds, signature.bind(*args, **kwargs).arguments)
        try:
            return function(*args, **kwargs)
        except AbscertError as error:
            error.args = (as_keywords(str(error)),)
            raise

    return called


def as_keywords(message: str) -> str:
    """Return a message with options in the way of Python.

    >>> as_keywords("expected --batch-size of at least 1; choose other --data")
    'expected batch_size of at least 1; choose other images'
    """
    return _OPTION.sub(lambda found: _NAMES.get(found[1], found[1].replace("-", "_")), message)
