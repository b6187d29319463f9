"""How a model that this project did not make reads pixels, as keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

from abscert_plugin.choices import did_you_mean, member
from abscert_plugin.errors import ConfigError
from abscert_plugin.preprocessing import InputScale, Layout, Opening

Values: TypeAlias = int | float | Sequence[int | float]


class Reading(TypedDict, total=False):
    """How a model that this project did not make reads an image; it gets (low + pixel * (high - low) - mean) / std.

    Every radius stays one of pixels in [0, 1].
    """

    mean: Values
    """Subtracted, one value or one for each channel, on the scale of `input_range`; 0 where left out."""
    std: Values
    """Divided by, likewise; 1 where left out."""
    input_range: tuple[float, float]
    """(low, high): what pixel 0 and pixel 1 are to the model before that, such as (0, 255); (0, 1) where left out."""
    layout: str
    """`nchw`, `nhwc` or `flat`; by the model's input where left out, `nchw` of a torch module."""
    output: str
    """Name of the output that holds the logits, of an ONNX model with several."""
    constants: Mapping[str, float]
    """Values of inputs that are no image, by name, of an ONNX model."""
    image_shape: tuple[int, int, int]
    """(channels, height, width), where neither images nor the model's input tell."""


def opening_of(reading: Reading) -> Opening | None:
    """Return how a model is to be read; None where nothing is said.

    Raises:
        ConfigError: if a name is unknown or a value has no meaning.
    """
    unknown = [name for name in reading if name not in Reading.__annotations__]
    if unknown:
        hint = did_you_mean(unknown[0], Reading.__annotations__)
        raise ConfigError(f"there is no argument {unknown[0]!r}{hint}")
    if not reading:
        return None
    constants, layout = reading.get("constants", {}), reading.get("layout")
    if not isinstance(constants, Mapping):
        raise ConfigError(f"expected constants as a number for each name, got {constants!r}")
    shape = reading.get("image_shape")
    try:
        scale = InputScale(
            _pair(reading.get("input_range", (0.0, 1.0))),
            _values(reading.get("mean", 0.0)),
            _values(reading.get("std", 1.0)),
        )
        image_shape = None if shape is None else _shape(shape)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected mean, std, input_range and image_shape as numbers, got {dict(reading)}") from error
    return Opening(
        image_shape,
        None if layout is None else member(Layout, "layout", layout),
        scale,
        reading.get("output"),
        dict(constants),
    )


def _values(given: Values) -> tuple[float, ...]:
    return tuple(float(value) for value in given) if isinstance(given, Sequence) else (float(given),)


def _pair(given: Sequence[int | float]) -> tuple[float, float]:
    low, high = given
    return float(low), float(high)


def _shape(given: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = given
    return int(channels), int(height), int(width)
