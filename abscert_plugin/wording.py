"""What a parser's error says, in words of ours: users know their files, and not the libraries that read them."""

import errno
import json
import re
import tomllib
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from abscert_plugin.choices import did_you_mean

_KINDS: Final = MappingProxyType(
    {
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
        "array": "a list",
        "object": "a table of names and values",
        "null": "nothing",
    }
)
_LONGEST: Final = 160
_SHORT: Final = 200
_PLACE: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)
_ENUM: Final = re.compile(r"Invalid enum value (.*)$", re.DOTALL)
_TYPE: Final = re.compile(r"`([a-z |]+)`")
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
_OF_SYSTEM: Final = MappingProxyType({errno.EEXIST: "a file of this name is there"})
_OF_PYTHON: Final = (
    (re.compile(r"invalid literal for int\(\) with base 10: (.*)"), r"\1 is no whole number"),
    (re.compile(r"could not convert string to float: (.*)"), r"\1 is no number"),
    (re.compile(r"(?:not enough|too many) values to unpack.*"), "it has another number of parts"),
    (re.compile(r"(.*) is not a valid \w+"), r"\1 is none of the values that there are"),
    (re.compile(r" ?<[^<>]* at 0x[0-9a-f]+>"), ""),
    (re.compile(r"(?:/[^/\s]+)*/site-packages/\S+"), "a library"),
)
"""What Python itself says, and in what words it is told."""
_TOML_PLACE: Final = re.compile(r"\(at (line \d+, column \d+|end of document)\)")


def plain_words(error: BaseException, known: Iterable[str] = ()) -> str:
    """Return what is wrong with a text, in words of ours.

    Args:
        error: of json, tomllib, msgspec, a codec, the system or a conversion.
        known: keys that the text may have, for a guess at what an unknown one was to be.

    >>> plain_words(ValueError("Object missing required field `title`"))
    "the key 'title' is missing"
    """
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno} is not JSON"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half of a character"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, OSError):  # not its number, and not its path, which the message has already
        reason = _OF_SYSTEM.get(error.errno or 0, error.strerror)
        if reason:
            return reason
    if isinstance(error, KeyError) and error.args:
        return f"the key {error.args[0]!r} is missing"
    message = str(error)
    if isinstance(error, tomllib.TOMLDecodeError):
        place = _TOML_PLACE.search(message)
        return "it is cut short" if place is None or place[1].startswith("end") else f"{place[1]} is not TOML"
    for pattern, words in _OF_PYTHON:
        message = pattern.sub(words, message)
    return " ".join(_of_msgspec(message, known).split())[:_LONGEST] or "it cannot be read"


def _of_msgspec(message: str, known: Iterable[str]) -> str:
    if message.startswith("JSON is malformed"):
        place = _BYTE.search(message)
        return "it is not JSON" if place is None else f"byte {int(place[1]) + 1} is not JSON"
    if message == "Input data was truncated":
        return "it is cut short"
    found = _PLACE.search(message)
    where = f" at {found[1]}" if found is not None and found[1] else ""
    bare = _PLACE.sub("", message)
    if (unknown := _UNKNOWN.match(bare)) is not None:
        return f"there is no key {unknown[1]!r}{where}{did_you_mean(unknown[1], known)}"
    if (missing := _MISSING.match(bare)) is not None:
        return f"the key {missing[1]!r} is missing{where}"
    if (value := _ENUM.match(bare)) is not None:
        return f"{value[1]} is none of the values that there are{where}"
    if bare.startswith("Expected "):
        bare = f"expected {_TYPE.sub(lambda kind: _kind(kind[1]), bare.removeprefix('Expected '))}"
    return bare + where


def _kind(names: str) -> str:
    return " or ".join(_KINDS.get(name.strip(), name.strip()) for name in names.split("|"))


def one_line(error: BaseException) -> str:
    r"""Return the beginning of an error's message in one line; its kind where it has none.

    >>> one_line(ValueError("no number:\n  x"))
    'no number: x'
    """
    return " ".join(str(error).split())[:_SHORT] or type(error).__name__
