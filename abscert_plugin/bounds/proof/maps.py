"""Linear maps of the graph, x -> W x in float64: with |W|, the radius of weights not known exactly, and W^T.

Or convolutions in float32, ten times as fast on a CPU, and errors that are bounded in the same way: see `InSingle`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.enclosure import Enclosure

OFF: Final = 2.0**-46
"""A share by which a reciprocal in float64 is off at most."""


@final
@dataclass(frozen=True, slots=True)
class Weights:
    """Constant weights: the middle of the ideal ones, what bounds them, and what each differs by.

    Args:
        center: float64.
        absolute: bounds of the sum of absolute terms of each; |center| where it is known exactly.
        radius: how far the ideal weight may lie from the center; None where it is the center.
        roundings: of the computed weights.
        underflow: what underflow adds to a computed weight.
        gain: largest product of absolute weights that made one of them, at least 1.
    """

    center: Tensor
    absolute: Tensor
    radius: Tensor | None
    roundings: int = 0
    underflow: float = 0.0
    gain: float = 1.0

    @property
    def are_numbers(self) -> bool:
        """Whether each is known but for `OFF` of it: the center does for it where that is accounted for."""
        return self.radius is None or bool((self.radius <= OFF * self.center.abs()).all())

    @classmethod
    def of(cls, constant: Enclosure, change: Callable[[Tensor], Tensor] = lambda values: values) -> "Weights":
        """Return the weights that a constant holds, with its axes changed."""
        if constant.is_point:
            center = change(constant.lower)
            return cls(center, center.abs(), None, gain=_gain(center.abs()))
        center = constant.lower / 2 + constant.upper / 2
        radius = (constant.upper - constant.lower) / 2 + arithmetic.own_gamma(8) * constant.magnitude
        absolute = change(constant.magnitude)
        gain = max(constant.gain, _gain(absolute))
        underflow = float(constant.underflow.max())
        return cls(change(center), absolute, change(radius), constant.roundings, underflow, gain)


def _gain(absolute: Tensor) -> float:
    top = float(absolute.max()) if absolute.numel() else 0.0
    return max(1.0, top) if top == top else torch.inf  # NaN claims nothing


class LinearMap(ABC):
    """A linear map between tensors whose first axis is the batch."""

    weights: Weights
    products: int
    """Most products in a sum."""
    row_sum: float
    """Largest sum of absolute weights of an output."""
    is_single = False
    """Whether its products are computed in float32."""

    @property
    @abstractmethod
    def readers(self) -> int:
        """Most outputs that an input takes part in."""

    @abstractmethod
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        """Return the map of some values, with these weights in place of its own."""

    @abstractmethod
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return W^T rows, for rows [many, *output shape]; `shape` is that of an input, without the batch."""


@final
class Convolution(LinearMap):
    """A convolution over 1 to 3 axes, with the same padding on both sides.

    Args:
        weights: [outputs, inputs of a group, *kernel].
        options: stride, padding, dilation and groups, as torch takes them.
    """

    def __init__(self, weights: Weights, options: dict[str, Any]) -> None:
        self.weights = weights
        self.products = weights.center[0].numel()
        self.row_sum = float(weights.absolute.flatten(1).sum(1).max())
        self.options = options
        rank = weights.center.ndim - 2
        self._forward = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
        self._backward = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[
            rank - 1
        ]

    @property
    @override
    def readers(self) -> int:
        weights = self.weights.center
        return weights.numel() // (weights.shape[1] * int(self.options["groups"]))

    @override
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        return self._forward(values, weight, **self.options)

    @override
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        options, kernel = self.options, self.weights.center.shape[2:]
        smallest = [
            (size - 1) * step - 2 * pad + apart * (side - 1) + 1
            for size, step, pad, apart, side in zip(
                rows.shape[2:], options["stride"], options["padding"], options["dilation"], kernel, strict=True
            )
        ]
        left_over = [size - reached for size, reached in zip(shape[1:], smallest, strict=True)]
        return self._backward(rows, self.weights.center.to(rows.dtype), output_padding=left_over, **options)


@final
class Matrix(LinearMap):
    """values @ W.

    Args:
        weights: [inputs, outputs].
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.products = weights.center.shape[0]
        self.row_sum = float(weights.absolute.sum(0).max())

    @property
    @override
    def readers(self) -> int:
        return self.weights.center.shape[1]

    @override
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        return values @ weight

    @override
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        return rows @ self.weights.center.T.to(rows.dtype)


@final
class Bilinear(LinearMap):
    """A sum of products of weights with values, however they are paired.

    Args:
        function: of weights and values, linear in each, with no further constants.
        weights: what the function takes.
        products: most products in a sum.
        shape: of the values, without the batch.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], weights: Weights, products: int, shape: tuple[int, ...]
    ) -> None:
        self.weights = weights
        self.products = products
        ones = torch.ones((1, *shape), dtype=torch.float64)
        self.row_sum = float(function(weights.absolute, ones).max()) * (1 + arithmetic.own_gamma(products + 4))
        self._function = function

    @property
    @override
    def readers(self) -> int:
        return self.weights.center.numel()  # an input meets each weight once at most

    @override
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        return self._function(weight, values)

    @override
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        return pulled_back(lambda values: self._function(self.weights.center.to(rows.dtype), values), rows, shape)


@final
class Scale(LinearMap):
    """Entry by entry: values * W; W goes with the values by broadcasting and does not enlarge them."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.products = 1
        self.row_sum = float(weights.absolute.max())

    @property
    @override
    def readers(self) -> int:
        return 1

    @override
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        return values * weight

    @override
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        return rows * self.weights.center.to(rows.dtype)


@final
class Mean(LinearMap):
    """Means or sums of entries: a sum with equal weights, and one factor for each output.

    Args:
        summed: sums of entries, without weights.
        weights: the factor of each output, [1, *output shape] or a single one.
        products: most entries in a sum.
    """

    def __init__(self, summed: Callable[[Tensor], Tensor], weights: Weights, products: int) -> None:
        self.weights = weights
        self.products = products
        self.row_sum = float(weights.absolute.max()) * products
        self._summed = summed

    @property
    @override
    def readers(self) -> int:
        return self.products

    @override
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        return self._summed(values) * weight

    @override
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        return pulled_back(self._summed, rows * self.weights.center.to(rows.dtype), shape)


@final
class InSingle(LinearMap):
    """A convolution with known weights that is computed in float32, of values in float64 that are rounded to it.

    Soundness: a sum of n products lies within gamma(n + 2) of the sum of absolute terms of the
    exact one, with `arithmetic.single_gamma`, and what underflows beside (`enclosure`); torch's float32 convolutions
    and products on the CPU are taken to be sums of products of binary32.
    """

    is_single = True

    def __init__(self, exact: LinearMap) -> None:
        self.weights, self.products, self.row_sum = exact.weights, exact.products, exact.row_sum
        self.exact = exact
        self._casts = {id(weight): weight.float() for weight in (self.weights.center, self.weights.absolute)}

    @property
    @override
    def readers(self) -> int:
        return self.exact.readers

    @override
    def apply(self, weight: Tensor, values: Tensor) -> Tensor:
        return self.exact.apply(self._casts[id(weight)], values.float()).double()

    @override
    def transposed(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self.exact.transposed(rows.float(), shape).double()


def pulled_back(function: Callable[[Tensor], Tensor], rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return W^T rows of a linear function without constants, by automatic differentiation."""
    with torch.enable_grad():
        point = torch.zeros((len(rows), *shape), dtype=rows.dtype, requires_grad=True)
        # rows as a factor, which changes no bit: torch checks the shape of rows given as gradients, and imports sympy
        (found,) = torch.autograd.grad((function(point) * rows).sum(), point, create_graph=rows.requires_grad)
    return found
