"""The strong attack on what bounds leave open: walks towards every class left, in batches over balls and starts."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64
from torch import nn

from abscert_plugin.front import Cells, Pixels, Point, Reach
from abscert_plugin.verification.cell_climb import Climb
from abscert_plugin.verification.guide import Guide
from abscert_plugin.verification.pgd import Descent
from abscert_plugin.verification.walk import ANY, Starts, Walk, start

_STEPS: Final = 100
_WALKS_AT_ONCE: Final = 128
_PIXELS_AT_ONCE: Final = 2**20


@runtime_checkable
class _MakeWalk(Protocol):
    def __call__(self, network: nn.Module, starts: Starts, steps: int) -> Walk: ...


_BY_FRONT: Final[Mapping[type, _MakeWalk]] = MappingProxyType({Cells: Climb, Pixels: Descent})


@final
class StrongAttack:
    """Walks from many starts towards every class that bounds leave open, and towards any.

    Where bounds say so, the first start is the corner at which a bound is least, and later ones lie about it. The
    first starts of all balls come first, since most of what can be found is found by them. A walk's draws come from
    its image's index, its target and its number: what is tried of a ball does not depend on those beside it, but for
    the time.

    Args:
        network: what the front feeds.
        reach: the balls.
        labels: the classes of their centres.
        index: each centre's place in its data set; it seeds the draws.
        guides: where to look in each.
        floor: margins of no more than this are worth a run of the file.

    Attributes:
        spent: seconds that were spent on each ball.
    """

    def __init__(
        self,
        network: nn.Module,
        reach: Reach,
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
        guides: Sequence[Guide],
        floor: float,
    ) -> None:
        self._network = network
        self._reach, self._labels, self._index, self._guides = reach, labels, index, guides
        self._floor = floor
        self.spent: Float64[np.ndarray, "batch"] = np.zeros(len(reach))
        self._walk = _BY_FRONT[type(reach.front)]

    def run(
        self,
        numbers: range,
        seconds: Float64[np.ndarray, "batch"],
        refutes: Callable[[int, Point], bool],
    ) -> None:
        """Walk until all starts are tried, or time is up.

        Args:
            numbers: of the starts towards each target.
            seconds: what may be spent on each, from the first call on.
            refutes: told of a ball's place and a point whose margin is below the floor, and lower than before; returns
                whether the file confirms it, which ends the walks of this ball.
        """
        bars = np.full(len(self._reach), self._floor)
        is_open = np.ones(len(self._reach), dtype=bool)
        at_once = max(1, min(_WALKS_AT_ONCE, _PIXELS_AT_ONCE // self._reach.own[0].size))
        waiting = self._planned(numbers)
        while True:
            waiting = waiting[(is_open & (self.spent < seconds))[waiting[:, 0]]]
            if not len(waiting):
                return
            began, rows = time.perf_counter(), waiting[:at_once, 0]
            walk = self._walk(self._network, self._starts(waiting[:at_once]), _STEPS)
            waiting = waiting[at_once:]
            while len(rows):
                step = walk.step()
                for place in np.flatnonzero(step.margins < bars[rows]):
                    row, margin = int(rows[place]), float(step.margins[place])
                    if is_open[row] and margin < bars[row]:
                        bars[row] = margin - self._floor / 2
                        is_open[row] = not refutes(row, step.points[place])
                now = time.perf_counter()
                np.add.at(self.spent, rows, (now - began) / len(rows))
                began = now
                stay = np.flatnonzero(~step.is_over & (is_open & (self.spent < seconds))[rows])
                if len(stay) < len(rows):
                    walk.keep(stay)
                    rows = rows[stay]

    def _planned(self, numbers: range) -> Int64[np.ndarray, "walks 3"]:
        """Return the row, the target and the number of every walk, in order."""
        planned = [
            (row, target, number)
            for number in numbers
            for row, guide in enumerate(self._guides)
            for target in (*guide.targets.tolist(), ANY)
        ]
        return np.array(planned, dtype=np.int64).reshape(-1, 3)

    def _starts(self, walks: Int64[np.ndarray, "walks 3"]) -> Starts:
        rows, targets, _ = walks.T
        points, is_guided = [], []
        for row, target, number in walks.tolist():
            guide, corner = self._guides[row], None
            if target != ANY and len(guide.corners):
                corner = guide.corners[int(np.flatnonzero(guide.targets == target)[0])]
            points.append(start(self._reach.take(np.array([row])), int(self._index[row]), target, corner, number))
            is_guided.append(corner is not None and number != 1)
        return Starts(self._reach.take(rows), self._labels[rows], targets, np.stack(points), np.array(is_guided))
