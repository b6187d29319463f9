"""Data sets that lie in memory: one file's images and labels, and the splits of it."""

import hashlib
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from abscert_plugin.data.dataset import ArraySource, DataSet, Split, Stored
from abscert_plugin.data.own_part import LEVELS

ARRAYS: Final = "arrays"
"""What records call images that a caller of Python passed: no data set has this name, their checksum tells them."""

_HASHED_AT_ONCE: Final = 4096


@final
@dataclass(frozen=True)
class ArrayFile:
    """All images of one file of a data set.

    Args:
        name: the name that `--data` takes.
        classes: one name per class.
        levels: the stored value that stands for 1.0 on the pixel scale.
        images: every image of the file.
        labels: every image's class.
        is_of_user: whether its name tells neither levels nor classes, as that of a file of the user's own.
    """

    name: str
    classes: tuple[str, ...]
    levels: int
    images: Stored
    labels: Int64[np.ndarray, "all"]
    is_of_user: bool = False

    def part(self, split: Split, index: Int64[np.ndarray, "n"]) -> DataSet:
        """Return the images at `index` as a data set.

        Raises:
            DataError: if a label lies outside the classes.
        """
        _, channels, height, width = self.images.shape
        return DataSet(
            name=self.name,
            split=split,
            classes=self.classes,
            shape=(channels, height, width),
            levels=self.levels,
            source=ArraySource(self.images),
            labels=self.labels[index],
            index=index,
            sha256=self.checksum(index),
        )

    def checksum(self, index: Int64[np.ndarray, "n"]) -> str:
        """Return the SHA-256 over the shape, the stored images and the labels of these rows, as hexadecimal digits.

        Levels and classes of the user's own are part of it where they are not those that are taken where none are
        told: checksums of before, which never had them, stay valid there, and those of data sets by name.
        """
        digest = hashlib.sha256(repr((len(index), *self.images.shape[1:])).encode())
        for start in range(0, len(index), _HASHED_AT_ONCE):
            digest.update(self.images[index[start : start + _HASHED_AT_ONCE]].tobytes())
        digest.update(self.labels[index].astype("<i8").tobytes())
        usual = 1 if self.images.dtype.kind == "f" else LEVELS, tuple(map(str, range(len(self.classes))))
        if self.is_of_user and (self.levels, self.classes) != usual:
            digest.update(repr((self.levels, self.classes)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
