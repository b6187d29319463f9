"""Which preprocessing fits the input of a classifier that this project did not make."""

import math
from typing import Final

import numpy as np
from onnx import TensorProto, helper

from abscert_plugin.artifact.third_party import Port
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.preprocessing import InputScale, Layout, Preprocessing

_NOT_CHANNELS: Final = 5  # more channels than any image has: the axis is a height
_STEPS: Final = 255  # of the scale of a model that reads integers


def fit_preprocessing(
    port: Port, image_shape: tuple[int, int, int] | None, layout: Layout | None, scale: InputScale
) -> Preprocessing:
    """Return the way from images to the classifier's input `port`.

    The first axis of the input is that of the batch, unless it is one of a single image's (`has_batch`).

    Args:
        port: the input.
        image_shape: (channels, height, width); read from the input's sizes where None.
        layout: order of the axes; where None, flat for an input of two axes, else the one that its sizes tell, or
            channels first.
        scale: what the classifier reads for a pixel.

    Raises:
        ConfigError: if an option is missing, or does not fit the input.
        UnsupportedModelError: if the input cannot be a batch of images.
    """
    if image_shape is not None and min(image_shape) < 1:
        raise ConfigError(f"expected an image shape channels,height,width of sizes from 1, got {listed(image_shape)}")
    sizes = None if port.shape is None else port.shape[1:] if has_batch(port, image_shape) else port.shape
    if sizes is not None and not 1 <= len(sizes) <= 5:
        raise UnsupportedModelError(f"expected an input of 2 to 6 axes, a batch of images, got {port}")
    if sizes is not None and len(sizes) > 2 and layout is Layout.FLAT:
        raise ConfigError(f"expected the layout nchw or nhwc for the input {port}, got flat")
    is_last = layout is Layout.NHWC
    if layout is None and sizes is not None and len(sizes) != 1:
        is_last = _is_channels_last(port, sizes, image_shape)
    shape = image_shape or _told(port, sizes, is_last)
    input_shape = _filled(port, sizes, shape, is_last, layout)
    element = element_name(port.element_type)
    made = Preprocessing(shape, is_last, input_shape, element, scale)
    low, high = scale.input_range
    if made.is_whole:
        kept = np.iinfo(element)
        is_step = high - low == _STEPS and low.is_integer() and (scale.mean, scale.std) == ((0,), (1,))
        if not (is_step and kept.min <= low and high <= kept.max):
            wanted = "-128,127" if element == "int8" else "0,255"
            raise ConfigError(
                f"expected an input range of {wanted} without mean and std for a model that reads bytes or other "
                f"integers ({element}), got {low:g},{high:g}"
            )
    return made


def has_batch(port: Port, image_shape: tuple[int, int, int] | None) -> bool:
    """Return whether the first axis of an input is that of a batch, and not one of a single image's."""
    if port.shape is None:
        return True
    if len(port.shape) < 2 or None in port.shape[:1]:
        return len(port.shape) > 1
    if image_shape is None or None in port.shape:
        return True
    count, known = math.prod(image_shape), [size for size in port.shape if size is not None]
    return math.prod(known[1:]) == count or math.prod(known) != count


def element_name(kind: int) -> str:
    """Return the name of a tensor's type, such as `float32`."""
    if kind in (TensorProto.BFLOAT16, TensorProto.UNDEFINED):
        return "bfloat16" if kind else "no tensor"
    return str(helper.tensor_dtype_to_np_dtype(kind))


def listed(shape: tuple[int, ...]) -> str:
    """Return sizes as `--image-shape` takes them."""
    return ",".join(map(str, shape))


def _is_channels_last(port: Port, sizes: tuple[int | None, ...], image_shape: tuple[int, int, int] | None) -> bool:
    """Return whether an input of several axes has its channels last."""
    looks_so = sizes[-1] in (1, 3) and (sizes[0] is None or sizes[0] >= _NOT_CHANNELS)
    if len(sizes) != 3:  # its pixels are one axis, or there are axes of one entry besides
        channels = 1 if image_shape is None else image_shape[0]
        looks_so = channels > 1 and sizes[-1] == channels != sizes[0]
    elif image_shape is not None:
        channels, height, width = image_shape
        is_first, is_last = goes_with(sizes, image_shape), goes_with(sizes, (height, width, channels))
        if channels == 1 or is_first != is_last:
            return is_last and not is_first
    if looks_so:
        raise ConfigError(f"the input {port} may have its channels last; say --layout nhwc, or nchw if it has not")
    return False


def goes_with(sizes: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    """Return whether a tensor may have a shape, by its sizes, None for each that is free."""
    return len(sizes) == len(shape) and all(size in (None, chosen) for size, chosen in zip(sizes, shape, strict=True))


def _told(port: Port, sizes: tuple[int | None, ...] | None, is_last: bool) -> tuple[int, int, int]:
    """Return the shape of an image that the input's sizes tell."""
    if sizes is not None and len(sizes) == 1:
        raise ConfigError(f"the input {port} is flat; give its --image-shape channels,height,width")
    told = list(sizes or (None,) * 3)
    if len(told) == 2:
        told = [1, *told]
    elif len(told) > 3:
        raise ConfigError(f"the input {port} has more axes than an image; give its --image-shape channels,height,width")
    channels, height, width = (size or 0 for size in ([told[2], *told[:2]] if is_last else told))
    if min(channels, height, width) < 1:
        raise ConfigError(f"the input {port} leaves sizes free; give its --image-shape channels,height,width")
    return channels, height, width


def _filled(
    port: Port, sizes: tuple[int | None, ...] | None, shape: tuple[int, int, int], is_last: bool, layout: Layout | None
) -> tuple[int, ...]:
    """Return the sizes of the input, those that it leaves free told by the image's shape."""
    channels, height, width = shape
    count = math.prod(shape)
    whole: tuple[int, ...] = (height, width, channels) if is_last else shape
    if sizes is None:
        return (count,) if layout is Layout.FLAT else whole
    filled: tuple[int, ...]
    if len(sizes) == 1:
        filled = (count,) if sizes[0] is None else (sizes[0],)
    elif len(sizes) == 3 and goes_with(sizes, whole):
        filled = whole
    elif len(sizes) == 2 and channels == 1 and goes_with(sizes, (height, width)):
        filled = (height, width)
    elif sizes.count(None) <= 1:
        known = math.prod(size for size in sizes if size is not None)
        filled = tuple(count // known if size is None else size for size in sizes)
    else:
        raise ConfigError(f"expected an image shape that fits the input {port}, got {listed(shape)}")
    if len(sizes) == 3 and filled != whole and (1 not in filled or math.prod(filled) != count):
        order = "nhwc" if is_last else "nchw"
        raise ConfigError(f"expected an image shape that fits the input {port} in {order}, got {listed(shape)}")
    if math.prod(filled) != count:
        wanted = math.prod(filled)
        raise ConfigError(f"expected an image shape of {wanted} values as the input {port} has, got {listed(shape)}")
    return filled
