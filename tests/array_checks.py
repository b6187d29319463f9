"""Checks of arrays while tests run: of functions and dataclasses that say the shape of one, and of nothing else.

The option `--jaxtyping-packages` decorates every function of the packages with `jaxtyping.jaxtyped`. Where no shape is
said there is nothing for it to find that mypy does not, and the calls of tiny functions would take half of the time.
"""

import inspect
from typing import Any, get_args

import jaxtyping
from jaxtyping import AbstractArray

_EVERYWHERE = jaxtyping.jaxtyped


def check_arrays_alone() -> None:
    """Let jaxtyping's import hook, whose decorator is looked up as a module is loaded, leave all others as they are."""
    jaxtyping.jaxtyped = _where_arrays_are  # type: ignore[assignment]


def says_a_shape(function: Any) -> bool:
    """Return whether an argument, the result, or a field of a dataclass is an array of a stated shape."""
    called = function.__init__ if inspect.isclass(function) else function
    return any(_holds_array(annotation) for annotation in getattr(called, "__annotations__", {}).values())


def _where_arrays_are(function: Any = None, *, typechecker: Any) -> Any:
    if function is None:
        return lambda decorated: _where_arrays_are(decorated, typechecker=typechecker)
    return _EVERYWHERE(function, typechecker=typechecker) if says_a_shape(function) else function


def _holds_array(annotation: Any) -> bool:
    if isinstance(annotation, str):  # a class that is not defined yet
        return "Tensor" in annotation or "ndarray" in annotation
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(_holds_array, annotation))
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(map(_holds_array, get_args(annotation)))
