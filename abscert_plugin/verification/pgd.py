"""Gradient attack on a classifier of plain images: signed steps that lower the label's margin."""

import time
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from abscert_plugin.ball import LEVELS
from abscert_plugin.claim import Inputs
from abscert_plugin.front import Points, Reach
from abscert_plugin.grid import level_pixels
from abscert_plugin.verification.candidates import Candidates
from abscert_plugin.verification.walk import ANY, Starts, Step, gradients, start

_QUICK_STEPS: Final = 20
_FIRST_STEP: Final = 1.0  # of the ball's width
_FIRST_GUIDED_STEP: Final = 0.25
_LAST_STEP: Final = 0.001
_MOMENTUM: Final = 0.75


@final
class Descent:
    """Signed steps with momentum, which shrink evenly, down the margin over a target: a `Walk` on pixels.

    Of 8-bit images the nearest one is run, and its slopes are followed from where the walk is.

    Args:
        network: what the front feeds.
        starts: where walks start.
        steps: how many are taken.

    Source: Madry et al. 2018, with the margin as loss (Carlini & Wagner 2017) and momentum (Dong et al. 2018).
    """

    def __init__(self, network: nn.Module, starts: Starts, steps: int) -> None:
        self._network = network
        self._starts = starts
        self._steps = steps
        self._taken = 0
        self._current = starts.points
        self._pull = np.zeros_like(starts.points)

    def step(self) -> Step:
        """Take a step of each walk."""
        starts, reach, images = self._starts, self._starts.reach, _held(self._starts.reach, self._current)
        labels, targets = torch.from_numpy(starts.labels), torch.from_numpy(starts.targets)
        margins, _, slopes = gradients(self._network, reach, images, labels, targets)
        uphill = reach.front.change(slopes, reach.lowest, reach.highest)
        length = np.abs(uphill).mean(axis=(1, 2, 3), keepdims=True)
        self._pull = _MOMENTUM * self._pull + np.divide(uphill, length, where=length > 0, out=np.zeros_like(uphill))
        share = self._taken / self._steps
        first = np.where(starts.is_guided, _FIRST_GUIDED_STEP, _FIRST_STEP)[:, None, None, None]
        size = (first * (1 - share) + _LAST_STEP * share).astype(np.float32)
        moved = self._current - size * (reach.highest - reach.lowest) * np.sign(self._pull)
        self._current = np.clip(moved, reach.lowest, reach.highest)
        self._taken += 1
        return Step(images, margins, np.full(len(starts), self._taken > self._steps))

    def keep(self, places: Int64[np.ndarray, "some"]) -> None:
        """Go on with some walks."""
        self._starts = self._starts.take(places)
        self._current, self._pull = self._current[places], self._pull[places]


def pgd(
    network: nn.Module,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    restarts: int,
    until: float,
) -> Candidates:
    """Return the worst image found in each ball, by few steps against whichever class is likeliest.

    The first start is the image itself, later ones are random, drawn from the image's index alone.

    Args:
        network: what the front feeds.
        reach: the balls.
        labels: the classes of their centres.
        index: each centre's place in its data set.
        restarts: how many starts, at least 1.
        until: time of `time.perf_counter` from which no further start is made.
    """
    best = Candidates(reach.images, np.full(len(reach), np.inf, dtype=np.float32))
    nowhere, unguided = np.full(len(reach), ANY), np.zeros(len(reach), dtype=bool)
    for number in range(restarts):
        if number and time.perf_counter() > until:
            break
        points = [start(reach.take(np.array([row])), int(index[row]), ANY, None, number) for row in range(len(reach))]
        walk = Descent(network, Starts(reach, labels, nowhere, np.stack(points), unguided), _QUICK_STEPS)
        for _ in range(_QUICK_STEPS + 1):
            seen = walk.step()
            best = best.improved(Candidates(seen.points, seen.margins))
    return best


def _held(reach: Reach, images: Points) -> Points:
    """Return the nearest images that balls hold."""
    if reach.ball.inputs is Inputs.FLOAT:
        return images
    levels = np.rint(images * np.float32(LEVELS)).astype(np.int64)
    return np.clip(level_pixels(LEVELS)[levels], reach.lowest, reach.highest)
