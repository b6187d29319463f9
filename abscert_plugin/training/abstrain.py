"""Algorithm 2 of the paper, ABSTRAIN: ordinary training on the interval images of the training set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.abstraction import LevelAbstraction
from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.grid import Grid
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment, Objective


@final
class Abstrain:
    """Cross-entropy of the interval network on phi(image).

    By docs/METHOD.md, the training interval of a perturbed pixel (Algorithm 1) is the cell that holds the pixel
    for every radius with d >= 2 epsilon, so the radius does not enter.

    Args:
        grid: the cells.
        levels: the stored pixel value that stands for 1.0.
        device: where the batches are.

    Source: AbsCert paper, Algorithm 2.
    """

    name: Final = "abstrain"
    claim: Final = "cell"

    def __init__(self, grid: Grid, levels: int, device: torch.device) -> None:
        self._abstraction = LevelAbstraction(grid, levels).to(device)

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch *feature"]:
        """Return the interval images, on the training scale."""
        return self._abstraction(images)

    def loss(
        self,
        network: nn.Module,
        inputs: Float[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,  # noqa: ARG002 - this loss does not change over the training
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(network(inputs).float(), labels)

    def margins(
        self,
        network: nn.Module,
        inputs: Float[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """Return the label's logit minus the greatest other one, on the image's cells."""
        return logit_margins(network(inputs).float(), labels)


@final
@dataclass(frozen=True, slots=True)
class AbstrainMethod:
    """Algorithm 2; it has no options."""

    claim: ClassVar[str] = Abstrain.claim
    takes_intervals: ClassVar[bool] = True

    def prepare(self, network: nn.Module) -> None:
        """Leave the network."""

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective."""
        assert grid is not None
        return Abstrain(grid, levels, device)

    def describe(self) -> Mapping[str, Any]:
        """Return no options."""
        return {}


ABSTRAIN: Final = AbstrainMethod()
ENTRY: Final = MethodEntry(
    Abstrain.name,
    "Algorithm 2: cross-entropy on cells (claim cell)",
    "AbsCert, 2023",
    AbstrainMethod,
    patience=None,
    gradient_clip=None,
    step_cost=0.8,
)
