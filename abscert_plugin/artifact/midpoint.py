"""From an interval image to what an ordinary classifier reads: a point of each cell, on the classifier's scale."""

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import helper, numpy_helper

from abscert_plugin.artifact.metadata import INTERVAL
from abscert_plugin.artifact.represented import Represented
from abscert_plugin.preprocessing import Preprocessing

_PREFIX: Final = "midpoint/"


@final
@dataclass(frozen=True, slots=True)
class Midpoint:
    """The way from interval images to a classifier's input, as ONNX nodes and on arrays, the same to the bit.

    Args:
        preprocessing: the way from images to that input.
        levels: the stored value that stands for 1, where each cell stands for the stored value in it (`of_levels`) in
            place of its mid-point; so the classifier reads 8-bit images as they are.
        represented: the points that cells stand for, in place of their mid-points; not beside `levels`.
    """

    preprocessing: Preprocessing
    levels: int | None = None
    represented: Represented | None = None

    def affine(self) -> tuple[Float32[np.ndarray, "channels 1 1"], Float32[np.ndarray, "channels 1 1"]]:
        """Return factor and offset with (lower + upper) * factor + offset = what the classifier reads.

        With `levels`: level * factor + offset, of the stored value.
        """
        scale = self.preprocessing.scale
        low, high = scale.input_range
        mean, std = scale.per_channel(self.preprocessing.image_shape[0])
        # the mid-point (lower + upper) / 2 on the training scale is (lower + upper) / 4 + 1/2 on the pixel scale
        factor, offset = (high - low) / 4 / std, ((low + high) / 2 - mean) / std
        if self.levels is not None:
            factor, offset = (high - low) / self.levels / std, (low - mean) / std
        return factor.astype(np.float32).reshape(-1, 1, 1), offset.astype(np.float32).reshape(-1, 1, 1)

    def nodes(self, target: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Return nodes that compute `target`, the classifier's input, from `interval`, and their constants."""
        channels = self.preprocessing.image_shape[0]
        factor, offset = self.affine()
        constants = {
            "sizes": np.array([channels, channels], dtype=np.int64),
            "factor": factor[np.newaxis],
            "offset": offset[np.newaxis],
            "quarter": np.array((self.levels or 0) / 4, dtype=np.float32),
            "half": np.array((self.levels or 0) / 2, dtype=np.float32),
            "shape": np.array([-1, *self.preprocessing.input_shape], dtype=np.int64),
            **({} if self.represented is None else self.represented.constants()),
        }
        ends = [_PREFIX + "lower", _PREFIX + "upper"]
        sum_of_ends, name = _PREFIX + "Add", _PREFIX + "Split"
        nodes = [
            helper.make_node("Split", [INTERVAL, _PREFIX + "sizes"], ends, name, axis=1),
            helper.make_node("Add", ends, [sum_of_ends], sum_of_ends),
        ]
        last = sum_of_ends
        for operator, others, attributes in self._steps():
            name = f"{_PREFIX}{operator}_{len(nodes)}"
            nodes.append(helper.make_node(operator, [last, *others], [name], name, **attributes))
            last = name
        nodes[-1].output[0] = target
        read = {name for node in nodes for name in node.input}
        tensors = [
            numpy_helper.from_array(values, _PREFIX + name)
            for name, values in constants.items()
            if _PREFIX + name in read
        ]
        return nodes, tensors

    def _steps(self) -> list[tuple[str, list[str], dict[str, Any]]]:
        given = self.preprocessing
        steps: list[tuple[str, list[str], dict[str, Any]]] = []
        if self.levels is not None:  # the mid-point of a cell is within a quarter of its stored value
            steps += [("Mul", [_PREFIX + "quarter"], {}), ("Add", [_PREFIX + "half"], {}), ("Round", [], {})]
        if self.represented is not None:
            steps += [(operator, [_PREFIX + name for name in names], {}) for operator, names in self.represented.STEPS]
        steps += [
            ("Mul", [_PREFIX + "factor"], {}),
            ("Add", [_PREFIX + "offset"], {}),
        ]
        channels, height, width = given.image_shape
        if given.is_channels_last:
            steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
        if len(given.input_shape) == 1:
            steps.append(("Flatten", [], {"axis": 1}))
        elif given.input_shape != ((height, width, channels) if given.is_channels_last else given.image_shape):
            steps.append(("Reshape", [_PREFIX + "shape"], {}))
        if given.is_whole:
            steps.append(("Round", [], {}))
        return steps

    def apply(
        self, intervals: Float32[np.ndarray, "batch channels2 height width"]
    ) -> Float32[np.ndarray, "batch *feature"]:
        """Return what the classifier reads for interval images."""
        given = self.preprocessing
        factor, offset = self.affine()
        lower, upper = np.split(intervals, 2, axis=1)
        middle = lower + upper
        if self.levels is not None:
            middle = np.rint(middle * np.float32(self.levels / 4) + np.float32(self.levels / 2))
        if self.represented is not None:
            middle = self.represented.apply(middle)
        values: np.ndarray = middle * factor + offset
        if given.is_channels_last:
            values = values.transpose(0, 2, 3, 1)
        values = values.reshape(len(values), *given.input_shape)
        return np.ascontiguousarray(np.rint(values) if given.is_whole else values)
