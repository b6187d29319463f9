"""What bounds margins over boxes in float32, to the code that steers by it.

Nothing is certified by these bounds: their sums are not rounded outward. `bounds.proof` proves what they found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, TypeAlias, final, runtime_checkable

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from abscert_plugin.errors import VerifierError


class BoundMethod(StrEnum):
    """How bounds are computed, from loose to tight."""

    IBP = "ibp"
    CROWN_IBP = "crown-ibp"
    CROWN_LBP = "crown-lbp"
    CROWN = "crown"
    OPTIMISED = "optimised"


HiddenBounds: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]
"""Lower and upper bounds of hidden layers, by auto_LiRPA's names of them."""


class BoundMemoryError(VerifierError):
    """Memory did not suffice for the bounds of a batch; a smaller batch may fit."""


class BoundTimeError(VerifierError):
    """The time was up before bounds were found."""


_NO_MEMORY: Final = ("out of memory", "defaultcpuallocator", "can't allocate memory", "alloc_failed")


def as_memory_error(error: Exception, method: BoundMethod, batch: int) -> BoundMemoryError | None:
    """Return what to raise in place of an error where memory did not suffice; None where it was something else."""
    is_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if not is_of_memory and not any(part in str(error).lower() for part in _NO_MEMORY):
        return None
    return BoundMemoryError(f"memory does not suffice for bounds by {method} of {batch} boxes; try fewer at once")


@final
@dataclass(frozen=True, slots=True)
class OptimisedMargins:
    """Lower bounds of margins by optimised slopes, and the slopes.

    Args:
        bounds: as `Bounder.margins` returns them.
        slopes: of the lower line of each ReLU, in order, for each margin; none where none were optimised.
    """

    bounds: Float32[Tensor, "batch others"]
    slopes: tuple[Float32[Tensor, "batch others ..."], ...]


@final
@dataclass(frozen=True, slots=True)
class LinearMargins:
    """Lower bounds of margins, and the slopes that they came from.

    Args:
        bounds: as `Bounder.margins` returns them.
        coefficients: slope of each margin's lower bound in each entry of the interval image. They tell where a
            split helps; after optimisation they may be those of another step than the bounds, so prove nothing.
    """

    bounds: Float32[Tensor, "batch others"]
    coefficients: Float32[Tensor, "batch others *input"]


@runtime_checkable
class Bounder(Protocol):
    """What bounds a network's margins over boxes of its inputs, from below."""

    def margins(
        self,
        lower: Float32[Tensor, "batch *input"],
        upper: Float32[Tensor, "batch *input"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> Float32[Tensor, "batch others"]:
        """Return lower bounds of logit[label] - logit[j] over each box, for all j other than the label, ascending.

        In exact arithmetic every input between `lower` and `upper` has margins at least these; -inf claims nothing.

        Args:
            lower: lower ends of the boxes, on the training scale.
            upper: upper ends of the boxes; equal to the lower ends where nothing is free.
            labels: the class whose margins are bounded, for each box.
            method: how.

        Raises:
            BoundMemoryError: if memory did not suffice; try fewer boxes at once.
            VerifierError: if a box is empty or not finite, or the method fails or is not written for the network.
        """
        ...

    def linear_margins(
        self,
        lower: Float32[Tensor, "batch *input"],
        upper: Float32[Tensor, "batch *input"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> LinearMargins:
        """Return the bounds of `margins` with their slopes at the input, for choosing where to cut.

        Raises:
            VerifierError: as `margins`, or if the method has no slopes.
        """
        ...

    def optimised_margins(
        self,
        lower: Float32[Tensor, "batch *input"],
        upper: Float32[Tensor, "batch *input"],
        labels: Int64[Tensor, "batch"],
    ) -> OptimisedMargins:
        """Return the bounds of `margins` by optimised slopes of ReLUs, and these; none where CROWN was enough.

        Raises:
            VerifierError: as `margins`.
        """
        ...
