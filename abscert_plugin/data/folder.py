"""Class folders of PNG and JPEG files, of any number, read when they are asked for: `folder`, and `imagenet`."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.data.holdout import official_rows, unofficial_rows
from abscert_plugin.data.image_files import FolderSource, image_shape
from abscert_plugin.data.request import DataRequest, DataSetEntry, given_directory, missing_files, searched_folders
from abscert_plugin.errors import DataError
from abscert_plugin.wording import plain_words

_LEVELS: Final = 255
_SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_TRAIN_FOLDER: Final = "train"
_TEST_FOLDERS: Final = ("test", "val")
_IMAGENET: Final = "imagenet"
_IMAGENET_SIDE: Final = 224
_IMAGENET_TEST: Final = ("val",)  # its test/ has no labels
_IMAGENET_FILES: Final = "the class folders of ILSVRC 2012 in train/ and val/"
_LAYOUT: Final = "DIR/train/CLASS/*.png and DIR/test/CLASS/*.png (or DIR/val), or DIR/CLASS/*.png; .jpg and .jpeg too"


@final
@dataclass(frozen=True)
class FileList:
    """The image files of one folder of class folders, sorted by class and name.

    Args:
        root: the folder of class folders.
        names: each file's path below `root`, as CLASS/FILE.
        sizes: each file's size in bytes.
        labels: each file's class.
    """

    root: Path
    names: tuple[str, ...]
    sizes: Int64[np.ndarray, "all"]
    labels: Int64[np.ndarray, "all"]

    def checksum(self, index: Int64[np.ndarray, "n"], shape: tuple[int, int, int]) -> str:
        """Return the SHA-256 over the shape and the names and sizes of these files, as hexadecimal digits.

        The files' contents are not read, which would take minutes for a large folder: a file that changes and
        keeps its size keeps the checksum.
        """
        digest = hashlib.sha256(repr((len(index), *shape)).encode())
        for position in index:
            digest.update(os.fsencode(self.names[position]) + b"\0%d\0" % self.sizes[position])
        return digest.hexdigest()


@final
@dataclass(frozen=True)
class FolderLayout:
    """Where the class folders of a data set lie.

    Args:
        classes: the names of the class folders, sorted.
        reference: the folder of class folders whose first image fixes the shape of all images.
        train, test: the folders of class folders of the splits, None where there is none. One and the same folder
            where the data set has no official split.
    """

    classes: tuple[str, ...]
    reference: Path
    train: Path | None
    test: Path | None

    def root(self, split: Split, directory: Path) -> Path:
        """Return the folder of class folders that holds a split.

        Raises:
            DataError: if there is none.
        """
        root = self.test if split is Split.TEST else self.train
        if root is None:
            wanted = "test or val" if split is Split.TEST else _TRAIN_FOLDER
            raise DataError(f"expected a folder {wanted} of class folders in {directory}, got none; add it")
        return root

    def rows(self, split: Split, count: int) -> Int64[np.ndarray, "n"]:
        """Return the places of a split's files in the list of all `count` files of its folder.

        Raises:
            DataError: if there are too few files to split.
        """
        return unofficial_rows(split, count) if self.train == self.test else official_rows(split, count)


def load_folder(request: DataRequest) -> DataSet:
    """Return a split whose images are decoded when they are read.

    DIR/train/CLASS and DIR/test/CLASS (or DIR/val/CLASS) are the official split; validation is held out of train.
    Where there is none of these, a fifth of DIR/CLASS is test. The index is the place in the list of the folder's
    files, sorted by class and name. The checksum covers names and sizes, see `FileList.checksum`.

    Raises:
        DataError: if the folder has another layout, the classes of train and test differ, or there are no images.
    """
    directory = given_directory(request, "folder", f"it has to hold {_LAYOUT}")
    layout = _layout(directory, _TEST_FOLDERS)
    root = layout.root(request.split, directory)
    shape = image_shape(_first_image(layout.reference, layout.classes), request.image_size)
    return _part("folder", root, layout, shape, request.image_size is not None, request.split)


def load_imagenet(request: DataRequest) -> DataSet:
    """Return a split of ImageNet, as `load_folder` does, of colour images brought to 224 x 224 or the size asked for.

    val/ is the test split, since the labels of ImageNet's own test/ are not public; validation is held out of train/.

    Raises:
        DataError: as `load_folder`.
    """
    folders = searched_folders(request, _IMAGENET, _IMAGENET_FILES)
    wanted = {_TRAIN_FOLDER, *_IMAGENET_TEST}
    directory = next((one for one in folders if one.is_dir() and wanted & {*_subfolders(one)}), None)
    if directory is None:
        raise missing_files(_IMAGENET, "train/ and val/", folders, (), _IMAGENET_FILES)
    layout = _layout(directory, _IMAGENET_TEST)
    root = layout.root(request.split, directory)
    side = request.image_size or _IMAGENET_SIDE
    return _part(_IMAGENET, root, layout, (3, side, side), True, request.split)


def _part(
    name: str, root: Path, layout: FolderLayout, shape: tuple[int, int, int], is_resized: bool, split: Split
) -> DataSet:
    files = _list_files(root, layout.classes)
    index = layout.rows(split, len(files.names))
    return DataSet(
        name=name,
        split=split,
        classes=layout.classes,
        shape=shape,
        levels=_LEVELS,
        source=FolderSource(files.root, files.names, shape, is_resized),
        labels=files.labels[index],
        index=index,
        sha256=files.checksum(index, shape),
    )


def _layout(directory: Path, test_folders: Sequence[str]) -> FolderLayout:
    subfolders = _subfolders(directory)
    train = directory / _TRAIN_FOLDER if _TRAIN_FOLDER in subfolders else None
    test = next((directory / name for name in test_folders if name in subfolders), None)
    if train is None and test is None:
        if not subfolders:
            raise DataError(f"expected {_LAYOUT}, got no folder in DIR = {directory}; add one folder per class")
        return FolderLayout(subfolders, directory, directory, directory)
    parts = [part for part in (train, test) if part is not None]
    classes = _subfolders(parts[0])
    _check_same_classes(parts, classes)
    return FolderLayout(classes, parts[0], train, test)


def _check_same_classes(parts: Sequence[Path], classes: tuple[str, ...]) -> None:
    if not classes:
        raise DataError(f"expected one folder per class in {parts[0]}, got none; add them")
    for part in parts[1:]:
        odd = sorted(set(classes) ^ set(_subfolders(part)))
        if odd:
            raise DataError(
                f"expected the same classes in {parts[0]} and {part}, got {', '.join(odd[:5])} in one of them "
                f"only ({len(odd)} in all); add or rename the class folders"
            )


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in _entries(folder) if entry.is_dir())


def _list_files(root: Path, classes: Sequence[str]) -> FileList:
    names: list[str] = []
    sizes: list[int] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = [entry for entry in _entries(root / name) if _is_image(entry)]
        names += [f"{name}/{entry.name}" for entry in images]
        sizes += [entry.stat().st_size for entry in images]
        labels += [label] * len(images)
    if not names:
        raise DataError(f"expected images ({', '.join(_SUFFIXES)}) in the class folders of {root}, got none; add them")
    return FileList(root, tuple(names), np.array(sizes, np.int64), np.array(labels, np.int64))


def _first_image(root: Path, classes: Sequence[str]) -> Path:
    for name in classes:
        for entry in _entries(root / name):
            if _is_image(entry):
                return root / name / entry.name
    raise DataError(f"expected images ({', '.join(_SUFFIXES)}) in the class folders of {root}, got none; add them")


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(_SUFFIXES) and entry.is_file()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder sorted by name, without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"expected a readable folder of images, got {folder}: {plain_words(error)}; name one with --data-dir or "
            "$ABSCERT_DATA"
        ) from error


FOLDER: Final = DataSetEntry(
    name="folder",
    description="your own PNG or JPEG files, one folder per class",
    expected_files=("train/CLASS/*.png and test/CLASS/*.png (or val/CLASS)", "CLASS/*.png", ".jpg and .jpeg as well"),
    load=load_folder,
    can_resize=True,
)
IMAGENET: Final = DataSetEntry(
    name=_IMAGENET,
    description="ImageNet (ILSVRC 2012): 1,281,167 images of 1000 classes, 50,000 in val/, brought to 224 x 224",
    expected_files=("train/CLASS/*.JPEG", "val/CLASS/*.JPEG"),
    load=load_imagenet,
    shape=(3, _IMAGENET_SIDE, _IMAGENET_SIDE),
    training_images=1_276_167,
    test_images=50_000,
    classes=1000,
    can_resize=True,
)
