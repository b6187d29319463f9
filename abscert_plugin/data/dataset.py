"""What a data set is: stored images, labels, and where each image came from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeAlias, final, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from abscert_plugin.errors import DataError

Stored: TypeAlias = UInt8[np.ndarray, "n channels height width"] | Float32[np.ndarray, "n channels height width"]
"""Stored pixel values: whole numbers, or floats of the pixel scale itself, which are verified and not trained on."""


class Split(StrEnum):
    """The parts of a data set. `VALIDATION` is held out of the training file; nothing is chosen on `TEST`."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@runtime_checkable
class ImageSource(Protocol):
    """Where stored images come from: memory, or files that are read when asked for."""

    def read(self, positions: Int64[np.ndarray, "n"]) -> Stored:
        """Return the images at these places of the source's own file."""
        ...

    @property
    def is_resident(self) -> bool:
        """Whether all images are in memory."""
        ...


@final
@dataclass(frozen=True)
class ArraySource:
    """Images in memory."""

    images: Stored

    def read(self, positions: Int64[np.ndarray, "n"]) -> Stored:
        """Return the images at these places."""
        return self.images[positions]

    @property
    def is_resident(self) -> bool:
        """All images are in memory."""
        return True


@final
@dataclass(frozen=True)
class Batch:
    """Some images of a data set, in order.

    Args:
        index: each image's place in the data set's own file.
        images: stored pixel values; value v stands for v / levels on the pixel scale.
        labels: each image's class, from 0.
    """

    index: Int64[np.ndarray, "n"]
    images: Stored
    labels: Int64[np.ndarray, "n"]


@final
@dataclass(frozen=True)
class DataSet:
    """One split of a data set.

    Args:
        name: the name that `--data` takes.
        split: which part this is.
        classes: one name per class.
        shape: (channels, height, width) of every image.
        levels: the stored value that stands for 1.0 on the pixel scale (255 for 8-bit images, 16 for `digits`; 1 where
            floats are stored).
        source: where the images come from.
        labels: the class of every image of this split.
        index: the place of every image of this split in the data set's own file (`ImageSource.read` takes these).
        sha256: checksum of the split's stored images and labels (of the file list, for a folder).

    Raises:
        DataError: if a label lies outside the classes or the sizes disagree.
    """

    name: str
    split: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    levels: int
    source: ImageSource
    labels: Int64[np.ndarray, "n"]
    index: Int64[np.ndarray, "n"]
    sha256: str

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.index):
            counts = f"{len(self.labels)} labels and {len(self.index)} images"
            raise DataError(f"expected one label per image of {self.name}, got {counts}")
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if outside.any():
            row = int(np.argmax(outside))
            found = f"{self.labels[row]} at index {self.index[row]}"
            raise DataError(f"expected labels of {self.name} from 0 to {len(self.classes) - 1}, got {found}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_resident(self) -> bool:
        """Whether all images are in memory."""
        return self.source.is_resident

    @property
    def places(self) -> dict[int, int]:
        """The position in the split of each image, by its place in the data set's own file."""
        return {index: position for position, index in enumerate(self.index.tolist())}

    def take(self, positions: Int64[np.ndarray, "m"]) -> Batch:
        """Return the images at these positions of the split (0 to len - 1)."""
        index = self.index[positions]
        return Batch(index, self.source.read(index), self.labels[positions])

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the whole split in order, `size` images at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def first(self, limit: int | None) -> "DataSet":
        """Return the split's first `limit` images (all of them where `limit` is None).

        Raises:
            DataError: if `limit` is less than 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise DataError(f"expected a limit of at least 1 image, got {limit}")
        return replace(self, labels=self.labels[:limit], index=self.index[:limit])

    def joined(self, other: "DataSet") -> "DataSet":
        """Return the images of two splits of one file, in the order of the file; it is called as this split is.

        Raises:
            DataError: if the other one is of another file, or they share an image.
        """
        if (self.name, self.classes, self.shape, self.levels) != (other.name, other.classes, other.shape, other.levels):
            raise DataError(f"expected two splits of {self.name}, got one of {other.name}")
        index = np.concatenate([self.index, other.index])
        order = np.argsort(index, kind="stable")
        if len(np.unique(index)) != len(index):
            raise DataError(f"expected two splits of {self.name} that share no image")
        checksum = hashlib.sha256(f"{self.sha256} {other.sha256}".encode()).hexdigest()
        labels = np.concatenate([self.labels, other.labels])
        return replace(self, labels=labels[order], index=index[order], sha256=checksum)

    def pixels(self, images: Stored) -> Float32[np.ndarray, "n channels height width"]:
        """Return stored images on the pixel scale [0, 1]."""
        return images / np.float32(self.levels)

    def all_pixels(self) -> Float32[np.ndarray, "n channels height width"]:
        """Return all images of the split, in order, on the pixel scale."""
        return self.pixels(self.source.read(self.index))
