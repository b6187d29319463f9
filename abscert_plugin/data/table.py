"""The table of data sets, and the one function that loads them."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from abscert_plugin.data.cifar10 import CIFAR10
from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.data.digits import DIGITS
from abscert_plugin.data.folder import FOLDER, IMAGENET
from abscert_plugin.data.idx import IDX_ENTRIES
from abscert_plugin.data.request import DATA_VARIABLE, DataRequest, DataSetEntry
from abscert_plugin.errors import ConfigError

_RESIZED: Final = (FOLDER.name, IMAGENET.name)
DATA_SETS: Final[Mapping[str, DataSetEntry]] = MappingProxyType(
    {entry.name: entry for entry in (DIGITS, *IDX_ENTRIES, CIFAR10, IMAGENET, FOLDER)}
)


def load_data(name: str, split: Split, directory: Path | None = None, image_size: int | None = None) -> DataSet:
    """Return one split of a data set.

    Args:
        name: a key of `DATA_SETS`.
        split: the part; validation is held out of the training file with a seed of its own.
        directory: the folder that holds the files, or the data set's folder; None takes `$ABSCERT_DATA`.
        image_size: height and width that the images of `folder` and `imagenet` are resized and cropped to.

    Raises:
        ConfigError: if the name is unknown, or an image size is given for another data set than those two.
        DataError: if the files are missing or corrupt.

    >>> load_data("digits", Split.TEST).shape
    (1, 8, 8)
    """
    entry = DATA_SETS.get(name)
    if entry is None:
        raise ConfigError(f"expected one of the data sets {', '.join(DATA_SETS)}, got {name!r}")
    if image_size is not None and name not in _RESIZED:
        allowed = " or ".join(_RESIZED)
        raise ConfigError(f"expected an image size with --data {allowed} only, got {image_size} with {name}")
    return entry.load(DataRequest(split, directory or _directory_of_environment(), image_size))


def _directory_of_environment() -> Path | None:
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None
