"""What proves a certified image besides the name of its method: optimised slopes, or the tree of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import msgspec
import numpy as np
from jaxtyping import Float, Int64

from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.part_lines import PartLines, numbers, packed, unpacked
from abscert_plugin.bounds.waiting import nodes_of
from abscert_plugin.claim import Claim
from abscert_plugin.errors import RecordError
from abscert_plugin.files import converted, read_json, write_json
from abscert_plugin.records import EXHAUSTIVE, FORWARD, SEARCHED, Record

RUN: Final = "run"
"""What closes a part of a tree whose combinations of cells were all run."""

CLOSING: Final = (RUN, "ibp", "crown-ibp", "crown", "optimised")
PROVEN: Final = ("ibp", "crown-ibp", "crown-lbp", "crown", "optimised")
"""The methods of rows of balls that a proof alone has decided."""

CERTIFYING: Final[Mapping[Claim, tuple[str, ...]]] = MappingProxyType(
    {Claim.CELL: (FORWARD,), Claim.BALL: (FORWARD, EXHAUSTIVE, SEARCHED, *PROVEN)}
)
"""The methods of rows that are certified, by claim."""

RESEARCH: Final = "re-search"
"""What stands where nothing was kept that proves an image: it has to be searched for again."""

LEVELS: Final = 15
"""A stored slope is one of 0, 1/15, ..., 1; any slope is sound."""

MOST_NODES: Final = 2**20
"""The nodes of the largest tree that is kept, or read."""

_LONGEST: Final = 2**20  # characters that are kept of an image
_NODE: Final = np.dtype("<i4")


@final
@dataclass(slots=True)
class TreeNode:
    """A part of a search's tree: cut in two, closed, or still open.

    Args:
        place: where it is cut: a pixel, or an activation among all; -1 where it is not.
        halves: its two parts, the lower one first.
        closed_by: one of `CLOSING`; empty where it is cut or open.
        lines: those that close it, where it is closed by optimised ones.
    """

    place: int = -1
    halves: tuple["TreeNode", "TreeNode"] | None = None
    closed_by: str = ""
    lines: Part | None = None

    def cut(self, place: int) -> tuple["TreeNode", "TreeNode"]:
        """Cut it, and return its halves."""
        self.place, self.halves = place, (TreeNode(), TreeNode())
        return self.halves


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
    lines: PartLines | None = None
    loose: tuple[str, ...] = ()
    by_hidden: bool = False

    @classmethod
    def of_tree(cls, root: TreeNode) -> "Evidence | None":
        """Return the evidence that a tree is; None where it is too long to keep."""
        places = [node.place if node.halves else -1 - CLOSING.index(node.closed_by) for node in nodes_of(root)]
        return _if_short(cls(tree=packed(np.array(places, dtype=_NODE))))

    @classmethod
    def of_parts(
        cls,
        root: TreeNode,
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
        parts = [node.lines for node in nodes_of(root) if node.lines is not None]
        if made is None:
            return None
        made = msgspec.structs.replace(made, loose=tuple(loose), by_hidden=True)
        if not parts:
            return _if_short(made)
        lines = PartLines.of(parts, rows, bent)
        return None if lines is None else _if_short(msgspec.structs.replace(made, lines=lines))

    @classmethod
    def of_slopes(cls, slopes: Sequence[Float[np.ndarray, "others ..."]]) -> "Evidence | None":
        """Return the evidence that slopes of one image are; None where they are too long to keep.

        They are kept as `storable` gives them.
        """
        levels = [np.rint(slope.clip(0, 1) * LEVELS).astype(np.uint8) for slope in slopes]
        return _if_short(cls(slopes=tuple(packed(level) for level in levels)))

    def nodes(self) -> list[int]:
        """Return the numbers of the tree.

        Raises:
            RecordError: if it is no tree that was packed, or too large.
        """
        text = self.tree or ""
        if len(text) > _LONGEST:
            raise RecordError(f"expected a tree of at most {_LONGEST} characters, got {len(text)}")
        found: list[int] = numbers(text, _NODE.str, MOST_NODES * _NODE.itemsize).tolist()
        return found

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
            content = unpacked(text)
            if len(content) != others * size:
                raise RecordError(f"expected {others * size} slopes of a layer, got {len(content)}")
            found.append((np.frombuffer(content, dtype=np.uint8) / LEVELS).reshape(others, size))
        return found


def storable(slopes: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the slopes that can be kept, nearest to some."""
    kept: Float[np.ndarray, "*shape"] = np.rint(slopes.clip(0, 1) * LEVELS) / LEVELS
    return kept


def is_of_float32(record: Record) -> bool:
    """Return whether a row's margin is a bound in float32, which nothing proves: rows without an arithmetic have it."""
    return record.arithmetic is None and record.method not in (FORWARD, EXHAUSTIVE)


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
    return converted(read_json(path), Evidence, f"{path} is no proof of an image") if path.exists() else None


def _if_short(evidence: Evidence) -> Evidence | None:
    lines = 0 if evidence.lines is None else evidence.lines.length
    length = lines + sum(map(len, (evidence.tree or "", *(evidence.slopes or ()), *evidence.loose)))
    return evidence if length <= _LONGEST else None
