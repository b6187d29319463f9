"""What a baseline is: options, the method that they make, and the papers behind it; and the table's row for one."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import EnumType
from typing import Any, final, get_type_hints

import msgspec

from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import Activation
from abscert_plugin.training.method import Method

_RADIUS = "radius"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table of methods.

    Args:
        name: the method's name.
        summary: what it does, in one line.
        source: the paper.
        options: a frozen dataclass of its options; its field `radius`, if it has one, is the ball to train for.
        method: makes the method out of the options; the options themselves where they are a `Method`.
        activation: the activation function that its networks have where nothing else is asked for.
    """

    name: str
    summary: str
    source: str
    options: type[Any]
    method: Callable[[Any], Method]
    activation: Activation = Activation.RELU

    @property
    def option_names(self) -> tuple[str, ...]:
        """The options besides the radius."""
        return tuple(field.name for field in dataclasses.fields(self.options) if field.name != _RADIUS)

    def create(self, radius: Radius, given: Mapping[str, str]) -> Method:
        """Return the method for a radius and options in text, such as `{"share": "0.3"}`.

        Raises:
            ConfigError: if an option is unknown, or its value has no meaning.
        """
        unknown = [name for name in given if name not in self.option_names]
        if unknown:
            known = ", ".join(self.option_names) or "no options"
            raise ConfigError(f"{self.name} has no option {unknown[0]!r}; it has {known}")
        kinds = get_type_hints(self.options)
        values = {name: self._value(name, text, kinds[name]) for name, text in given.items()}
        if _RADIUS in kinds:
            values[_RADIUS] = radius
        return self.method(self.options(**values))

    def _value(self, name: str, text: str, kind: Any) -> Any:
        try:
            return msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as error:
            if isinstance(kind, EnumType):
                raise ConfigError(f"{self.name}: expected {name} of {', '.join(kind)}, got {text!r}") from error
            raise ConfigError(f"{self.name}: expected another value of {name}, got {text!r}: {error}") from error


def is_method(options: Method) -> Method:
    """Return options that are a method by themselves."""
    return options
