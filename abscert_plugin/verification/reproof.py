"""Proving certified balls again from what a certificate keeps: without a search, and without auto_LiRPA."""

import math
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part import Cuts, cut
from abscert_plugin.claim import PROVABLE, Arithmetic
from abscert_plugin.errors import RecordError, VerifierError
from abscert_plugin.front import Cells, Point, combinations
from abscert_plugin.grid import log2_count
from abscert_plugin.records import EXHAUSTIVE, FORWARD, SEARCHED, Record
from abscert_plugin.verification.cell_cut import halved
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import CLOSING, MOST_NODES, PROVEN, RESEARCH, RUN, Evidence, is_of_float32
from abscert_plugin.verification.proving import Prover

_LOG2_RUN: Final = 22.0  # combinations that a check runs of an image, at most: 4 million
_AT_ONCE: Final = 64  # parts that are proven in one call
_TOLERANCE: Final = 1e-4  # of a margin: float32 intervals round in another way on another machine


@final
class Reproof:
    """Proves what rows of a certificate say.

    Args:
        deployed: the file, and the arithmetic that its rows are held to.
        ball: the ball of the claim.
    """

    def __init__(self, deployed: Deployed, ball: Ball) -> None:
        self._deployed = deployed
        self._ball = ball

    def fault(
        self, record: Record, image: Float32[np.ndarray, "channels height width"], evidence: Evidence | None
    ) -> str:
        """Return why a certified row is not proven again; empty where it is, `RESEARCH` where nothing was kept.

        Args:
            record: the row.
            image: its image, on the pixel scale.
            evidence: what the certificate keeps of it.
        """
        reach = self._deployed.front.reach(self._ball, image[None])
        try:
            least = self._least(record, reach.lowest[0], reach.highest[0], evidence)
        except (RecordError, VerifierError) as error:
            return str(error)
        if least is None:
            return RESEARCH
        if is_of_float32(record):
            return ""
        shown = self._shown(record.method)
        if record.arithmetic is not None and not shown.implies(Arithmetic(record.arithmetic)):
            return f"what is proven of it holds for {shown}, not for {record.arithmetic}"
        told = math.inf if record.margin is None else record.margin
        if told > least + _TOLERANCE * max(1.0, least) + 2 * self._deployed.floor:
            return f"its margin of {record.margin} is more than the {least:.6g} that is proven"
        return ""

    def _shown(self, method: str) -> Arithmetic:
        """Return what a method's verdict holds for: runs are part of all but those that a proof alone decides."""
        prover = self._deployed.prover
        return self._deployed.arithmetic if prover is None or method not in PROVEN else prover.arithmetic

    def _least(self, record: Record, lowest: Point, highest: Point, evidence: Evidence | None) -> float | None:
        """Return the least margin that is proven or run again; None where nothing was kept.

        Raises:
            RecordError: if a row is not proven; says why.
            VerifierError: if nothing can be proven.
        """
        method = record.method
        if method in (FORWARD, EXHAUSTIVE):
            return self._run(lowest, highest, record.label)
        prover = self._deployed.prover
        if prover is None:
            raise RecordError(f"nothing can be proven of this file: {self._deployed.note or 'it is run alone'}")
        if method == SEARCHED:
            if evidence is None or evidence.tree is None:
                return None
            if isinstance(self._deployed.front, Cells) and not evidence.by_hidden:
                return self._cells(prover, evidence.nodes(), lowest, highest, record.label)
            return _hidden(prover, evidence, lowest, highest, record.label)
        if method not in list(BoundMethod) or (evidence is None and method == BoundMethod.OPTIMISED):
            return None
        return _bound(prover, record, lowest, highest, evidence)

    def _run(self, lowest: Point, highest: Point, label: int) -> float:
        """Run all points between two."""
        if isinstance(self._deployed.front, Cells):
            if log2_count(lowest[None], highest[None])[0] > _LOG2_RUN:
                raise RecordError("it has more combinations of cells than a check runs")
            parts = combinations(lowest, highest, self._deployed.batch_size)
        elif (lowest == highest).all():
            parts = iter([lowest[None]])
        else:
            raise RecordError("running images alone cannot certify its ball")
        least = math.inf
        for points in parts:
            labels = np.full(len(points), label, dtype=np.int64)
            margins = self._deployed.margins(points, labels)
            is_shown = self._deployed.shown(points, labels, margins)
            if not is_shown.all():
                margin = float(margins[np.flatnonzero(~is_shown)[0]])
                is_wrong = margin < -self._deployed.floor
                wrong = "a point that it reaches is mislabelled"
                raise RecordError(wrong if is_wrong else self._deployed.undecided(margin))
            least = min(least, float(margins.min()))
        return least

    def _cells(self, prover: Prover, numbers: list[int], lowest: Point, highest: Point, label: int) -> float:
        """Prove the parts of a tree of cells; each is cut in the middle of the reachable cells of a pixel."""
        parts: dict[str, list[tuple[Point, Point]]] = {}
        waiting = [(lowest, highest)]
        for number in _checked(numbers):
            if not waiting:
                raise RecordError("its tree has more nodes than parts")
            low, high = waiting.pop()
            if number < 0:
                parts.setdefault(CLOSING[-1 - number], []).append((low, high))
            elif number >= low.size or low.flat[number] >= high.flat[number]:
                raise RecordError("its tree cuts a pixel that reaches one cell alone")
            else:
                waiting += halved(low, high, number)[::-1]
        if waiting:
            raise RecordError("its tree leaves parts open")
        found = [self._run(low, high, label) for low, high in parts.pop(RUN, [])]
        for method, boxes in parts.items():
            for start in range(0, len(boxes), _AT_ONCE):
                ends = [np.stack(end) for end in zip(*boxes[start : start + _AT_ONCE], strict=True)]
                labels = np.full(len(ends[0]), label, dtype=np.int64)
                what = ends[0], ends[1], labels, BoundMethod(method)
                least = float(prover.least_margins(*what).min())
                if not least > 0:  # it may have been closed with more precision
                    least = float(prover.least_margins(*what, is_exact=True).min())
                if not least > 0:
                    raise RecordError(f"a part of its tree is bounded by {least:.4g} alone, by {method}")
                found.append(least)
        return min(found)


def _bound(prover: Prover, record: Record, lowest: Point, highest: Point, evidence: Evidence | None) -> float:
    method, labels = BoundMethod(record.method), np.array([record.label], dtype=np.int64)
    slopes = []
    if evidence is not None and evidence.slopes is not None:
        slopes = [slope[None] for slope in evidence.lower_slopes(prover.classes - 1, prover.sizes)]
    what = lowest[None], highest[None], labels, method, slopes
    proven = float(prover.least_margins(*what)[0])
    is_said = record.arithmetic in PROVABLE  # older rows say what was found in float32
    if not proven > 0 or (is_said and not _is_within(record.margin, proven)):  # it may have been more precise
        proven = max(proven, float(prover.least_margins(*what, is_exact=True)[0]))
    if not proven > 0:
        raise RecordError(f"the proof by {method} bounds its margin by {proven:.4g} alone")
    return proven


def _is_within(said: float | None, proven: float) -> bool:
    return said is not None and said <= proven + _TOLERANCE * max(1.0, proven)


def _hidden(prover: Prover, evidence: Evidence, lowest: Point, highest: Point, label: int) -> float:
    """Prove the parts of a tree of hidden values."""
    rows = bent = None
    if evidence.lines is not None:
        rows, bent = evidence.lines.of_margins(prover.classes - 1, prover.activations)
    margins = prover.part_margins(lowest, highest, label, rows, bent, evidence.loose)
    closed: dict[str, list[Cuts]] = {str(BoundMethod.CROWN): [], str(BoundMethod.OPTIMISED): []}
    waiting: list[Cuts] = [{}]
    for number in _checked(evidence.nodes()):
        if not waiting:
            raise RecordError("its tree has more nodes than parts")
        cuts = waiting.pop()
        if number < 0:
            if CLOSING[-1 - number] not in closed:
                raise RecordError("a part of its tree of hidden values is closed by something else than linear bounds")
            closed[CLOSING[-1 - number]].append(cuts)
            continue
        value = margins.bounds.where_to_cut(cuts, number) if number < prover.activations else None
        if value is None:
            raise RecordError("its tree cuts an activation that the file does not have, or one once too often")
        waiting += reversed(cut(cuts, number, value))
    if waiting:
        raise RecordError("its tree leaves parts open")
    plain, optimised = closed.values()
    parts = [margins.bounds.whole().with_cuts(cuts) for cuts in plain]
    if evidence.lines is not None and rows is not None and bent is not None:
        parts += evidence.lines.parts(optimised, len(rows), len(bent))
    elif optimised:
        raise RecordError("its tree has parts whose lines were not kept")
    found = []
    for start in range(0, len(parts), _AT_ONCE):
        found.append(float(margins.proven(parts[start : start + _AT_ONCE]).min()))
        if not found[-1] > 0:
            raise RecordError(f"a part of its tree is bounded by {found[-1]:.4g} alone")
    return min(found)


def _checked(numbers: list[int]) -> list[int]:
    if not 0 < len(numbers) <= MOST_NODES or min(numbers) < -len(CLOSING):
        raise RecordError("its tree is none that a search writes")
    return numbers
