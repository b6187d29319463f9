"""Gradient attack on a classifier of plain images: signed steps that lower the label's margin."""

import time
from typing import Final

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.front import Reach
from abscert_plugin.verification.candidates import Candidates

_STEPS: Final = 20
_FIRST_STEP: Final = 0.5  # of the ball's width
_LAST_STEP: Final = 0.02


def pgd(
    network: nn.Module,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    restarts: int,
    until: float,
) -> Candidates:
    """Return the worst image found in each ball.

    The first start is the image itself, later ones are random, drawn from the image's index alone. Steps shrink
    geometrically.

    Args:
        network: what the front feeds.
        reach: the balls.
        labels: the classes of their centres.
        index: each centre's place in its data set.
        restarts: how many starts, at least 1.
        until: time of `time.perf_counter` from which no further start is made.

    Source: Madry et al. 2018, with the margin as loss (Carlini & Wagner 2017) and steps that shrink.
    """
    front, images, low, high = reach.front, reach.images, reach.lowest, reach.highest
    targets = torch.from_numpy(labels)
    best, margins = images.copy(), np.full(len(images), np.inf, dtype=np.float32)
    for number in range(restarts):
        if number and time.perf_counter() > until:
            break
        current = images if number == 0 else low + (high - low) * _random(index, number, images.shape)
        for step in range(_STEPS + 1):
            inputs = torch.from_numpy(front.network_input(current)).requires_grad_()
            found = logit_margins(network(inputs), targets)
            (gradient,) = torch.autograd.grad(found.sum(), inputs)
            lower = found.detach().numpy() < margins
            margins = np.where(lower, found.detach().numpy(), margins)
            best[lower] = current[lower]
            size = np.float32(_FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / _STEPS))
            # at a kink, or of an infinite value, a slope may be no number: that pixel stays
            uphill = np.sign(front.change(gradient.nan_to_num(nan=0.0).numpy(), low, high))
            current = np.clip(current - size * (high - low) * uphill, low, high)
    return Candidates(best, margins)


def _random(index: Int64[np.ndarray, "batch"], number: int, shape: tuple[int, ...]) -> np.ndarray:
    draws = [np.random.default_rng([int(place), number]).random(shape[1:], dtype=np.float32) for place in index]
    return np.stack(draws)
