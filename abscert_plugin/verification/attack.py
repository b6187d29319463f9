"""Attacks: points of a ball that lose the label, found by gradients or by scores alone.

What an attack finds is a candidate; it is replayed through the deployed file before it is believed.
"""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Int64
from torch import nn

from abscert_plugin.front import Cells, Pixels, Reach
from abscert_plugin.verification.candidates import Candidates
from abscert_plugin.verification.cell_flips import flip_cells
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.pgd import pgd

_BY_FRONT: Final[Mapping[type, Callable[..., Candidates]]] = MappingProxyType({Cells: flip_cells, Pixels: pgd})


def gradient_attack(
    network: nn.Module,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    restarts: int,
    until: float,
) -> Candidates:
    """Return candidates of the white-box attack that suits the front: flips of cells, or PGD on pixels.

    Args:
        network: what the front feeds.
        reach: the balls.
        labels: the classes of their centres.
        index: each centre's place in its data set; it seeds the draws.
        restarts: how many starts, at least 1.
        until: time of `time.perf_counter` from which no further start is made.
    """
    return _BY_FRONT[type(reach.front)](network, reach, labels, index, restarts, until)


def score_attack(
    deployed: Deployed,
    reach: Reach,
    labels: Int64[np.ndarray, "batch"],
    index: Int64[np.ndarray, "batch"],
    queries: int,
    until: float,
) -> Candidates:
    """Return candidates of a black-box attack: random squares are moved to an end and kept where the margin falls.

    Args:
        deployed: the classifier; only its logits are used.
        reach: the balls.
        labels: their classes.
        index: each image's place in its data set; it seeds the draws.
        queries: forward passes per image.
        until: time of `time.perf_counter` from which no further pass is made.

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
        if time.perf_counter() > until:
            break
        side = max(1, round(max(height, width) * (0.5 * (1 - query / queries)) ** 1.5))
        cells = best.points.copy()
        for row, random in enumerate(draws):
            top, left = int(random.integers(height)), int(random.integers(width))
            part = (slice(None), slice(top, top + side), slice(left, left + side))
            source = (reach.lowest, reach.highest, reach.own)[int(random.integers(3))]
            cells[row][part] = source[row][part]
        best = best.improved(Candidates(cells, deployed.margins(cells, labels)))
    return best
