"""Keeping the lines of many parts in a file: numbers that are packed, and read without trust."""

import base64
import zlib
from collections.abc import Sequence
from typing import Final, Protocol, final

import msgspec
import numpy as np
from jaxtyping import Int64

from abscert_plugin.bounds.part import Cuts, Part
from abscert_plugin.bounds.waiting import Halved, nodes_of
from abscert_plugin.errors import RecordError

_MOST_BYTES: Final = 2**27  # that a text may unpack to


class Closed(Halved, Protocol):
    """A part of a tree, which lines may close."""

    lines: Part | None


@final
class KeptLines:
    """The lines that close parts of a tree, while they are no more than a file keeps.

    A search of minutes closes more parts than memory has room for the lines of; more than a file keeps are of no use.

    Args:
        root: the tree.
    """

    def __init__(self, root: Closed) -> None:
        self._root = root
        self._bytes = 0

    @property
    def are_whole(self) -> bool:
        """Whether all lines that a check of the tree needs are kept."""
        return self._bytes <= _MOST_BYTES

    def add(self, node: Closed, lines: Part | None) -> None:
        """Keep the lines that close a part, if any do; forget all of the tree's where they have become too many."""
        if lines is None or not self.are_whole:
            return
        node.lines = lines
        self._bytes += lines.line_bytes
        if self._bytes > _MOST_BYTES:
            for one in nodes_of(self._root):
                one.lines = None


@final
class PartLines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lines that close parts of a tree of hidden values, in its order.

    Args:
        rows: what is bounded in each part: the other classes, by their order without the label, or the constraints of
            a conjunction; int32, packed.
        bent: the activations whose lines are chosen; int32, packed.
        slopes: shares that choose them, of each part and row, in shares of 255; bytes, packed.
        multipliers: of each part and row, one of each activation that is cut in it; float32, packed.
    """

    rows: str
    bent: str
    slopes: str
    multipliers: str

    @classmethod
    def of(
        cls, parts: Sequence[Part], rows: Int64[np.ndarray, "row"], bent: Int64[np.ndarray, "bent"]
    ) -> "PartLines | None":
        """Return the lines of parts, of which there is at least one; None where they are more than are unpacked."""
        if sum(part.line_bytes for part in parts) > _MOST_BYTES:
            return None
        return cls(
            packed(rows.astype("<i4")),
            packed(bent.astype("<i4")),
            packed(np.stack([part.slopes for part in parts])),
            packed(np.concatenate([part.multipliers.reshape(-1) for part in parts]).astype("<f4")),
        )

    def of_margins(self, others: int, activations: int) -> tuple[Int64[np.ndarray, "row"], Int64[np.ndarray, "bent"]]:
        """Return `rows` and `bent`.

        Args:
            others: number of rows that there are.
            activations: number of those whose lines can be chosen.

        Raises:
            RecordError: if they name other ones, or one twice.
        """
        found = []
        for text, most, what in ((self.rows, others, "classes"), (self.bent, activations, "activations")):
            places = numbers(text, "<i4").astype(np.int64)
            if len(np.unique(places)) != len(places) or not ((places >= 0) & (places < most)).all():
                raise RecordError(f"its lines are of {what} that the file does not have")
            found.append(places)
        return found[0], found[1]

    def parts(self, cuts: Sequence[Cuts], rows: int, bent: int) -> list[Part]:
        """Return parts with the lines that are kept.

        Args:
            cuts: those of each part, in the tree's order.
            rows: number of rows.
            bent: number of activations whose lines are chosen.

        Raises:
            RecordError: if the lines are of other parts.
        """
        slopes, multipliers = numbers(self.slopes, "u1"), numbers(self.multipliers, "<f4").astype(np.float32)
        ends = np.cumsum([0, *(rows * len(some) for some in cuts)])
        if len(slopes) != len(cuts) * rows * bent or len(multipliers) != ends[-1]:
            raise RecordError("its lines are not those of its tree's parts")
        if not np.isfinite(multipliers).all():
            raise RecordError("its lines have a multiplier that is not finite")
        of_parts = zip(slopes.reshape(len(cuts), rows, bent), cuts, ends[:-1], ends[1:], strict=True)
        return [Part(slope, some, multipliers[a:b].reshape(rows, len(some))) for slope, some, a, b in of_parts]

    @property
    def length(self) -> int:
        """How many characters they take."""
        return sum(map(len, msgspec.structs.astuple(self)))


def packed(values: np.ndarray) -> str:
    """Return numbers as text."""
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode("ascii")


def numbers(text: str, kind: str, most: int | None = None) -> np.ndarray:
    """Return the numbers of a kind, as numpy names it, that are packed in a text, of at most some bytes (None: 2^27).

    Raises:
        RecordError: if it holds none, or more.
    """
    content = unpacked(text, most)
    if len(content) % np.dtype(kind).itemsize:
        raise RecordError("expected packed numbers, got half of one")
    return np.frombuffer(content, dtype=kind)


def unpacked(text: str, most: int | None = None) -> bytes:
    """Return the bytes that are packed in a text, at most some (None: 2^27).

    Raises:
        RecordError: if there are none, or too many.
    """
    most = _MOST_BYTES if most is None else most
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(text, validate=True), most)
    except (ValueError, zlib.error) as error:
        raise RecordError("expected what was packed with zlib, in base64") from error
    if not unpacker.eof or unpacker.unused_data:
        raise RecordError(f"expected at most {most} bytes that were packed whole")
    return content
