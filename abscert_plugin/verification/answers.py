"""What a solver answers to a VNN-LIB query: a word, and the input that satisfies it, in the formats of the field."""

import re
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float64

from abscert_plugin.claim import QueryVerdict
from abscert_plugin.errors import VerifierError

_WORDS: Final = {
    **{str(word): word for word in QueryVerdict},
    "holds": QueryVerdict.UNSAT,
    "violated": QueryVerdict.SAT,
    "timeout": QueryVerdict.TIMED_OUT,
    "timed_out": QueryVerdict.TIMED_OUT,
}
_FIRST: Final = re.compile(r"([\w-]+)[ \t,]*(\(.*)?")  # nothing but a word, or an input after it
_PAIR: Final = re.compile(r"\(\s*X_(\d+)\s+([-+.\w]+)\s*\)")
_TENSOR: Final = re.compile(r"X\s+\w+\s+\[[\d,\s]*\]")
_SHOWN: Final = 60


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A solver's word, and the input that it names, in row-major order; None of all words but `sat`."""

    word: QueryVerdict
    point: Float64[np.ndarray, "size"] | None = None


def read_answer(text: str, size: int) -> Answer:
    """Return what a solver answered.

    Both formats are read: of VNN-COMP, `((X_0 0.5) (X_1 1.0) (Y_0 2.0))` after the word, and of the standard, a line
    `X float32 [1,2]` with a value on each of the lines that follow.

    Args:
        text: the word on its first line that is not empty, then the input.
        size: how many entries the input has.

    Raises:
        VerifierError: if it is no answer, or `sat` without a finite value for each entry.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise VerifierError("it gave no answer")
    first = _FIRST.fullmatch(lines[0])
    word = None if first is None else _WORDS.get(first[1].lower())
    if first is None or word is None or (first[2] and word is not QueryVerdict.SAT):
        raise VerifierError(f"expected sat, unsat, unknown or timed-out on its first line, got {lines[0][:_SHOWN]!r}")
    if word is not QueryVerdict.SAT:
        return Answer(word)
    rest = [*([first[2]] if first[2] else []), *lines[1:]]
    point = _listed(rest, size) if any(_TENSOR.fullmatch(line) for line in rest) else _paired(rest, size)
    if point is None or not np.isfinite(point).all():
        raise VerifierError(f"it answered sat without a value for each of {size} inputs")
    return Answer(word, point)


def _paired(lines: list[str], size: int) -> Float64[np.ndarray, "size"] | None:
    found = {int(place): value for place, value in _PAIR.findall(" ".join(lines))}
    if found.keys() != set(range(size)):
        return None
    return _numbers([found[place] for place in range(size)])


def _listed(lines: list[str], size: int) -> Float64[np.ndarray, "size"] | None:
    start = next(place for place, line in enumerate(lines) if _TENSOR.fullmatch(line)) + 1
    values = lines[start : start + size]
    return _numbers(values) if len(values) == size else None


def _numbers(texts: list[str]) -> Float64[np.ndarray, "_"] | None:
    try:
        return np.array([float(text) for text in texts], dtype=np.float64)
    except ValueError:
        return None
