"""Attacks in the space of cells: move pixels to other reachable cells until the label is lost.

What an attack finds is a candidate; `ball.py` replays it through the deployed file before it is believed.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.verification.deployed import DeployedCells
from abscert_plugin.verification.reach import Reach


@final
@dataclass(frozen=True)
class Candidates:
    """The worst combination of cells found for each image.

    Args:
        cells: the combinations.
        margins: the label's margin there, as the attack computed it.
    """

    cells: UInt8[np.ndarray, "batch channels height width"]
    margins: Float32[np.ndarray, "batch"]

    def improved(self, other: "Candidates") -> "Candidates":
        """Return, for each image, the worse of two."""
        better = other.margins < self.margins
        cells = np.where(better[:, None, None, None], other.cells, self.cells)
        return Candidates(cells, np.where(better, other.margins, self.margins))


_FRACTIONS: Final = (1.0, 0.5, 0.25, 0.1, 0.05)


def gradient_attack(
    network: nn.Module,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    restarts: int = 2,
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
    """
    targets = torch.from_numpy(labels)
    best = Candidates(reach.own, np.full(len(reach), np.inf, dtype=np.float32))
    for number in range(restarts):
        cells = reach.own if number == 0 else _random_ends(reach, index, number)
        for fraction in _FRACTIONS:
            margins, gain, is_high = _directions(network, reach, cells, targets)
            best = best.improved(Candidates(cells, margins))
            cells = _moved(reach, cells, gain, is_high, fraction)
        with torch.no_grad():
            logits = network(torch.from_numpy(reach.grid.ends(cells)))
        best = best.improved(Candidates(cells, logit_margins(logits, targets).numpy()))
    return best


def score_attack(
    deployed: DeployedCells,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    queries: int = 100,
) -> Candidates:
    """Return candidates of a black-box attack: random squares are moved to an end and kept where the margin falls.

    Args:
        deployed: the classifier; only its logits are used.
        reach: the balls.
        labels: their classes.
        index: each image's place in its data set; it seeds the draws.
        queries: forward passes per image.

    Raises:
        VerifierError: if the backend fails.

    Source: in the manner of Square Attack (Andriushchenko et al. 2020), on cells.
    """
    draws = [np.random.default_rng([2, int(place)]) for place in index]
    best = Candidates(reach.own, deployed.margins(reach.own, labels))
    for cells in (reach.lowest, reach.highest):
        best = best.improved(Candidates(cells, deployed.margins(cells, labels)))
    height, width = reach.own.shape[2:]
    for query in range(queries - 2):
        side = max(1, round(max(height, width) * (0.5 * (1 - query / queries)) ** 1.5))
        cells = best.cells.copy()
        for row, random in enumerate(draws):
            top, left = int(random.integers(height)), int(random.integers(width))
            part = (slice(None), slice(top, top + side), slice(left, left + side))
            source = (reach.lowest, reach.highest, reach.own)[int(random.integers(3))]
            cells[row][part] = source[row][part]
        best = best.improved(Candidates(cells, deployed.margins(cells, labels)))
    return best


def _random_ends(reach: Reach, index: np.ndarray, number: int) -> np.ndarray:
    shape = reach.own.shape[1:]
    choices = np.stack([np.random.default_rng([1, number, int(place)]).random(shape) < 0.5 for place in index])
    return np.where(choices, reach.highest, reach.lowest)


def _directions(
    network: nn.Module, reach: Reach, cells: np.ndarray, labels: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return margins, the predicted fall of the margin by moving each pixel, and whether it is to its highest cell."""
    ends = reach.grid.ends
    current = torch.from_numpy(ends(cells)).requires_grad_()
    margins = logit_margins(network(current), labels)
    (gradient,) = torch.autograd.grad(margins.sum(), current)
    slope = gradient.numpy()
    here = current.detach().numpy()
    channels = cells.shape[1]

    def fall(target: np.ndarray) -> np.ndarray:
        change = -slope * (ends(target) - here)
        return change[:, :channels] + change[:, channels:]

    to_low, to_high = fall(reach.lowest), fall(reach.highest)
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
