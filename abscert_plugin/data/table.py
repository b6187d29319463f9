"""The table of data sets, and the one function that loads them."""

import os
from pathlib import Path
from typing import Final

from abscert_plugin.choices import expected_one_of
from abscert_plugin.data.cifar10 import CIFAR10
from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.data.digits import DIGITS
from abscert_plugin.data.folder import FOLDER, IMAGENET
from abscert_plugin.data.idx import IDX_ENTRIES
from abscert_plugin.data.own import own_entry
from abscert_plugin.data.request import DATA_VARIABLE, DataRequest, DataSetEntry
from abscert_plugin.errors import ConfigError
from abscert_plugin.plugins import Registry

DATA_SETS: Final = Registry(
    DataSetEntry, (DIGITS, *IDX_ENTRIES, CIFAR10, IMAGENET, FOLDER), ("abscert.data",), "data set"
)
"""Every data set by its name; a package adds one through the entry-point group `abscert.data`."""


def data_entry(name: str) -> DataSetEntry:
    """Return the entry of a data set by its name, or by its path where it is the user's own.

    Raises:
        ConfigError: if there is no such name, and it is no path.
    """
    entry = DATA_SETS.get(name) or own_entry(name)
    if entry is None:
        raise ConfigError(expected_one_of("a data set", DATA_SETS, name))
    return entry


def load_data(name: str, split: Split, directory: Path | None = None, image_size: int | None = None) -> DataSet:
    """Return one split of a data set.

    Args:
        name: a key of `DATA_SETS`, or the path of a file or folder of arrays (see `own.py`).
        split: the part; validation is held out of the training file with a seed of its own.
        directory: the folder that holds the files, or the data set's folder; None takes `$ABSCERT_DATA`.
        image_size: height and width that the images of `folder` or `imagenet` are resized and cropped to.

    Raises:
        ConfigError: if the name is unknown, or an image size is given for a data set that has one size.
        DataError: if the files are missing or corrupt.

    >>> load_data("digits", Split.TEST).shape
    (1, 8, 8)
    """
    entry = data_entry(name)
    if image_size is not None and not entry.can_resize:
        allowed = " or ".join(sorted(other.name for other in DATA_SETS.values() if other.can_resize))
        raise ConfigError(f"expected an image size with --data {allowed} only, got {image_size} with {name}")
    return entry.load(DataRequest(split, directory or _directory_of_environment(), image_size))


def _directory_of_environment() -> Path | None:
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None
