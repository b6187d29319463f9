"""Gradient attack on cells: move the pixels that gain most to their lowest or highest reachable cell."""

import time
from typing import Final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.front import Reach
from abscert_plugin.verification.candidates import Candidates

_FRACTIONS: Final = (1.0, 0.5, 0.25, 0.1, 0.05)


def flip_cells(
    network: nn.Module,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    restarts: int,
    until: float,
) -> Candidates:
    """Return candidates of a white-box attack: gradients say which pixels to move to their lowest or highest cell.

    The first start is the image itself, later ones are random, drawn from the image's index alone. From each, ever
    smaller shares of the pixels with the largest predicted gain are moved.

    Args:
        network: the interval network.
        reach: the balls.
        labels: their classes.
        index: each image's place in its data set.
        restarts: how many starts.
        until: time of `time.perf_counter` from which no further start is made.
    """
    targets = torch.from_numpy(labels)
    best = Candidates(reach.own, np.full(len(reach), np.inf, dtype=np.float32))
    for number in range(restarts):
        if number and time.perf_counter() > until:
            break
        cells = reach.own if number == 0 else _random_ends(reach, index, number)
        for fraction in _FRACTIONS:
            margins, gain, is_high = _directions(network, reach, cells, targets)
            best = best.improved(Candidates(cells, margins))
            cells = _moved(reach, cells, gain, is_high, fraction)
        with torch.no_grad():
            logits = network(torch.from_numpy(reach.front.network_input(cells)))
        best = best.improved(Candidates(cells, logit_margins(logits, targets).numpy()))
    return best


def _random_ends(reach: Reach, index: np.ndarray, number: int) -> np.ndarray:
    shape = reach.own.shape[1:]
    choices = np.stack([np.random.default_rng([1, number, int(place)]).random(shape) < 0.5 for place in index])
    return np.where(choices, reach.highest, reach.lowest)


def _directions(
    network: nn.Module, reach: Reach, cells: np.ndarray, labels: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return margins, the predicted fall of the margin by moving each pixel, and whether it is to its highest cell."""
    front = reach.front
    current = torch.from_numpy(front.network_input(cells)).requires_grad_()
    margins = logit_margins(network(current), labels)
    (gradient,) = torch.autograd.grad(margins.sum(), current)
    with np.errstate(invalid="ignore"):  # where logits are infinite, slopes are, and a gain of NaN is none
        to_low, to_high = (-front.change(gradient.numpy(), cells, end) for end in (reach.lowest, reach.highest))
    return margins.detach().numpy(), np.maximum(to_low, to_high), to_high > to_low


def _moved(reach: Reach, cells: np.ndarray, gain: np.ndarray, is_high: np.ndarray, fraction: float) -> np.ndarray:
    """Move the share of pixels with the largest gain, at least one of each image."""
    flat = np.where(gain > 0, gain, 0).reshape(len(gain), -1)
    movable = (flat > 0).sum(axis=1)
    kept = np.maximum(1, np.ceil(fraction * movable)).astype(np.int64)
    ordered = -np.sort(-flat, axis=1)
    least = np.take_along_axis(ordered, kept[:, None] - 1, axis=1)
    chosen = ((flat >= least) & (flat > 0)).reshape(gain.shape)
    return np.where(chosen, np.where(is_high, reach.highest, reach.lowest), cells)
