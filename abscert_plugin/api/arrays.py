"""Arrays of the caller as a data set: images [count, channels, height, width] and a label each, checked once."""

import sys
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike

from abscert_plugin.ball import LEVELS
from abscert_plugin.data.arrays import ARRAYS, ArrayFile
from abscert_plugin.data.dataset import DataSet, Split, Stored
from abscert_plugin.errors import DataError

Images: TypeAlias = ArrayLike | DataSet
"""Images on the pixel scale: an array or tensor [count, channels, height, width] of floats in [0, 1] or of uint8, which
stand for value / 255; or a `DataSet` of `load_data`, which brings its labels."""

_SEEN: Final = 4096  # pixels that are looked at before all are


def as_data_set(
    images: Images,
    labels: ArrayLike | None,
    classes: int | Sequence[str] | None = None,
    split: Split = Split.TEST,
    is_trained_on: bool = False,
) -> DataSet:
    """Return images and labels as a data set.

    Floats that are k / levels for whole numbers k are stored as these; others stay float32 values, to the bit, or are
    rounded to 8 bits where they are trained on. Float64 is rounded to float32 first: that image is what is meant.

    Args:
        images: see `Images`; a tensor may lie on any device.
        labels: a class from 0 for each; None with a `DataSet` alone.
        classes: their names, or how many there are; up to the largest label where None.
        split: which part of the data set this is.
        is_trained_on: whether images have to have levels.

    Raises:
        DataError: if a shape, type, pixel or label has no meaning, or they do not fit each other.
    """
    if isinstance(images, DataSet):
        if labels is not None:
            raise DataError(f"expected no labels beside the data set {images.name}, which has its own")
        return images
    if labels is None:
        raise DataError("expected labels, one for each image, got none")
    stored, levels = _stored(as_image_array(images), is_trained_on)
    whole = label_array(labels, len(stored))
    names = class_names(classes, int(whole.max()) + 1)
    file = ArrayFile(ARRAYS, names, levels, stored, whole, is_of_user=True)
    return file.part(split, np.arange(len(stored), dtype=np.int64))


def class_names(classes: int | Sequence[str] | None, least: int) -> tuple[str, ...]:
    """Return a name for each class.

    Raises:
        DataError: if there are too few.
    """
    if isinstance(classes, str):
        raise DataError(f"expected classes as a list of names or their number, got {classes!r}")
    names = tuple(
        map(str, range(least if classes is None else classes) if not isinstance(classes, Sequence) else classes)
    )
    if len(names) < least:
        raise DataError(f"expected labels from 0 to {len(names) - 1}, got {least - 1}: there are {len(names)} classes")
    return names


def label_array(labels: ArrayLike, count: int) -> np.ndarray:
    """Return labels as int64, one for each image.

    Raises:
        DataError: if they are no whole numbers from 0, or not so many.
    """
    found = as_array(labels)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(
            f"expected labels as whole numbers from 0, one for each image, got {found.dtype} of shape {found.shape}"
        )
    if len(found) != count:
        raise DataError(f"expected one label for each image, got {len(found)} labels and {count} images")
    if found.min() < 0:
        raise DataError(f"expected labels from 0 on, got {found.min()}")
    return found.astype(np.int64)


def as_array(value: Any) -> np.ndarray:
    """Return an array or a tensor of torch, on any device, as an array of numpy.

    Raises:
        DataError: if it is neither, nor a list of numbers.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        whole = value.detach().cpu()
        value = (whole.float() if whole.dtype is torch.bfloat16 else whole).numpy()
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of different lengths, an object that is no array
        raise DataError(f"expected an array or a tensor, got {type(value).__name__}: {error}") from error


def as_image_array(images: Any) -> np.ndarray:
    """Return images as uint8, or as float32 in [0, 1].

    Raises:
        DataError: if they are neither, or have another number of axes.
    """
    found = as_array(images)
    if found.ndim != 4 or 0 in found.shape:
        hint = ""
        if found.ndim == 3:
            is_one = found.shape[0] in (1, 3)
            hint = "; of a single image: image[None]" if is_one else "; grey images need channels: images[:, None]"
        raise DataError(f"expected images [count, channels, height, width], got shape {found.shape}{hint}")
    if found.shape[-1] in (1, 3) and found.shape[1] not in (1, 3):
        raise DataError(
            f"expected images [count, channels, height, width], got shape {found.shape}, whose channels seem to be "
            "last: images.transpose(0, 3, 1, 2)"
        )
    if found.dtype == np.uint8:
        return found
    if found.dtype.kind != "f":
        raise DataError(f"expected images of floats in [0, 1] or of uint8, got {found.dtype}")
    least, most = float(found.min()), float(found.max())  # NaN where one is
    if not (least >= 0 and most <= 1):
        if np.isnan(least):
            raise DataError("expected pixels in [0, 1], got NaN")
        raise DataError(
            f"expected pixels in [0, 1], got {least:g} to {most:g}; of 0 to 255, pass uint8 or divide by 255"
        )
    return found.astype(np.float32)


def as_pixels(images: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "images channels height width"]:
    """Return images of a classifier's shape as float32 in [0, 1].

    Raises:
        DataError: as `as_image_array`, or if they have another shape.
    """
    found = as_image_array(images)
    if found.shape[1:] != shape:
        raise DataError(f"expected images of shape {shape}, got {found.shape[1:]}")
    return found / np.float32(LEVELS) if found.dtype == np.uint8 else found


def _stored(images: np.ndarray, is_trained_on: bool) -> tuple[Stored, int]:
    """Return images as they are stored, and the value that stands for a pixel of 1."""
    if images.dtype == np.uint8:
        return images, LEVELS
    few = images.reshape(-1)[:: max(1, images.size // _SEEN)]
    for levels in (LEVELS, *range(1, LEVELS)):
        if _of_levels(few, levels) is not None and (whole := _of_levels(images, levels)) is not None:
            return whole, levels
    if is_trained_on:
        return np.rint(images * np.float32(LEVELS)).astype(np.uint8), LEVELS
    return images, 1


def _of_levels(images: np.ndarray, levels: int) -> np.ndarray | None:
    """Return images as whole numbers of levels; None where that is not the same to the bit."""
    whole = np.rint(images * np.float32(levels)).astype(np.uint8)
    return whole if np.array_equal(whole / np.float32(levels), images) else None
