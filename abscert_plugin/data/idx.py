"""The data sets `mnist` and `fashion-mnist`: four idx files each, gzipped or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Int64, UInt8

from abscert_plugin.data.arrays import ArrayFile
from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.data.holdout import official_rows
from abscert_plugin.data.request import DataRequest, DataSetEntry, missing_files, searched_folders
from abscert_plugin.errors import DataError
from abscert_plugin.files import read_packed

_LEVELS: Final = 255
_UNSIGNED_BYTE: Final = 8  # the idx code of the element type
_LIMIT: Final = 2**30  # bytes of a file, unpacked: over twenty times MNIST's training images
_NAMES: Final = frozenset({"mnist", "fashion-mnist"})
_FILES: Final = tuple(
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


@final
@dataclass(frozen=True)
class IdxFormat:
    """A data set of four idx files.

    Args:
        name: what `--data` takes, and the name of its folder.
        classes: one name per class.
    """

    name: str
    classes: tuple[str, ...]

    def load(self, request: DataRequest) -> DataSet:
        """Return a split; only that split's two files are read.

        Raises:
            DataError: if a file is missing or corrupt; the message names it and says what to do.
        """
        images_path, labels_path = self._find(request)
        images = read_idx(images_path, dimensions=3)
        labels = self._read_labels(labels_path)
        if len(images) != len(labels):
            raise DataError(
                f"expected as many labels as images, got {len(labels)} labels in {labels_path} and {len(images)} "
                f"images in {images_path}; replace the pair"
            )
        file = ArrayFile(self.name, self.classes, _LEVELS, images[:, np.newaxis], labels)
        return file.part(request.split, official_rows(request.split, len(labels)))

    def _find(self, request: DataRequest) -> tuple[Path, Path]:
        """Return the split's images file and labels file, both of one folder."""
        part = "t10k" if request.split is Split.TEST else "train"
        wanted = [name for name in _FILES if name.startswith(part)]
        files = f"{', '.join(_FILES)} (each as it is or as .gz)"
        folders = self._own_folders(searched_folders(request, self.name, files))
        found: list[Path] = []
        for folder in folders:
            images, labels = (_existing(folder, name) for name in wanted)
            if images is not None and labels is not None:
                return images, labels
            found += [path for path in (images, labels) if path is not None]
        missing = " and ".join(f"{name} (or {name}.gz)" for name in wanted)
        raise missing_files(self.name, missing, folders, found, files)

    def _own_folders(self, folders: Sequence[Path]) -> list[Path]:
        """Return the folders that do not bear the name of another data set, which uses the same file names."""
        return [folder for folder in folders if folder.absolute().name not in _NAMES - {self.name}]

    def _read_labels(self, path: Path) -> Int64[np.ndarray, "n"]:
        labels = read_idx(path, dimensions=1)
        highest = len(self.classes) - 1
        if labels.size and labels.max() > highest:
            raise DataError(f"expected labels from 0 to {highest} in {path}, got {labels.max()}; replace the file")
        return labels.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Return the array of an idx file of bytes.

    Args:
        path: the file; packed by gzip or not, whatever its name.
        dimensions: how many dimensions the array must have.

    Raises:
        DataError: if the file cannot be read, is not such an idx file, is empty, is cut off, or unpacks to a gibibyte.

    Source: the file format section of http://yann.lecun.com/exdb/mnist.
    """
    raw = read_packed(path, _LIMIT, "download the file again", DataError)
    header_size = 4 + 4 * dimensions
    if len(raw) < header_size or raw[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        raise DataError(
            f"expected an idx file of bytes with {dimensions} dimensions (magic 0000080{dimensions}), got magic "
            f"{raw[:4].hex() or 'nothing'} in {path}; download the file again"
        )
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", dimensions, offset=4))
    if 0 in shape:
        raise DataError(f"expected at least one entry in {path}, got the shape {shape}; download the file again")
    if math.prod(shape) != len(raw) - header_size:
        raise DataError(
            f"expected {' x '.join(map(str, shape))} bytes after the header of {path}, got {len(raw) - header_size}; "
            "download the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=header_size).reshape(shape)


def _existing(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _entry(name: str, description: str, classes: tuple[str, ...]) -> DataSetEntry:
    expected_files = tuple(f"{name}/{file} (or .gz)" for file in _FILES)
    load = IdxFormat(name, classes).load
    return DataSetEntry(name, description, expected_files, load, (1, 28, 28), 55_000, 10_000, len(classes))


IDX_ENTRIES: Final = (
    _entry("mnist", "70,000 grey 28x28 handwritten digits", tuple(str(digit) for digit in range(10))),
    _entry(
        "fashion-mnist",
        "70,000 grey 28x28 pictures of clothes",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
)
