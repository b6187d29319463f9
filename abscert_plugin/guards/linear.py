"""Linear nodes of a file, once more in a guard: with their weights, and with bounds of their absolute values."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float64
from typing_extensions import override

from abscert_plugin.guards.emitter import Emitter

Array = Float64[np.ndarray, "..."]
_BIASED: Final = ("Conv", "ConvTranspose")


class Linear(ABC):
    """A linear map x -> W x between tensors whose first axis is the batch.

    Args:
        products: most products in a sum.
        row_sum: largest sum of absolute weights of an output.
    """

    products: int
    row_sum: float

    @property
    def row_sums(self) -> Array:
        """Bounds of the sums of absolute weights, which go with the output by broadcasting."""
        return np.array(self.row_sum)

    @abstractmethod
    def middle(self, emitter: Emitter, source: str, bias: Array | None) -> str:
        """Append W x + b, with b rounded to nearest, and return its name; b goes with the output by broadcasting."""

    @abstractmethod
    def absolute(self, emitter: Emitter, source: str, factor: float, bias: Array) -> str:
        """Append factor |W| x + b and return its name; constants are rounded up."""

    def turned(self, shape: tuple[int, ...], shape_after: tuple[int, ...]) -> "Turned | None":
        """Return the map a -> W^T a, given the shapes of x and W x without the batch; None where it has none."""
        del shape, shape_after
        return None

    def scaled(self, factor: Array) -> "Linear | None":
        """Return the map times factors of its outputs, [1, *shape] or a single one; None where it has no such form."""
        del factor
        return None


@final
@dataclass(frozen=True)
class Weighted(Linear):
    """A Conv, ConvTranspose, Gemm, MatMul or Mul with constant weights.

    Args:
        operator: which.
        attributes: of the node.
        weights: as the node reads them.
        products: most products in a sum.
        row_sum: largest sum of absolute weights of an output.
        outputs: the axis of the weights that goes with those of the output; None where there is no such axis.
        rank: of the output, with the batch.
        stored: name of the weights in the file, where they are these.
    """

    operator: str
    attributes: Mapping[str, Any]
    weights: Array
    products: int
    row_sum: float
    outputs: int | None
    rank: int
    stored: str | None

    @override
    def middle(self, emitter: Emitter, source: str, bias: Array | None) -> str:
        weights = self.stored or emitter.nearest(self.weights)
        if bias is None:
            return emitter.copy(self.operator, self.attributes, [source, weights])
        return self._with_bias(emitter, source, weights, bias, is_above=False)

    @override
    def absolute(self, emitter: Emitter, source: str, factor: float, bias: Array) -> str:
        weights = emitter.above(np.abs(self.weights) * factor)
        return self._with_bias(emitter, source, weights, bias, is_above=True)

    def _with_bias(self, emitter: Emitter, source: str, weights: str, bias: Array, is_above: bool) -> str:
        give = emitter.above if is_above else emitter.nearest
        entries = self._by_output(bias)
        if self.operator == "Gemm" and entries is not None:
            return emitter.copy("Gemm", self.attributes, [source, weights, give(entries)])
        if self.operator in _BIASED and entries is not None:
            return emitter.copy(self.operator, self.attributes, [source, weights, give(entries)])
        found = emitter.copy(self.operator, self.attributes, [source, weights])
        return emitter.node("Add", [found, give(bias)])

    @property
    @override
    def row_sums(self) -> Array:
        if self.outputs is None:
            return np.array(self.row_sum)
        axes = tuple(axis for axis in range(self.weights.ndim) if axis != self.outputs)
        sums = np.abs(self.weights).sum(axis=axes) * (1 + 2.0**-40)
        shape = [1] * self.rank
        shape[self._place] = -1
        return sums.reshape(shape)

    @property
    def is_of_images(self) -> bool:
        """Whether it is a convolution of images."""
        return self.operator == "Conv" and self.rank == 4

    @property
    def pads(self) -> list[int] | None:
        """How many zeros a Conv puts around each image; None where its sizes tell."""
        given = self.attributes.get("pads", [0] * 2 * (self.rank - 2))
        return None if self.attributes.get("auto_pad", b"NOTSET") != b"NOTSET" else list(given)

    @property
    def _place(self) -> int:
        """The axis of an output, with the batch, that goes with `outputs`."""
        return 1 if self.operator in _BIASED else self.rank - 1

    def _by_output(self, numbers: Array) -> Array | None:
        """Return one number for each entry along `outputs`; None where there is more to tell."""
        if self.outputs is None:
            return None
        count = self.weights.shape[self.outputs]
        if numbers.size == 1:
            return np.full(count, float(numbers.reshape(-1)[0]))
        full = numbers.reshape((1,) * (self.rank - numbers.ndim) + numbers.shape)
        return full.reshape(-1) if full.size == count == full.shape[self._place] else None

    @override
    def turned(self, shape: tuple[int, ...], shape_after: tuple[int, ...]) -> "Turned | None":
        is_matrix = self.operator in ("Gemm", "MatMul") and self.rank == 2
        if self.outputs is None or not (is_matrix or self.operator == "Conv"):
            return None
        summed = self.outputs if is_matrix else (0, *range(2, self.weights.ndim))
        column_sum = float(np.abs(self.weights).sum(axis=summed).max())
        if is_matrix:
            products = self.weights.shape[self.outputs]
            return Turned(self, "Gemm", {"transB": self.outputs}, shape, shape_after, products, column_sum)
        pads, windows = self.pads, self.weights.shape[2:]
        if pads is None:
            return None
        axes = range(len(windows))
        steps, gaps = (list(self.attributes.get(name, [1] * len(axes))) for name in ("strides", "dilations"))
        spans = [gaps[axis] * (windows[axis] - 1) + 1 + steps[axis] * (shape_after[1 + axis] - 1) for axis in axes]
        # what a stride leaves over at the end of an axis is in no window
        rest = [shape[1 + axis] + pads[axis] + pads[axis + len(axes)] - spans[axis] for axis in axes]
        kept = {name: value for name, value in self.attributes.items() if name != "auto_pad"}
        attributes = {**kept, "output_padding": rest}
        products = self.weights.shape[0] * prod(windows)
        return Turned(self, "ConvTranspose", attributes, shape, shape_after, products, column_sum)

    @override
    def scaled(self, factor: Array) -> Linear | None:
        entries = self._by_output(factor)
        if entries is None or self.outputs is None:
            return None
        shape = [1] * self.weights.ndim
        shape[self.outputs] = -1
        weights = self.weights * entries.reshape(shape)
        row_sum = self.row_sum * float(np.abs(entries).max()) * (1 + 2.0**-40)
        return replace(self, weights=weights, row_sum=row_sum, stored=None)


@final
@dataclass(frozen=True)
class Turned:
    """A linear map a -> W^T a of rows.

    Args:
        source: the map x -> W x.
        operator, attributes: of the node that does it, with the weights of the source.
        shape, shape_after: of x and W x, without the batch.
        products: most products in a sum.
        column_sum: bound of the sum of absolute weights of an input.
    """

    source: Weighted
    operator: str
    attributes: Mapping[str, Any]
    shape: tuple[int, ...]
    shape_after: tuple[int, ...]
    products: int
    column_sum: float

    def of(self, emitter: Emitter, rows: str, count: int) -> str:
        """Append W^T a of rows [batch, count, outputs of W] and return the name of [batch, count, inputs of W]."""
        given = emitter.constant(np.array([-1, *self.shape_after], dtype=np.int64))
        weights = self.source.stored or emitter.nearest(self.source.weights)
        made = emitter.copy(self.operator, self.attributes, [emitter.node("Reshape", [rows, given]), weights])
        flat = emitter.constant(np.array([-1, count, prod(self.shape)], dtype=np.int64))
        return emitter.node("Reshape", [made, flat])


@final
@dataclass(frozen=True)
class Pooled(Linear):
    """A node that takes sums or means of entries: its weights are equal and at least 0.

    Args:
        operator: which.
        attributes: of the node.
        constants: names of what else it reads.
        products: most entries in a sum.
        row_sum: sum of the weights of an output.
    """

    operator: str
    attributes: Mapping[str, Any]
    constants: tuple[str, ...]
    products: int
    row_sum: float

    @override
    def middle(self, emitter: Emitter, source: str, bias: Array | None) -> str:
        found = emitter.copy(self.operator, self.attributes, [source, *self.constants])
        return found if bias is None else emitter.node("Add", [found, emitter.nearest(bias)])

    @override
    def absolute(self, emitter: Emitter, source: str, factor: float, bias: Array) -> str:
        found = emitter.copy(self.operator, self.attributes, [source, *self.constants])
        grown = emitter.node("Mul", [found, emitter.number(factor)])
        return emitter.node("Add", [grown, emitter.above(bias)])
