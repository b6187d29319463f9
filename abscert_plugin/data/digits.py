"""The data set `digits`: scikit-learn's 1797 images of 8 x 8 pixels with values 0 to 16, read without importing it."""

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from abscert_plugin.data.arrays import ArrayFile
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.data.holdout import unofficial_rows
from abscert_plugin.data.request import DataRequest, DataSetEntry
from abscert_plugin.errors import DataError

_LEVELS: Final = 16
_SHAPE: Final = (1797, 65)


def load_digits(request: DataRequest) -> DataSet:
    """Return a split of digits: a fifth is test, a tenth of the rest validation; the index is `load_digits()`'s row.

    Raises:
        DataError: if scikit-learn is not installed or its file is corrupt.
    """
    table = _read_table(_table_path())
    images = table[:, :-1].reshape(-1, 1, 8, 8)
    classes = tuple(str(digit) for digit in range(10))
    file = ArrayFile("digits", classes, _LEVELS, images, table[:, -1].astype(np.int64))
    return file.part(request.split, unofficial_rows(request.split, len(table)))


def _table_path() -> Path:
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("expected scikit-learn, whose package holds digits, got none: pip install scikit-learn")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _read_table(path: Path) -> UInt8[np.ndarray, "rows columns"]:
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        table = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            "expected scikit-learn's table of digits, got a file that is damaged or not there; reinstall scikit-learn"
        ) from error
    if table.shape != _SHAPE or table[:, :-1].max() > _LEVELS:
        raise DataError(
            f"expected {_SHAPE[0]} rows of 64 values from 0 to {_LEVELS} and a label in {path}, got shape "
            f"{table.shape}; reinstall scikit-learn"
        )
    return table


DIGITS: Final = DataSetEntry(
    name="digits",
    description="1797 grey 8x8 digits with 17 levels, embedded (scikit-learn's load_digits)",
    expected_files=(),
    load=load_digits,
    shape=(1, 8, 8),
    training_images=1_295,
    test_images=359,
    classes=10,
)
