"""New nodes beside those of a file: names that nothing else has, and constants that are rounded outward."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np
import onnx
from jaxtyping import Float64
from onnx import helper, numpy_helper

from abscert_plugin.errors import UnsupportedModelError

LARGEST: Final = 2.0**100
"""What constants and values stay below, so that nothing overflows on the way."""

_AXES_AS_INPUT: Final = 18  # version of ONNX's operators from which ReduceMin and ReduceMax read their axes

BLOCK: Final = 16
"""Channels that onnxruntime keeps together between convolutions of images."""


@final
class Emitter:
    """The nodes and constants in the making.

    Args:
        taken: names of tensors that are there already.
        opset: version of ONNX's operators.
    """

    def __init__(self, taken: Iterable[str], opset: int) -> None:
        self._opset = opset
        self._prefix = "guard/"
        known = tuple(taken)
        while any(name.startswith(self._prefix) for name in known):
            self._prefix = "_" + self._prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def name(self, about: str) -> str:
        """Return a name that nothing has."""
        return f"{self._prefix}{about}_{len(self.nodes)}"

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node and return the name of the tensor that it gives."""
        name = self.name(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def copy(self, operator: str, attributes: Mapping[str, Any], inputs: Sequence[str]) -> str:
        """Append a node of the file once more, on other tensors."""
        return self.node(operator, inputs, **attributes)

    def give(self, name: str, source: str) -> None:
        """Give a tensor that a node here gives under a name of its own, as an output."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, known in enumerate(names):
                    if known == source:
                        names[place] = name

    def constant(self, array: np.ndarray) -> str:
        """Return the name of a constant; equal ones are kept once."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{self._prefix}constant_{len(self._constants)}"
            self._constants[key] = name
            # not `ascontiguousarray`, which gives a single number an axis
            self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return self._constants[key]

    def nearest(self, array: Float64[np.ndarray, "..."]) -> str:
        """Return the name of a constant of float32, rounded to nearest.

        Raises:
            UnsupportedModelError: if an entry is not far below the largest float32.
        """
        if not bool((np.abs(array) < LARGEST).all()):  # of NaN too
            raise UnsupportedModelError(
                "its constants are too large for a guard in float32: nothing would be certified"
            )
        return self.constant(array.astype(np.float32))

    def exactly(self, value: float) -> str:
        """Return the name of a single number of float32."""
        return self.nearest(np.array(float(value)))

    def above(self, array: Float64[np.ndarray, "..."]) -> str:
        """Return the name of a constant of float32 that is nowhere below numbers of at least 0.

        Raises:
            UnsupportedModelError: as `nearest`.
        """
        return self.nearest(rounded_up(np.asarray(array, dtype=np.float64)).astype(np.float64))

    def number(self, value: float) -> str:
        """Return the name of a single number that is not below one of at least 0."""
        return self.above(np.array(value))

    def outward(self, array: np.ndarray, way: float) -> str:
        """Return the name of a constant of float32, rounded up where the way is inf, and down where it is -inf."""
        found = array.astype(np.float32)
        is_short = found > array if way < 0 else found < array
        return self.nearest(np.where(is_short, np.nextafter(found, np.float32(way)), found).astype(np.float64))

    def blend(self, first: str, second: str, factor: float, channels: int) -> str:
        """Append first + factor * second, of images of so many channels, as a convolution of each by itself.

        onnxruntime keeps images in blocks of channels between its convolutions, and makes one node of a convolution, a
        sum and a ReLU behind it.
        """
        weights = self.constant(np.full((channels, 1, 1, 1), factor, dtype=np.float32))
        return self.node("Add", [self.node("Conv", [second, weights], group=channels, kernel_shape=[1, 1]), first])

    def widened(self, source: str, axis: int) -> str:
        """Append an Unsqueeze: one more axis, of size 1, at a place."""
        return self.node("Unsqueeze", [source, self.constant(np.array([axis], dtype=np.int64))])

    def reduced(self, operator: str, source: str, axes: Sequence[int]) -> str:
        """Append a ReduceMin or ReduceMax that drops its axes."""
        if self._opset < _AXES_AS_INPUT:
            return self.node(operator, [source], axes=list(axes), keepdims=0)
        return self.node(operator, [source, self.constant(np.array(axes, dtype=np.int64))], keepdims=0)


def rounded_up(array: Float64[np.ndarray, "..."]) -> np.ndarray:
    """Return the least float32 that is normal, or 0, and not below each number of at least 0."""
    found = array.astype(np.float32)
    found = np.where(found < array, np.nextafter(found, np.float32(np.inf)), found)
    smallest = np.finfo(np.float32).tiny  # a smaller one may be flushed to 0
    return np.where((found > 0) & (found < smallest), smallest, found).astype(np.float32)
