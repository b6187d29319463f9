"""What bounds margins over boxes, to the code that decides claims by it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, final

from jaxtyping import Float32
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
