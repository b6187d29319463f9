"""From an image on the pixel scale to what a file that this project did not make reads: scale, order, shape, type."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32, Float64

from abscert_plugin.errors import ConfigError

_ROUNDINGS: Final = 10 * 2.0**-24
"""Of a pixel that someone scales in float32: three constants, four operations, in whatever order, and to spare."""

_TINY: Final = 2.0**-120  # what underflow adds to that
_LARGEST: Final = 2.0**126  # of a term of that formula, so that no order of its operations overflows


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
        ConfigError: if a value is not finite, low >= high, a std is not positive, or float32 may overflow.
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        low, high = self.input_range
        if not all(math.isfinite(value) for value in (low, high, *self.mean, *self.std)):
            raise ConfigError(f"expected an input range, mean and std of finite numbers, got {self._told}")
        if not low < high:
            raise ConfigError(f"expected an input range low,high with low < high, got {low:g},{high:g}")
        if min(self.std, default=0) <= 0:
            raise ConfigError(f"expected every std above 0, got {self.std}; leave it out to divide by nothing")
        terms = (1.0, low, high, *self.mean)
        if not all(abs(value) <= _LARGEST for value in (*terms, *self.std, *(a / b for a in terms for b in self.std))):
            raise ConfigError(
                f"expected an input range, mean and std whose terms are at most {_LARGEST:.2g}, got {self._told}"
            )

    @property
    def _told(self) -> str:
        return f"{self.input_range}, {self.mean} and {self.std}"

    def per_channel(self, channels: int) -> tuple[Float64[np.ndarray, "channels"], Float64[np.ndarray, "channels"]]:
        """Return mean and std of each channel.

        Raises:
            ConfigError: if there is neither one mean and std nor one for each channel.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ConfigError(f"expected one {name} or {channels}, one for each channel, got {len(values)}")
        mean = np.broadcast_to(np.array(self.mean, dtype=np.float64), channels)
        return mean, np.broadcast_to(np.array(self.std, dtype=np.float64), channels)


@final
@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The way from images to a classifier's input.

    A runtime is fed the value of the scale at each pixel, correctly rounded (`apply`). `ends` hold more: whatever a
    deployed pipeline makes of that formula in float32.

    Args:
        image_shape: (channels, height, width) of an image.
        is_channels_last: whether the classifier reads the channels of a pixel one after another.
        input_shape: of its input, without the batch; as many entries as an image has, in the order of the layout.
        element: what it reads, numpy's name of the type, such as `float32` or `uint8`; or `bfloat16`.
        scale: what it reads for a pixel.

    Raises:
        ConfigError: if the scale does not fit the channels.
    """

    image_shape: tuple[int, int, int]
    is_channels_last: bool
    input_shape: tuple[int, ...]
    element: str
    scale: InputScale

    def __post_init__(self) -> None:
        self.scale.per_channel(self.image_shape[0])

    def apply(self, images: Float32[np.ndarray, "batch channels height width"]) -> Float32[np.ndarray, "batch *input"]:
        """Return what the classifier reads for images, as float32, which holds all its values but those of float64."""
        values = self._scaled(images)
        if self.element == "float16":
            values = values.astype(np.float16)
        return self._arranged(self._whole(values).astype(np.float32))

    def ends(
        self,
        lowest: Float32[np.ndarray, "batch channels height width"],
        highest: Float32[np.ndarray, "batch channels height width"],
    ) -> tuple[Float32[np.ndarray, "batch *input"], Float32[np.ndarray, "batch *input"]]:
        """Return ends between which lies what the classifier reads for every image between two.

        Soundness: the formula of the scale as real numbers, its value rounded correctly to float32, and what any
        evaluation of it in float32 gives (constants rounded, in any order, with a reciprocal or not) lie between them;
        of integers the nearest ones to these.
        """
        least = self._whole(self._scaled(lowest) - self._slack(lowest))
        most = self._whole(self._scaled(highest) + self._slack(highest))
        down, up = least.astype(np.float32), most.astype(np.float32)
        down = np.where(down > least, np.nextafter(down, np.float32(-np.inf)), down)
        up = np.where(up < most, np.nextafter(up, np.float32(np.inf)), up)
        return self._arranged(down), self._arranged(up)

    def pulled_back(
        self, slopes: Float32[np.ndarray, "batch *input"]
    ) -> Float32[np.ndarray, "batch channels height width"]:
        """Return the slopes by pixels of a function with these slopes by what the classifier reads."""
        low, high = self.scale.input_range
        _, std = self._per_pixel()
        return (self._as_images(slopes) * ((high - low) / std)).astype(np.float32)

    def images(self, values: Float64[np.ndarray, "batch *input"]) -> Float32[np.ndarray, "batch channels height width"]:
        """Return the images in [0, 1] of which the classifier reads these values, or values near them."""
        low, high = self.scale.input_range
        mean, std = self._per_pixel()
        pixels = (self._as_images(values) * std + mean - low) / (high - low)
        return pixels.clip(0, 1).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "image_shape": list(self.image_shape),
            "layout": str(Layout.NHWC if self.is_channels_last else Layout.NCHW),
            "input_range": list(self.scale.input_range),
            "mean": list(self.scale.mean),
            "std": list(self.scale.std),
        }

    def _scaled(self, images: np.ndarray) -> np.ndarray:
        """Return the scale's values in float64; those of the default scale are exact."""
        low, high = self.scale.input_range
        mean, std = self._per_pixel()
        values: np.ndarray = (low + images.astype(np.float64) * (high - low) - mean) / std
        return values

    def _slack(self, images: np.ndarray) -> np.ndarray | float:
        """Return by how much other evaluations of the scale may differ from `_scaled`."""
        if self.scale == InputScale():  # exact
            return 0.0
        low, high = self.scale.input_range
        mean, std = self._per_pixel()
        size: np.ndarray = (np.abs(images.astype(np.float64) * (high - low)) + abs(low) + np.abs(mean)) / std
        return _ROUNDINGS * size + _TINY

    def _per_pixel(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and std, [channels, 1, 1]."""
        mean, std = self.scale.per_channel(self.image_shape[0])
        return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)

    def _whole(self, values: np.ndarray) -> np.ndarray:
        """Return the nearest values of the classifier's type, where that is one of integers."""
        if not self.is_whole:
            return values
        info = np.iinfo(self.element)
        return np.clip(np.rint(values), info.min, info.max)

    @property
    def is_whole(self) -> bool:
        """Whether the classifier reads integers."""
        return self.element.startswith(("int", "uint"))

    def _as_images(self, values: np.ndarray) -> np.ndarray:
        """Undo `_arranged`."""
        channels, height, width = self.image_shape
        if self.is_channels_last:
            return values.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        return values.reshape(-1, channels, height, width)

    def _arranged(self, values: np.ndarray) -> np.ndarray:
        if self.is_channels_last:
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values.reshape(len(values), *self.input_shape))


@final
@dataclass(frozen=True, slots=True)
class Opening:
    """How a file that this project did not make is to be read.

    Args:
        image_shape: (channels, height, width) of an image; that of the data, or what the input tells, where None.
        layout: order of the axes that the classifier reads; what its sizes tell where None.
        scale: what it reads for a pixel.
        output: the output that holds the logits; found by its type and shape where None.
        constants: values of its other inputs, by their names.
    """

    image_shape: tuple[int, int, int] | None = None
    layout: Layout | None = None
    scale: InputScale = field(default_factory=InputScale)
    output: str | None = None
    constants: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def told(cls, facts: Mapping[str, Any]) -> "Opening":
        """Return what a record tells of it: see `Artifact.opening`.

        Raises:
            ConfigError: if that has no meaning.
        """
        try:
            channels, height, width = (int(size) for size in facts["image_shape"])
            constants = {str(name): float(value) for name, value in facts["constants"].items()}
            output, layout = facts["output"], Layout(facts["layout"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ConfigError(
                f"expected how a file was read (image_shape, layout, output, ...), got {dict(facts)!s:.500}"
            ) from error
        return cls(
            (channels, height, width), layout, _scale_of(facts), None if output is None else str(output), constants
        )


def _scale_of(facts: Mapping[str, Any]) -> InputScale:
    """Return the scale that a record tells of.

    Raises:
        ConfigError: if it tells of none.
    """
    try:
        low, high = (float(value) for value in facts["input_range"])
        mean, std = (tuple(float(value) for value in facts[name]) for name in ("mean", "std"))
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(
            f"expected an input range, mean and std of numbers that float64 holds, got {dict(facts)!s:.500}"
        ) from error
    return InputScale((low, high), mean, std)
