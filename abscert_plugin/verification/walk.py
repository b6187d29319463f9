"""What walks through balls towards a wrong label, and where it starts."""

from dataclasses import dataclass
from typing import Final, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.front import Point, Points, Reach

ANY: Final = -1
"""In place of a target: whichever other class is likeliest where the walk is."""
_MOST_SLOPE: Final = 1e30  # whose sum over an image is still a float32
_RANDOM_SHARES: Final = (0.3, 1.0, 0.1, 0.6)


@final
@dataclass(frozen=True)
class Starts:
    """Where walks start.

    Args:
        reach: the ball of each.
        labels: the class that each should lose.
        targets: the class that should win, or `ANY`.
        points: where it starts.
        is_guided: whether linear bounds chose most of that point, so that what is sought may be near.
    """

    reach: Reach
    labels: Int64[np.ndarray, "walks"]
    targets: Int64[np.ndarray, "walks"]
    points: Points
    is_guided: Bool[np.ndarray, "walks"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: np.ndarray) -> "Starts":
        """Return some of them."""
        return Starts(
            self.reach.take(places),
            self.labels[places],
            self.targets[places],
            self.points[places],
            self.is_guided[places],
        )


@final
@dataclass(frozen=True)
class Step:
    """Where walks are.

    Args:
        points: the worst points of this step.
        margins: the label's margins there, over all other classes.
        is_over: which walks have nothing more to try.
    """

    points: Points
    margins: Float32[np.ndarray, "walks"]
    is_over: Bool[np.ndarray, "walks"]


@runtime_checkable
class Walk(Protocol):
    """Walks through balls, side by side. None leaves its ball, and none depends on those beside it."""

    def step(self) -> Step:
        """Take a step of each."""
        ...

    def keep(self, places: Int64[np.ndarray, "some"]) -> None:
        """Go on with some of them."""
        ...


def start(ball: Reach, index: int, target: int, corner: Point | None, number: int) -> Point:
    """Return where a walk starts: at a corner, at the centre, or at pixels of a corner amid random ones.

    Args:
        ball: one ball.
        index: the place of its centre in its data set; it seeds the draws, with the target and the number.
        target: the class that should win, or `ANY`.
        corner: what linear bounds say of it; None where there are none.
        number: of the walk among those of this ball and target, from 0.
    """
    own = ball.own[0]
    if corner is not None and number == 0:
        return corner
    if number == (0 if corner is None else 1):
        return own
    random = np.random.default_rng([5, index, target + 1, number])
    anywhere = ball.front.between(ball.lowest[0], ball.highest[0], random.random((1, *own.shape)))[0]
    if corner is None:
        return anywhere
    is_random = random.random(own.shape) < _RANDOM_SHARES[number % len(_RANDOM_SHARES)]
    mixed: Point = np.where(is_random, anywhere, corner)
    return mixed


def aimed(logits: Tensor, labels: Int64[Tensor, "walks"], targets: Int64[Tensor, "walks"]) -> tuple[Tensor, Tensor]:
    """Return the label's margin over all other classes, and over the target."""
    margins = logit_margins(logits, labels)
    over = logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return margins, torch.where(targets == ANY, margins, over)


def gradients(
    network: nn.Module, reach: Reach, points: Points, labels: Tensor, targets: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return margins at points, the margins over the targets, and the slopes of these at the network's input.

    At a kink, or of an infinite value, a slope may be no number: it counts as 0. One beyond all measure is cut off.
    """
    inputs = torch.from_numpy(reach.front.network_input(points)).requires_grad_()
    margins, losses = aimed(network(inputs), labels, targets)
    (slopes,) = torch.autograd.grad(losses.sum(), inputs)
    return (
        margins.detach().numpy(),
        losses.detach().numpy(),
        slopes.nan_to_num(nan=0.0).clamp(-_MOST_SLOPE, _MOST_SLOPE).numpy(),
    )
