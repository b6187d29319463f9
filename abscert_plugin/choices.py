"""A word that names one of a few choices."""

from enum import StrEnum
from typing import TypeVar

from abscert_plugin.errors import ConfigError

Choice = TypeVar("Choice", bound=StrEnum)


def member(kind: type[Choice], option: str, value: str) -> Choice:
    """Return the member of an enumeration that an option names.

    Raises:
        ConfigError: if there is none; the message lists those there are.
    """
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(f"expected --{option} of {', '.join(kind)}, got {value!r}") from error
