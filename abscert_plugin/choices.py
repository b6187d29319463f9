"""A word that names one of a few choices, and what to say of one that names none."""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, TypeVar

from abscert_plugin.errors import ConfigError

Choice = TypeVar("Choice", bound=StrEnum)
_ALIKE: Final = 0.6


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """Return what ends a message about an unknown word: the name most like it; empty where none is alike.

    >>> did_you_mean("Crown_IBP", ["ibp", "crown-ibp"])
    '; did you mean crown-ibp?'
    """
    plain = {_plain(name): name for name in names}
    close = get_close_matches(_plain(str(word)), plain, 1, _ALIKE)
    return f"; did you mean {plain[close[0]]}?" if close else ""


def _plain(word: str) -> str:
    return word.lower().replace("_", "-").strip()


def expected_one_of(what: str, names: Iterable[str], got: object) -> str:
    """Return the message about a word that is none of some names.

    >>> expected_one_of("a claim", ["cell", "ball"], "bal")
    "expected a claim: one of cell, ball; got 'bal'; did you mean ball?"
    """
    known = list(names)
    return f"expected {what}: one of {', '.join(known)}; got {got!r}{did_you_mean(got, known)}"


def member(kind: type[Choice], option: str, value: str) -> Choice:
    """Return the member of an enumeration that an option names.

    Raises:
        ConfigError: if there is none; the message lists those there are.
    """
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigError(expected_one_of(f"--{option}", kind, value)) from error
