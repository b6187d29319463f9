"""What proves a certified image besides the name of its method: optimised slopes, or the tree of a search."""

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import msgspec
import numpy as np
from jaxtyping import Float, Int64

from abscert_plugin.bounds.part import Cuts, Part
from abscert_plugin.errors import RecordError
from abscert_plugin.files import read_json, write_json
from abscert_plugin.wording import plain_words

RUN: Final = "run"
"""What closes a part of a tree whose combinations of cells were all run."""

CLOSING: Final = (RUN, "ibp", "crown-ibp", "crown", "optimised")
PROVEN: Final = ("ibp", "crown-ibp", "crown-lbp", "crown", "optimised")
"""The methods of rows that a proof alone has decided."""

RESEARCH: Final = "re-search"
"""What stands where nothing was kept that proves an image: it has to be searched for again."""

LEVELS: Final = 15
"""A stored slope is one of 0, 1/15, ..., 1; any slope is sound."""

_LONGEST: Final = 2**20  # characters that are kept of an image
_MOST_BYTES: Final = 2**27  # that they may unpack to


@final
@dataclass(slots=True)
class Node:
    """A part of a search's tree: cut in two, closed, or still open.

    Args:
        place: where it is cut: a pixel, or an activation among all; -1 where it is not.
        halves: its two parts, the lower one first.
        closed_by: one of `CLOSING`; empty where it is cut or open.
        part: the lines that close it, where it is closed by optimised ones.
    """

    place: int = -1
    halves: tuple["Node", "Node"] | None = None
    closed_by: str = ""
    part: Part | None = None

    def cut(self, place: int) -> tuple["Node", "Node"]:
        """Cut it, and return its halves."""
        self.place, self.halves = place, (Node(), Node())
        return self.halves


def listed(root: Node) -> Iterator[Node]:
    """Yield the nodes of a tree: each before its lower and then its upper half."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.halves or ())


@final
class PartLines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lines that close parts of a tree of hidden values, in its order.

    Args:
        rows: the other classes that are bounded in each part, by their order without the label; int32, packed.
        bent: the activations whose lines are chosen; int32, packed.
        slopes: shares that choose them, of each part and row, in shares of 255; bytes, packed.
        multipliers: of each part and row, one of each activation that is cut in it; float32, packed.
    """

    rows: str
    bent: str
    slopes: str
    multipliers: str

    def of_margins(self, others: int, activations: int) -> tuple[Int64[np.ndarray, "row"], Int64[np.ndarray, "bent"]]:
        """Return `rows` and `bent`.

        Args:
            others: number of margins.
            activations: number of those whose lines can be chosen.

        Raises:
            RecordError: if they name other ones, or one twice.
        """
        found = []
        for text, most, what in ((self.rows, others, "classes"), (self.bent, activations, "activations")):
            places = _numbers(text, "<i4").astype(np.int64)
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
        slopes, multipliers = _numbers(self.slopes, "u1"), _numbers(self.multipliers, "<f4").astype(np.float32)
        ends = np.cumsum([0, *(rows * len(some) for some in cuts)])
        if len(slopes) != len(cuts) * rows * bent or len(multipliers) != ends[-1]:
            raise RecordError("its lines are not those of its tree's parts")
        if not np.isfinite(multipliers).all():
            raise RecordError("its lines have a multiplier that is not finite")
        of_parts = zip(slopes.reshape(len(cuts), rows, bent), cuts, ends[:-1], ends[1:], strict=True)
        return [Part(slope, some, multipliers[a:b].reshape(rows, len(some))) for slope, some, a, b in of_parts]


@final
class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a check needs to prove an image again without a search.

    Args:
        tree: the tree of a branch and bound from its root, a node before its lower and then its upper half: the place
            of a cut, or -1 - k where the k-th of `CLOSING` closes it; int32, packed.
        slopes: lower slopes of the file's ReLUs, of all margins, in fifteenths; bytes, packed.
        lines: what closes parts of a tree of hidden values by optimised lines.
        loose: names of the hidden tensors that these left to intervals.
        by_hidden: whether the tree is one of hidden values; of a file without cells every tree is.
    """

    tree: str | None = None
    slopes: tuple[str, ...] | None = None
    lines: "PartLines | None" = None
    loose: tuple[str, ...] = ()
    by_hidden: bool = False

    @classmethod
    def of_tree(cls, root: Node) -> "Evidence | None":
        """Return the evidence that a tree is; None where it is too long to keep."""
        numbers = [node.place if node.halves else -1 - CLOSING.index(node.closed_by) for node in listed(root)]
        return _if_short(cls(tree=_packed(np.array(numbers, dtype="<i4"))))

    @classmethod
    def of_parts(
        cls,
        root: Node,
        rows: Int64[np.ndarray, "row"],
        bent: Int64[np.ndarray, "bent"],
        loose: Sequence[str] = (),
    ) -> "Evidence | None":
        """Return the evidence that a tree is whose parts have lines; None where it is too long to keep.

        Args:
            root: the tree.
            rows: the other classes that are bounded in each part, as `PartMargins` has them.
            bent: the activations whose lines are chosen.
            loose: the hidden tensors that were left to intervals.
        """
        made = cls.of_tree(root)
        parts = [node.part for node in listed(root) if node.part is not None]
        if made is None:
            return None
        made = msgspec.structs.replace(made, loose=tuple(loose), by_hidden=True)
        if not parts:
            return _if_short(made)
        lines = PartLines(
            _packed(rows.astype("<i4")),
            _packed(bent.astype("<i4")),
            _packed(np.stack([part.slopes for part in parts])),
            _packed(np.concatenate([part.multipliers.reshape(-1) for part in parts]).astype("<f4")),
        )
        return _if_short(msgspec.structs.replace(made, lines=lines))

    @classmethod
    def of_slopes(cls, slopes: Sequence[Float[np.ndarray, "others ..."]]) -> "Evidence | None":
        """Return the evidence that slopes of one image are; None where they are too long to keep.

        They are kept as `storable` gives them.
        """
        levels = [np.rint(slope.clip(0, 1) * LEVELS).astype(np.uint8) for slope in slopes]
        return _if_short(cls(slopes=tuple(_packed(level) for level in levels)))

    def nodes(self) -> list[int]:
        """Return the numbers of the tree.

        Raises:
            RecordError: if it is no tree that was packed.
        """
        numbers: list[int] = _numbers(self.tree or "", "<i4").tolist()
        return numbers

    def lower_slopes(self, others: int, sizes: Sequence[int]) -> list[Float[np.ndarray, "others _"]]:
        """Return the slopes.

        Args:
            others: number of margins.
            sizes: how many ReLUs there are to each.

        Raises:
            RecordError: if they are not of this shape.
        """
        stored = self.slopes or ()
        if len(stored) != len(sizes):
            raise RecordError(f"expected slopes of {len(sizes)} layers, got {len(stored)}")
        found = []
        for text, size in zip(stored, sizes, strict=True):
            content = _unpacked(text)
            if len(content) != others * size:
                raise RecordError(f"expected {others * size} slopes of a layer, got {len(content)}")
            found.append((np.frombuffer(content, dtype=np.uint8) / LEVELS).reshape(others, size))
        return found


def storable(slopes: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the slopes that can be kept, nearest to some."""
    kept: Float[np.ndarray, "*shape"] = np.rint(slopes.clip(0, 1) * LEVELS) / LEVELS
    return kept


def evidence_name(index: int) -> str:
    """Return the name of the file, beside the records, that holds an image's evidence."""
    return f"proofs/{index:08d}.json"


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write an image's evidence.

    Raises:
        RecordError: if it cannot be written.
    """
    write_json(path, msgspec.to_builtins(evidence))


def read_evidence(path: Path) -> Evidence | None:
    """Return an image's evidence; None where there is none.

    Raises:
        RecordError: if it cannot be read, or is none.
    """
    if not path.exists():
        return None
    try:
        return msgspec.convert(read_json(path), Evidence)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path} is no proof of an image: {plain_words(error)}") from error


def _if_short(evidence: Evidence) -> Evidence | None:
    lines = () if evidence.lines is None else msgspec.structs.astuple(evidence.lines)
    length = sum(map(len, (evidence.tree or "", *(evidence.slopes or ()), *lines, *evidence.loose)))
    return evidence if length <= _LONGEST else None


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode("ascii")


def _numbers(text: str, kind: str) -> np.ndarray:
    content = _unpacked(text)
    if len(content) % np.dtype(kind).itemsize:
        raise RecordError("expected packed numbers, got half of one")
    return np.frombuffer(content, dtype=kind)


def _unpacked(text: str) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    except (ValueError, zlib.error) as error:
        raise RecordError("expected what was packed with zlib, in base64") from error
    if not unpacker.eof or unpacker.unused_data:
        raise RecordError(f"expected at most {_MOST_BYTES} bytes that were packed whole")
    return content
