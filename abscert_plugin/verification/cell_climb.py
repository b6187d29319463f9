"""Discrete search on cells: flip the few pixels that score best, run all these flips, go on from the best of them."""

import itertools
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from abscert_plugin.front import Points, Reach
from abscert_plugin.verification.candidates import Candidates
from abscert_plugin.verification.walk import Starts, Step, aimed, gradients

_TOGETHER: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # of the best pixels
_SINGLE: Final = 16
_PAIRED: Final = 8
_LEAST_GAIN: Final = 1e-7
_ROWS_AT_ONCE: Final = 256


@final
class Climb:
    """A `Walk` on cells, which ends where no flip of one pixel, of the best few, or of a pair lowers the margin.

    Gradients score pixels; what is taken was run.

    Args:
        network: the interval network.
        starts: where walks start.
        steps: how many are taken at most.
    """

    def __init__(self, network: nn.Module, starts: Starts, steps: int) -> None:
        self._network = network
        self._starts = starts
        self._steps = steps
        self._taken = 0
        self._current = starts.points

    def step(self) -> Step:
        """Take the best flips of each walk."""
        starts, reach, current = self._starts, self._starts.reach, self._current
        labels, targets = torch.from_numpy(starts.labels), torch.from_numpy(starts.targets)
        margins, losses, slopes = gradients(self._network, reach, current, labels, targets)
        flipped, order = _scored(reach, current, slopes)
        seen, ahead = Candidates(current, margins), Candidates(current, losses)
        seen, ahead = self._run(np.arange(len(starts)), _flips(reach, current, flipped, order), seen, ahead)
        stuck = np.flatnonzero(~(ahead.margins < losses - _LEAST_GAIN))
        if len(stuck):
            pairs = list(itertools.combinations(range(min(_PAIRED, order.shape[1])), 2))
            tried = [_flipped(current[stuck], flipped[stuck], order[stuck][:, pair]) for pair in pairs]
            if tried:
                seen, ahead = self._run(stuck, np.stack(tried, axis=1), seen, ahead)
        self._current = ahead.points
        self._taken += 1
        is_over = ~(ahead.margins < losses - _LEAST_GAIN) | (self._taken > self._steps)
        return Step(seen.points, seen.margins, is_over)

    def keep(self, places: Int64[np.ndarray, "some"]) -> None:
        """Go on with some walks."""
        self._starts, self._current = self._starts.take(places), self._current[places]

    def _run(
        self, places: np.ndarray, tried: np.ndarray, seen: Candidates, ahead: Candidates
    ) -> tuple[Candidates, Candidates]:
        """Run what some walks try, [walks, tried, *point]; return the least margins, and those over targets."""
        count = tried.shape[1]
        rows = tried.reshape(-1, *tried.shape[2:])
        labels, targets = (np.repeat(kind[places], count) for kind in (self._starts.labels, self._starts.targets))
        found = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            with torch.no_grad():
                logits = self._network(torch.from_numpy(self._starts.reach.front.network_input(rows[part])))
            found.append(aimed(logits, torch.from_numpy(labels[part]), torch.from_numpy(targets[part])))
        margins, losses = (torch.cat(kind).numpy().reshape(-1, count) for kind in zip(*found, strict=True))
        return _with(seen, places, tried, margins), _with(ahead, places, tried, losses)


def _with(known: Candidates, places: np.ndarray, tried: np.ndarray, values: np.ndarray) -> Candidates:
    """Return what is known, or of some places what is tried, where its value is less."""
    values = np.where(np.isnan(values), np.inf, values)
    rows, chosen = np.arange(len(places)), values.argmin(axis=1)
    points, least = known.points.copy(), np.full(len(known.margins), np.inf, dtype=np.float32)
    points[places], least[places] = tried[rows, chosen], values[rows, chosen]
    return known.improved(Candidates(points, least))


def _scored(reach: Reach, current: Points, slopes: np.ndarray) -> tuple[Points, Int64[np.ndarray, "walks best"]]:
    """Return the other end of each pixel, and the pixels that can move, by how far the margin is said to fall."""
    front = reach.front
    to_low, to_high = (-front.change(slopes, current, end) for end in (reach.lowest, reach.highest))
    is_high = np.where(current == reach.lowest, True, np.where(current == reach.highest, False, to_high > to_low))
    flipped: Points = np.where(is_high, reach.highest, reach.lowest)
    gain = np.where(flipped == current, -np.inf, np.where(is_high, to_high, to_low)).reshape(len(current), -1)
    most = max(1, int((gain > -np.inf).sum(axis=1).max()))
    return flipped, np.argsort(-gain, axis=1, kind="stable")[:, : min(most, max(*_TOGETHER, _SINGLE))]


def _flips(reach: Reach, current: Points, flipped: Points, order: np.ndarray) -> np.ndarray:
    """Return the best pixels moved to the other end: single ones and several; and single ones moved by one cell."""
    singles = [order[:, place : place + 1] for place in range(min(_SINGLE, order.shape[1]))]
    several = [order[:, :count] for count in _TOGETHER if count <= order.shape[1]]
    tried = [_flipped(current, flipped, chosen) for chosen in (*singles, *several)]
    if int((reach.highest - reach.lowest).max()) > 1:
        by_one = np.where(flipped > current, current + 1, np.where(flipped < current, current - 1, current))
        tried += [_flipped(current, by_one.astype(current.dtype), chosen) for chosen in singles]
    return np.stack(tried, axis=1)


def _flipped(current: Points, other: Points, chosen: np.ndarray) -> Points:
    """Return points in which each walk's chosen pixels are the other ones."""
    moved = current.reshape(len(current), -1).copy()
    np.put_along_axis(moved, chosen, np.take_along_axis(other.reshape(len(other), -1), chosen, axis=1), axis=1)
    return moved.reshape(current.shape)
