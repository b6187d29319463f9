"""Where linear bounds tell an attack to look: the classes that they leave open, and the corner where each is least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from abscert_plugin.bounds.bounder import Bounder, BoundMethod
from abscert_plugin.errors import VerifierError
from abscert_plugin.front import Points, Reach

_MOST_TARGETS: Final = 10
_ENTRIES_AT_ONCE: Final = 2**24  # of slopes: 64 MiB


@final
@dataclass(frozen=True)
class Guide:
    """Where to look in one ball. Nothing rests on it.

    Args:
        targets: the classes that may win over the label, most likely first.
        corners: of each target, the point of the ball at which a linear bound of the label's margin over it is least;
            empty where there are no linear bounds.
    """

    targets: Int64[np.ndarray, "targets"]
    corners: Points | tuple[()] = ()


def guides(network: nn.Module, bounder: Bounder, reach: Reach, labels: Int64[np.ndarray, "batch"]) -> list[Guide]:
    """Return where to look in each ball: by CROWN-IBP, or else by the logits of its centre.

    Args:
        network: what the front feeds.
        bounder: bounds its margins in float32.
        reach: the balls.
        labels: the classes of their centres.
    """
    with torch.no_grad():
        logits = network(torch.from_numpy(reach.front.network_input(reach.own)))
    size = _ENTRIES_AT_ONCE // max(1, logits.shape[1] * int(np.prod(reach.front.input_shape(reach.own.shape[1:]))))
    found: list[Guide] = []
    for start in range(0, len(reach), max(1, size)):
        part = np.arange(start, min(len(reach), start + max(1, size)))
        by_bounds = _by_bounds(bounder, reach.take(part), labels[part]) if size else None
        found += by_bounds or _by_logits(logits[part], labels[part])
    return found


def _by_bounds(bounder: Bounder, reach: Reach, labels: np.ndarray) -> list[Guide] | None:
    """Return None where there are no linear bounds."""
    lower, upper = map(torch.from_numpy, reach.box())
    try:
        linear = bounder.linear_margins(lower, upper, torch.from_numpy(labels), BoundMethod.CROWN_IBP)
    except VerifierError:
        return None
    bounds = linear.bounds.numpy()
    if not np.isfinite(bounds).any():
        return None
    return [
        _guide(reach.take(np.array([row])), int(label), bounds[row], linear.coefficients[row].numpy())
        for row, label in enumerate(labels)
    ]


def _guide(ball: Reach, label: int, bounds: np.ndarray, slopes: np.ndarray) -> Guide:
    order = np.argsort(bounds)[:_MOST_TARGETS]
    # a bound above 0 that nothing proved says that the class is unlikely; the first is looked at in any case
    order = order[: max(1, int((bounds[order] <= 0).sum()))]
    lowest, highest = (np.repeat(end, len(order), axis=0) for end in (ball.lowest, ball.highest))
    corners = np.where(ball.front.change(slopes[order], lowest, highest) < 0, highest, lowest)
    return Guide(order + (order >= label), corners)


def _by_logits(logits: Tensor, labels: Sequence[int] | np.ndarray) -> list[Guide]:
    found = []
    for row, label in zip(logits.numpy(), labels, strict=True):
        order = np.argsort(-row, kind="stable")
        found.append(Guide(order[order != label][:_MOST_TARGETS].astype(np.int64)))
    return found
