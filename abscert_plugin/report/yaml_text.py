"""YAML in blocks, as the heads of model cards are written: mappings, lists, texts, numbers; no library needed."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Yaml: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_/-]*(?: [A-Za-z0-9_/-]+)*")
_READ_OTHERWISE: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


def yaml_text(value: Mapping[str, Yaml]) -> str:
    r"""Return a mapping as YAML that versions 1.1 and 1.2 read alike; floats are read back to the last bit.

    Args:
        value: keys are words of letters, digits, `_` and `-`.

    >>> print(yaml_text({"tags": ["onnx", "8"], "found": [{"value": 1e-05, "name": "a: b\n"}]}), end="")
    tags:
    - onnx
    - "8"
    found:
    - value: 1.0e-05
      name: "a: b\u000A"
    """
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Yaml) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _entry(key, item)]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return [line for item in value for line in _item(item)]
    return [_scalar(value)]


def _entry(key: str, value: Yaml) -> list[str]:
    lines = _lines(value)
    if isinstance(value, Mapping) and value:
        return [f"{key}:", *(f"  {line}" for line in lines)]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return [f"{key}:", *lines]
    return [f"{key}: {lines[0]}"]


def _item(value: Yaml) -> list[str]:
    first, *others = _lines(value)
    return [f"- {first}", *(f"  {line}" for line in others)]


def _scalar(value: Yaml) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _READ_OTHERWISE else _quoted(value)
    return "{}" if isinstance(value, Mapping) else "[]"


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")  # without a point, version 1.1 reads a text


def _quoted(text: str) -> str:
    return '"' + "".join(map(_letter, text)) + '"'


def _letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    return f"\\u{ord(letter):04X}" if ord(letter) < 2**16 else f"\\U{ord(letter):08X}"
