"""Checks of arrays while tests run: of functions and dataclasses that say the shape of one, and of nothing else.

The option `--jaxtyping-packages` decorates every function of the packages with `jaxtyping.jaxtyped`. Where no shape is
said there is nothing for it to find that mypy does not. A check takes longer than many of the functions that it checks,
so those that a test calls a thousand times are checked in its first calls and in some of the others, the same in each
run; without this, checks took a third of the time of all tests.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Final, get_args

import jaxtyping
from jaxtyping import AbstractArray

FIRST: Final = 20
EVERY: Final = 16
_EVERYWHERE: Final = jaxtyping.jaxtyped
_begun = 0  # tests so far


def check_arrays_alone() -> None:
    """Let jaxtyping's import hook, whose decorator is looked up as a module is loaded, check what is said above."""
    jaxtyping.jaxtyped = _where_arrays_are  # type: ignore[assignment]


def begin_test() -> None:
    """Check the first calls of every function anew."""
    global _begun
    _begun += 1


def says_a_shape(function: Any) -> bool:
    """Return whether an argument, the result, or a field of a dataclass is an array of a stated shape."""
    called = function.__init__ if inspect.isclass(function) else function
    return any(_holds_array(annotation) for annotation in getattr(called, "__annotations__", {}).values())


def now_and_then(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """Return a function that is checked in the first `FIRST` calls of a test, and in each `EVERY`th one."""
    checked: Callable[..., Any] | None = None
    test, calls = _begun, 0

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        nonlocal checked, test, calls
        if test != _begun:
            test, calls = _begun, 0
        calls += 1
        if calls > FIRST and calls % EVERY:
            return function(*args, **options)
        if checked is None:  # only now: it takes a millisecond, and most functions are called by few tests
            checked = _EVERYWHERE(function, typechecker=typechecker)
        return checked(*args, **options)

    return call


def _where_arrays_are(function: Any = None, *, typechecker: Any) -> Any:
    if function is None:
        return lambda decorated: _where_arrays_are(decorated, typechecker=typechecker)
    if not says_a_shape(function):
        return function
    if not inspect.isclass(function):
        return now_and_then(function, typechecker)
    if is_dataclass(function):
        function.__init__ = now_and_then(function.__init__, typechecker)  # type: ignore[method-assign]
    return function


def _holds_array(annotation: Any) -> bool:
    if isinstance(annotation, str):  # a class that is not defined yet
        return "Tensor" in annotation or "ndarray" in annotation
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(_holds_array, annotation))
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_holds_array, get_args(annotation)))
