"""phi as two operators that auto_LiRPA can bound, so that its own code bounds the deployed classifier on images."""

import hashlib
from functools import cache
from importlib import import_module
from typing import Any, Final, final

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.compat import load_lirpa

_DOMAIN: Final = "abscert"
_SLOPE: Final = 2.0  # the training scale [-1, 1] is twice as wide as the pixel scale


@final
class DeployedClassifier(nn.Module):
    """The deployed classifier, written with operators that auto_LiRPA can bound: wrap it in a `BoundedModule`.

    Its input are images on the pixel scale [0, 1], its output logits, bit for bit those of `Abstraction` and then the
    network. Bounds of it are taken over boxes of images: `PerturbationLpNorm(norm=inf, x_L=..., x_U=...)`. Its gradient
    goes straight through phi, as if both ends of a pixel's cell moved with the pixel. Network and grid of a deployed
    file are those of `abscert.torch_module`.

    Soundness: phi does not fall as a pixel rises, so each end of a pixel's cell lies between its values at the ends
    of the pixel's box. These two constants are the bounds of every method (IBP, CROWN-IBP, CROWN, optimised);
    they are equal where the box lies in one cell.

    Args:
        network: takes interval images (training scale).
        grid: the cells. Each grid gets operators of its own: auto_LiRPA 0.7 merges operators of one class that read
            the same tensor, whatever their attributes.

    Raises:
        ConfigError: if auto_LiRPA is not installed.
    """

    def __init__(self, network: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.network = network
        self._lower, self._upper = phi_operators(grid)

    def forward(self, images: Float32[Tensor, "batch channels height width"]) -> Float32[Tensor, "batch classes"]:
        """Return the logits of images on the pixel scale [0, 1]."""
        return self.network(torch.cat([self._lower.apply(images), self._upper.apply(images)], dim=1))


@cache
def phi_operators(grid: Grid) -> tuple[Any, Any]:
    """Return the two `torch.autograd.Function` of a grid, lower and upper end, registered with auto_LiRPA.

    Raises:
        ConfigError: if auto_LiRPA is not installed.
    """
    lirpa = load_lirpa()
    phi = Abstraction(grid)
    key = hashlib.sha256(grid.edges.tobytes()).hexdigest()[:16]
    operators = []
    for side, ends in (("Lower", phi.lower), ("Upper", phi.upper)):
        name = f"{side}{key}"
        lookup = _LookUp(phi.interior, ends)
        lirpa.register_custom_op(f"{_DOMAIN}::{name}", bound_class(name, lookup))
        operators.append(_function(name, lookup))
    return operators[0], operators[1]


@final
class _LookUp:
    """One end of each pixel's cell.

    Args:
        interior: the edges between cells, on the pixel scale.
        ends: that end of each cell, on the training scale.
    """

    def __init__(self, interior: Tensor, ends: Tensor) -> None:
        self._interior = interior
        self._ends = ends

    def __call__(self, images: Tensor) -> Tensor:
        """Return the end of each pixel's cell, on the images' device."""
        cell = torch.bucketize(images.contiguous(), self._interior.to(images.device), right=True)
        return self._ends.to(images.device)[cell]


def _function(name: str, lookup: _LookUp) -> Any:
    """Return an autograd function that a trace shows as one node.

    Its own gradient is zero, as a step's is; backward it stands for the scaling of pixels, so that attacks find a way.
    """

    def forward(ctx: Any, images: Tensor) -> Tensor:
        del ctx
        return lookup(images)

    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return _SLOPE * gradient

    def symbolic(graph: Any, images: Any) -> Any:
        return graph.op(f"{_DOMAIN}::{name}", images).setType(images.type())

    members = {"forward": forward, "backward": backward, "symbolic": symbolic}
    return type(name, (torch.autograd.Function,), {key: staticmethod(member) for key, member in members.items()})


def bound_class(name: str, lookup: Any) -> Any:
    """Return the class of auto_LiRPA nodes that bound a function which does not fall, by its values at the ends.

    Args:
        name: of the class; two nodes of one class count as the same function where they read the same tensor.
        lookup: the function, on tensors.
    """

    def forward(self: Any, images: Tensor) -> Tensor:
        del self
        return lookup(images)

    def bound_relax(self: Any, images: Any, init: bool = False) -> None:
        if init:  # 0.7; 0.3 has called it before
            self.init_linear_relaxation(images)
        self.lb, self.ub = lookup(images.lower), lookup(images.upper)  # the slopes stay zero

    def interval_propagate(self: Any, *intervals: Any) -> tuple[Tensor, Tensor]:
        del self
        return lookup(intervals[0][0]), lookup(intervals[0][1])

    members = {"forward": forward, "bound_relax": bound_relax, "interval_propagate": interval_propagate}
    return type(f"Bound{name}", (activation_class(),), members)


def activation_class() -> Any:
    """Return auto_LiRPA's base class of nodes that a linear relaxation bounds.

    Raises:
        ConfigError: if it is not installed.
    """
    load_lirpa()
    try:
        return import_module("auto_LiRPA.operators.activation_base").BoundActivation
    except ModuleNotFoundError:  # 0.3
        return import_module("auto_LiRPA.operators.activation").BoundActivation
