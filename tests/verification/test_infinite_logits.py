"""Networks of infinite logits are refused or attacked without a word of numpy: a warning is an error in these tests."""

from pathlib import Path

import numpy as np
import operator_graphs as graphs
import pytest
import torch
from torch import Tensor, nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Radius
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.reading.network import convert
from abscert_plugin.verification.cell_flips import flip_cells


class Steep(nn.Module):
    """A network whose slopes are beyond float32, and its logits where they are not 0."""

    def forward(self, intervals: Tensor) -> Tensor:
        total = (intervals - intervals.detach().round()).flatten(1).sum(1)
        logits = torch.stack([total, -total, -total], 1)
        return logits * 1e30 * 1e30


def test_cells_are_flipped_where_slopes_are_infinite() -> None:
    images = np.random.default_rng(0).random((5, 1, 2, 2), dtype=np.float32)
    reach = Cells(Grid(2)).reach(Ball(Radius.parse("0.2")), images)  # whose ends are -1, 0 and 1
    found = flip_cells(Steep(), reach, np.zeros(5, dtype=np.int64), np.arange(5), restarts=2, until=np.inf)
    assert ((found.points >= reach.lowest) & (found.points <= reach.highest)).all()


def test_a_network_of_infinite_logits_is_refused(tmp_path: Path) -> None:
    def steep(build: graphs.Build) -> None:
        for _ in range(2):
            build.add("Mul", build.constant(np.float32(1e30)))
        build.add("Flatten")
        build.add("Gemm", build.constant(np.ones((int(np.prod(build.inputs)), graphs.CLASSES), np.float32)))

    build = graphs.Build(np.random.default_rng(0), (1, 2, 2))
    steep(build)
    artifact = Artifact.open(build.saved(tmp_path), Provider.CPU)
    with pytest.raises(UnsupportedModelError, match="a difference of nan"):
        convert(artifact)
