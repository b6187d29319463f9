"""Images and labels of a file of the user's own: which forms are understood, and what is refused."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np
from jaxtyping import Int64, UInt8

from abscert_plugin.errors import DataError

LEVELS: Final = 255
_CHANNELS: Final = (1, 3)
_SHAPES: Final = "[n, height, width], [n, height, width, channels] or [n, channels, height, width] of 1 or 3 channels"
_MOST_NAMES: Final = 100_000


@final
@dataclass(frozen=True)
class OwnPart:
    """One part of a file: its labels, and its images, which are read when they are asked for.

    Args:
        images: returns an array as the file has it.
        labels: an array as the file has it.
    """

    images: Callable[[], np.ndarray]
    labels: np.ndarray


@final
@dataclass(frozen=True)
class OwnFile:
    """What a file or folder of the user's own holds.

    Args:
        parts: by name: `train`, `test` and `validation` as far as there are, or `all` where the file has one part.
        classes: one name per class; None where labels themselves tell.
        levels: the stored value that stands for 1.0 on the pixel scale.
    """

    parts: Mapping[str, OwnPart]
    classes: tuple[str, ...] | None = None
    levels: int = LEVELS


Labels: TypeAlias = Mapping[str, Int64[np.ndarray, "_"]]


def class_labels(file: OwnFile, where: str) -> tuple[tuple[str, ...], Labels]:
    """Return the classes' names and each part's labels, from 0.

    Whole numbers have to be 0, 1, ... without a gap; words are classes in alphabetical order.

    Raises:
        DataError: if they are neither, or not one for each image.
    """
    found = {name: _flat(part.labels, f"the labels of {where} ({name})") for name, part in file.parts.items()}
    whole = np.concatenate(list(found.values()))
    if whole.dtype.kind in "US":
        words = np.unique(whole)
        if len(words) > _MOST_NAMES:
            raise DataError(f"expected classes as labels of {where}, got {len(words):,} different words")
        labels = {name: np.searchsorted(words, part).astype(np.int64) for name, part in found.items()}
        return tuple(map(str, words)), labels
    known = np.unique(whole)
    count = len(known) if file.classes is None else len(file.classes)
    if known[0] < 0 or known[-1] >= count:
        missing = next(number for number in range(count + 1) if number not in known)
        raise DataError(
            f"expected labels of {where} from 0 without a gap, got {known[0]} to {known[-1]} and no {missing}: number "
            "the classes 0, 1, ..., or write words"
        )
    names = file.classes or tuple(str(number) for number in range(count))
    return names, {name: part.astype(np.int64) for name, part in found.items()}


def _flat(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) == 0:
        raise DataError(f"expected {what} as one number or word for each image, got the shape {list(labels.shape)}")
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuUS":
        raise DataError(f"expected {what} as whole numbers or words, got {labels.dtype}")
    if labels.dtype.kind == "u" and labels.max() > np.iinfo(np.int64).max:
        raise DataError(f"expected {what} from 0 without a gap, got {labels.max()}")
    return labels


def stored_images(images: np.ndarray, levels: int, what: str) -> UInt8[np.ndarray, "n channels height width"]:
    """Return images as stored values, channels first.

    Args:
        images: [n, height, width], or with channels last or first; or [n, side * side] in rows. Whole numbers from 0
            to `levels`, or floats in [0, 1] that are whole numbers of 1 / levels, as float32 has them.
        levels: the stored value that stands for 1.0.
        what: the array in words, for messages.

    Raises:
        DataError: if they are not such images; nothing is rounded or clipped.
    """
    shaped = _channels_first(images, what)
    if shaped.dtype.kind in "iub":
        return _whole(shaped, levels, what)
    if shaped.dtype.kind != "f":
        raise DataError(f"expected {what} as numbers, got {shaped.dtype}")
    if not np.isfinite(shaped).all():
        raise DataError(f"expected {what} as numbers, got {_first(shaped, ~np.isfinite(shaped))}; replace it")
    if shaped.max() > 1 and (shaped == np.round(shaped)).all():
        return _whole(shaped, levels, what)
    if shaped.min() < 0 or shaped.max() > 1:
        raise DataError(
            f"expected {what} as floats in [0, 1] or whole numbers from 0 to {levels}, got {shaped.min():g} to "
            f"{shaped.max():g}; undo the scaling first"
        )
    values = np.round(shaped * levels).astype(np.uint8)
    odd = np.abs(values / levels - shaped) > 2.0**-22
    if odd.any():
        raise DataError(
            f"expected {what} as whole numbers of 1/{levels}, got {_first(shaped, odd)}: images are stored with "
            f"{levels + 1} values; round them, or write `levels` beside them"
        )
    return values


def _whole(images: np.ndarray, levels: int, what: str) -> UInt8[np.ndarray, "n channels height width"]:
    if images.min() < 0 or images.max() > levels:
        raise DataError(f"expected {what} from 0 to {levels}, got {images.min()} to {images.max()}")
    return np.ascontiguousarray(images.astype(np.uint8))


def _first(images: np.ndarray, odd: np.ndarray) -> str:
    place = np.unravel_index(int(np.argmax(odd)), odd.shape)
    return f"{images[place]:g} in image {place[0]}"


def _channels_first(images: np.ndarray, what: str) -> np.ndarray:
    shape = images.shape
    if 0 in shape or images.ndim < 2:
        raise DataError(f"expected {what} as {_SHAPES}, got {list(shape)}")
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 2:
        side = math.isqrt(shape[1])
        if side * side == shape[1]:
            return images.reshape(-1, 1, side, side)
    if images.ndim == 4:
        first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
        if first and last and shape[1] != shape[3]:
            raise DataError(f"expected {what} with channels first or last, got {list(shape)}, which may be either")
        if last and not first:
            return images.transpose(0, 3, 1, 2)
        if first:
            return images
    raise DataError(f"expected {what} as {_SHAPES}, or [n, side * side], got {list(shape)}")


def check_levels(value: Any, where: str) -> int:
    """Return the number of levels that a file gives.

    Raises:
        DataError: if it is not a whole number from 1 to 255.
    """
    levels = np.asarray(value)
    if levels.size != 1 or levels.dtype.kind not in "iu" or not 1 <= levels.item() <= LEVELS:
        raise DataError(f"expected levels in {where} as a whole number from 1 to {LEVELS}, got {value!r:.100}")
    return int(levels.item())
