"""The data set `cifar10`: the original folder of pickled batches, or one file cifar10.npz."""

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int64, UInt8

from abscert_plugin.data.archive import read_archive
from abscert_plugin.data.arrays import ArrayFile
from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.data.holdout import official_rows
from abscert_plugin.data.inert_pickle import InertArray, read_inert_pickle
from abscert_plugin.data.request import DataRequest, DataSetEntry, missing_files, searched_folders
from abscert_plugin.errors import DataError

CIFAR10_CLASSES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_NAME: Final = "cifar10"
_LEVELS: Final = 255
_PIXELS: Final = 3 * 32 * 32
_ARCHIVE: Final = "cifar10.npz"
_FOLDER: Final = "cifar-10-batches-py"
_TRAIN_BATCHES: Final = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST_BATCHES: Final = ("test_batch",)
_FORMS: Final = (
    f"{_ARCHIVE} (x_train, x_test: uint8 [n, 32, 32, 3]; y_train, y_test)",
    f"{_FOLDER}/ (data_batch_1 to data_batch_5 and test_batch, the unpacked cifar-10-python.tar.gz)",
)


def load_cifar10(request: DataRequest) -> DataSet:
    """Return a split; only that split's arrays or batches are read. Both forms give the same data set and checksum.

    Raises:
        DataError: if neither form is found, or the one found is corrupt; the message names the file.
    """
    forms = " or ".join(_FORMS)
    folders = searched_folders(request, _NAME, forms)
    candidates = (folder / form for folder in folders for form in (_ARCHIVE, _FOLDER))
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        raise missing_files(_NAME, f"{_ARCHIVE} or {_FOLDER}", folders, (), forms)
    file = (_read_batches if path.is_dir() else _read_archive)(path, request.split)
    return file.part(request.split, official_rows(request.split, len(file.labels)))


def _read_archive(path: Path, split: Split) -> ArrayFile:
    part = "test" if split is Split.TEST else "train"
    names = (f"x_{part}", f"y_{part}")
    wanted = f"the arrays {' and '.join(names)}"
    images, labels = read_archive(path, wanted, lambda archive: tuple(archive[name] for name in names))
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or len(images) == 0:
        raise DataError(
            f"expected x_{part} of uint8 [n, 32, 32, 3] in {path}, got {images.dtype} {list(images.shape)}; "
            "write the file again"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(
            f"expected y_{part} of whole numbers [{len(images)}] in {path}, got {labels.dtype} "
            f"{list(labels.shape)}; write the file again"
        )
    return _file(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64), path)


def _read_batches(folder: Path, split: Split) -> ArrayFile:
    names = _TEST_BATCHES if split is Split.TEST else _TRAIN_BATCHES
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise DataError(
            f"expected {', '.join(names)} in {folder}, got no {', '.join(absent)}: unpack cifar-10-python.tar.gz again"
        )
    batches = [_read_batch(folder / name) for name in names]
    images = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    return _file(images, np.concatenate([labels for _, labels in batches]), folder)


def _read_batch(path: Path) -> tuple[UInt8[np.ndarray, "n pixels"], Int64[np.ndarray, "n"]]:
    content = read_inert_pickle(path)
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, InertArray) or not isinstance(labels, list):
        raise DataError(
            f"expected an array 'data' and a list 'labels' in {path}, got the keys {sorted(content)}; unpack "
            "cifar-10-python.tar.gz again"
        )
    images = data.rows(_PIXELS, path)
    if len(labels) != len(images) or not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise DataError(
            f"expected {len(images)} labels from 0 to 9 in {path}, got {len(labels)} labels, or others; unpack "
            "cifar-10-python.tar.gz again"
        )
    return images, np.array(labels, dtype=np.int64)


def _file(images: UInt8[np.ndarray, "n 3 32 32"], labels: Int64[np.ndarray, "n"], path: Path) -> ArrayFile:
    if labels.min() < 0 or labels.max() >= len(CIFAR10_CLASSES):
        raise DataError(
            f"expected labels from 0 to 9 in {path}, got {labels.min()} to {labels.max()}; write the file again"
        )
    return ArrayFile(_NAME, CIFAR10_CLASSES, _LEVELS, images, labels)


CIFAR10: Final = DataSetEntry(
    name=_NAME,
    description="60,000 colour 32x32 pictures of 10 classes",
    expected_files=tuple(f"{_NAME}/{form}" for form in _FORMS),
    load=load_cifar10,
    shape=(3, 32, 32),
    training_images=45_000,
    test_images=10_000,
    classes=len(CIFAR10_CLASSES),
)
