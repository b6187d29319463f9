"""From an interval image to what an ordinary classifier reads: each cell's mid-point, on the classifier's scale."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, final

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import INTERVAL
from abscert_plugin.artifact.third_party import Port
from abscert_plugin.errors import ConfigError, UnsupportedModelError

_PREFIX: Final = "midpoint/"
_NOT_CHANNELS: Final = 5  # more channels than any image has: the axis is a height


class Layout(StrEnum):
    """The order of axes that a classifier reads."""

    NCHW = "nchw"
    NHWC = "nhwc"
    FLAT = "flat"


@final
@dataclass(frozen=True, slots=True)
class InputScale:
    """What a classifier reads for a pixel: (low + pixel * (high - low) - mean) / std.

    Args:
        input_range: (low, high), what pixels 0 and 1 of the pixel scale are for the classifier before it is
            normalised: (0, 1), (0, 255), (-1, 1).
        mean: subtracted after that, on the scale of `input_range`; one value, or one for each channel.
        std: divided by after that; one value, or one for each channel.

    Raises:
        ConfigError: if a value is not finite, low >= high, or a std is not positive.
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        low, high = self.input_range
        if not all(math.isfinite(value) for value in (low, high, *self.mean, *self.std)):
            raise ConfigError(f"expected an input range, mean and std of finite numbers, got {self}")
        if not low < high:
            raise ConfigError(f"expected an input range low,high with low < high, got {low:g},{high:g}")
        if min(self.std, default=0) <= 0:
            raise ConfigError(f"expected every std above 0, got {self.std}; leave it out to divide by nothing")

    def affine(self, channels: int) -> tuple[Float32[np.ndarray, "channels 1 1"], Float32[np.ndarray, "channels 1 1"]]:
        """Return factor and offset with (lower + upper) * factor + offset = what the classifier reads.

        Raises:
            ConfigError: if there is neither one mean and std nor one for each channel.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ConfigError(f"expected one {name} or {channels}, one for each channel, got {len(values)}")
        low, high = self.input_range
        mean = np.broadcast_to(np.array(self.mean, dtype=np.float64), channels)
        std = np.broadcast_to(np.array(self.std, dtype=np.float64), channels)
        # the mid-point (lower + upper) / 2 on the training scale is (lower + upper) / 4 + 1/2 on the pixel scale
        factor, offset = (high - low) / 4 / std, ((low + high) / 2 - mean) / std
        return factor.astype(np.float32).reshape(-1, 1, 1), offset.astype(np.float32).reshape(-1, 1, 1)


@final
@dataclass(frozen=True, slots=True)
class Midpoint:
    """The way from interval images to a classifier's input, as ONNX nodes and on arrays, the same to the bit.

    Args:
        image_shape: (channels, height, width).
        layout: order of the axes that the classifier reads.
        rank: how many axes it reads, with the batch: 2, 3 (no channel axis) or 4.
        element_type: what it reads, a value of `onnx.TensorProto.DataType`.
        scale: what it reads for a pixel.

    Raises:
        ConfigError: if the scale does not fit the channels or the element type.
    """

    image_shape: tuple[int, int, int]
    layout: Layout
    rank: int
    element_type: int
    scale: InputScale

    def __post_init__(self) -> None:
        self.scale.affine(self.image_shape[0])
        if self._reads_bytes and self.scale != InputScale((0.0, 255.0)):
            raise ConfigError("expected an input range of 0,255 without mean and std for a model that reads bytes")

    @property
    def _reads_bytes(self) -> bool:
        return self.element_type == TensorProto.UINT8

    def nodes(self, target: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Return nodes that compute `target`, the classifier's input, from `interval`, and their constants."""
        channels = self.image_shape[0]
        factor, offset = self.scale.affine(channels)
        constants = [
            numpy_helper.from_array(np.array([channels, channels], dtype=np.int64), _PREFIX + "sizes"),
            numpy_helper.from_array(factor[np.newaxis], _PREFIX + "factor"),
            numpy_helper.from_array(offset[np.newaxis], _PREFIX + "offset"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), _PREFIX + "channel_axis"),
        ]
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
        return nodes, constants[: 4 if self.rank == 3 else 3]

    def _steps(self) -> list[tuple[str, list[str], dict[str, Any]]]:
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("Mul", [_PREFIX + "factor"], {}),
            ("Add", [_PREFIX + "offset"], {}),
        ]
        if self.layout == Layout.NHWC and self.rank != 3:
            steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
        if self.rank == 2:
            steps.append(("Flatten", [], {"axis": 1}))
        if self.rank == 3:
            steps.append(("Squeeze", [_PREFIX + "channel_axis"], {}))
        if self._reads_bytes:
            steps.append(("Round", [], {}))
        if self.element_type != TensorProto.FLOAT:
            steps.append(("Cast", [], {"to": self.element_type}))
        return steps

    def apply(
        self, intervals: Float32[np.ndarray, "batch channels2 height width"]
    ) -> Float32[np.ndarray, "batch *feature"]:
        """Return what the classifier reads for interval images, before the cast to its element type."""
        factor, offset = self.scale.affine(self.image_shape[0])
        lower, upper = np.split(intervals, 2, axis=1)
        values: np.ndarray = (lower + upper) * factor + offset
        if self.layout == Layout.NHWC and self.rank != 3:
            values = values.transpose(0, 2, 3, 1)
        if self.rank == 2:
            values = values.reshape(len(values), -1)
        if self.rank == 3:
            values = values[:, 0]
        return np.ascontiguousarray(np.rint(values) if self._reads_bytes else values)


def fit_midpoint(
    port: Port, image_shape: tuple[int, int, int] | None, layout: Layout | None, scale: InputScale
) -> Midpoint:
    """Return the way from interval images to the classifier's input `port`.

    Args:
        port: the input.
        image_shape: (channels, height, width); read from the input's sizes where None.
        layout: order of the axes; where None, flat for an input of two axes, else channels first.
        scale: what the classifier reads for a pixel.

    Raises:
        ConfigError: if an option is missing, or does not fit the input.
        UnsupportedModelError: if the input cannot be a batch of images.
    """
    rank = len(port.shape) if port.shape is not None else 2 if layout == Layout.FLAT else 4
    if rank not in (2, 3, 4):
        raise UnsupportedModelError(f"expected an input of 2 to 4 axes, a batch of images, got {port}")
    if rank != 2 and layout == Layout.FLAT:
        raise ConfigError(f"expected the layout nchw or nhwc for the input {port}, got flat")
    if rank == 4 and layout is None and _looks_channels_last(port):
        raise ConfigError(f"the input {port} may have its channels last; say --layout nhwc, or nchw if it has not")
    layout = layout or (Layout.FLAT if rank == 2 else Layout.NCHW)
    shape = _image_shape(port, rank, layout, image_shape)
    return Midpoint(shape, layout, rank, port.element_type, scale)


def _looks_channels_last(port: Port) -> bool:
    sizes = port.shape or (None,) * 4
    return sizes[3] in (1, 3) and (sizes[1] is None or sizes[1] >= _NOT_CHANNELS)


def _image_shape(port: Port, rank: int, layout: Layout, given: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return the shape of an image, from what the input says and what was given."""
    if given is not None and min(given) < 1:
        raise ConfigError(f"expected an image shape channels,height,width of sizes from 1, got {_listed(given)}")
    stated = list(port.shape[1:]) if port.shape is not None else [None] * (rank - 1)
    if rank == 2:
        if given is None:
            raise ConfigError(f"the input {port} is flat; give its --image-shape channels,height,width")
        if stated[0] not in (None, math.prod(given)):
            raise ConfigError(
                f"expected an image shape of {stated[0]} values as the input {port} has, got {_listed(given)}"
            )
        return given
    axes = [1, *stated] if rank == 3 else [stated[2], *stated[:2]] if layout == Layout.NHWC else stated
    channels, height, width = given or (size or 0 for size in axes)
    if min(channels, height, width) < 1:
        raise ConfigError(f"the input {port} leaves sizes free; give its --image-shape channels,height,width")
    shape = (channels, height, width)
    if any(size not in (None, chosen) for size, chosen in zip(axes, shape, strict=True)):
        raise ConfigError(f"expected an image shape that fits the input {port} in {layout}, got {_listed(shape)}")
    return shape


def _listed(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))
