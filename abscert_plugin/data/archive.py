"""Opening .npz archives of arrays: nothing is unpickled, and none unpacks to more than a limit."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from abscert_plugin.errors import DataError
from abscert_plugin.files import LYING_HEADERS, byte_limit, open_file, raise_limit

LIMIT: Final = 2**30
"""Bytes of an array, unpacked: six times the training images of CIFAR-10."""
_Found = TypeVar("_Found")
# Everything that numpy and zipfile raise on a file that is not what it seems.
_BROKEN: Final = (*LYING_HEADERS, OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_archive(path: Path, wanted: str, read: Callable[[Any], _Found]) -> _Found:
    """Return what `read` takes out of an open .npz archive.

    Args:
        path: the archive.
        wanted: what it has to hold, in words, for the message.
        read: is given the archive, a mapping from names to arrays.

    Raises:
        DataError: if it cannot be read, holds objects, or unpacks to more than a gibibyte.
    """
    try:
        with open_file(path) as stream, np.load(stream, allow_pickle=False) as archive:
            _check_sizes(archive, path)
            return read(archive)
    except _BROKEN as error:
        raise DataError(f"expected {wanted} in {path}, got {error!r}; write the file again") from error


def _check_sizes(archive: Any, path: Path) -> None:
    """Raise where an array unpacks to more than a limit; zipfile reads no more than its entry says."""
    largest = max((entry.file_size for entry in archive.zip.infolist()), default=0)
    if largest > byte_limit(LIMIT):
        raise DataError(f"{path} holds an array of {largest:,} bytes; if it is to be trusted, {raise_limit()}")
