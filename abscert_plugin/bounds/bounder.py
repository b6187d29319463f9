"""What bounds margins over boxes, to the code that decides claims by it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias, final, runtime_checkable

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
    coefficients: Float32[Tensor, "batch others channels2 height width"]


@final
@dataclass(frozen=True, slots=True)
class SplitMargins:
    """Lower bounds of margins, and what tells where a split helps.

    Args:
        bounds: as `Bounder.margins` returns them.
        coefficients: slope of each margin's lower bound in each entry of the input.
        hidden: the bounds of what enters each activation that they came from.
        relu_coefficients: slope of each margin's lower bound in what each ReLU gives out, under the name that its
            input has in `hidden`.
    """

    bounds: Float32[Tensor, "batch others"]
    coefficients: Float32[Tensor, "batch others channels height width"]
    hidden: HiddenBounds
    relu_coefficients: Mapping[str, Tensor]


@runtime_checkable
class Bounder(Protocol):
    """What bounds a network's margins over boxes of its inputs, from below."""

    def margins(
        self,
        lower: Float32[Tensor, "batch inputs height width"],
        upper: Float32[Tensor, "batch inputs height width"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> Float32[Tensor, "batch others"]:
        """Return lower bounds of logit[label] - logit[j] over each box, for all j other than the label, ascending.

        Soundness: every input between `lower` and `upper` has margins at least these; -inf claims nothing.

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
        lower: Float32[Tensor, "batch inputs height width"],
        upper: Float32[Tensor, "batch inputs height width"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> LinearMargins:
        """Return the bounds of `margins` with their slopes at the input, for choosing where to cut.

        Raises:
            VerifierError: as `margins`, or if the method has no slopes.
        """
        ...

    def split_margins(
        self,
        lower: Float32[Tensor, "batch inputs height width"],
        upper: Float32[Tensor, "batch inputs height width"],
        labels: Int64[Tensor, "batch"],
        hidden: HiddenBounds,
    ) -> SplitMargins:
        """Return linear bounds of `margins` from given bounds of hidden layers, for cutting by their signs.

        Soundness: for all inputs of a box whose hidden values lie within `hidden`; empty to have them computed.

        Raises:
            VerifierError: as `margins`.
        """
        ...
