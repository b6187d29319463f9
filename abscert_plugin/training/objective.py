"""What a training method is to the loop: how images enter the network, and the loss of a batch."""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn


@final
@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the training a step is.

    Args:
        step: number of steps done before this one.
        steps_per_epoch: steps of one epoch.
        epochs: epochs of the whole training.
    """

    step: int
    steps_per_epoch: int
    epochs: int


@runtime_checkable
class Objective(Protocol):
    """What the loop asks of a method: everything that differs between two methods, and nothing else."""

    @property
    def name(self) -> str:
        """The method's name, as records and tables show it."""
        ...

    @property
    def claim(self) -> str:
        """The claim that it trains for, as of `Method`."""
        ...

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return what `loss` and `margins` are given for stored images."""
        ...

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,
    ) -> Float[Tensor, ""]:
        """Return the loss to descend on for this batch at this moment."""
        ...

    def margins(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each label's margin under the claim; an image counts as right where it is above 0."""
        ...
