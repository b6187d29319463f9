"""Fixed-seed splits: which rows of a file are train, validation and test. The training seed has no say in them."""

from typing import Final

import numpy as np
from jaxtyping import Int64

from abscert_plugin.data.dataset import Split
from abscert_plugin.errors import DataError

SPLIT_SEED: Final = 2023
MAX_VALIDATION_COUNT: Final = 5000


def hold_out(count: int, held_count: int) -> tuple[Int64[np.ndarray, "kept"], Int64[np.ndarray, "held"]]:
    """Return the rows that stay and the rows that are held out of a file of `count` rows, both ascending.

    Raises:
        DataError: if nothing is held out or nothing stays.
    """
    if not 0 < held_count < count:
        raise DataError(f"expected at least 2 images to split, got {count}; add images")
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    return np.sort(order[held_count:]), np.sort(order[:held_count])


def official_rows(split: Split, count: int) -> Int64[np.ndarray, "n"]:
    """Return the rows of a split that lie in its own file: a test file, or a training file that gives up validation.

    Validation is a tenth of the training file, at least 1 row and at most 5000.

    Args:
        split: the part wanted.
        count: number of rows of the test file (for `TEST`) or of the training file.

    Raises:
        DataError: if a training file has fewer than 2 rows.

    >>> official_rows(Split.VALIDATION, 10).size, official_rows(Split.TRAIN, 10).size
    (1, 9)
    """
    if split is Split.TEST:
        return np.arange(count, dtype=np.int64)
    kept, held = hold_out(count, min(MAX_VALIDATION_COUNT, max(1, count // 10)))
    return held if split is Split.VALIDATION else kept


def unofficial_rows(split: Split, count: int) -> Int64[np.ndarray, "n"]:
    """Return the rows of a split of a data set that has one file: a fifth (at least 1 row) is test.

    Args:
        split: the part wanted.
        count: number of rows of the file.

    Raises:
        DataError: if the file has too few rows for the split.

    >>> [unofficial_rows(split, 100).size for split in Split]
    [72, 8, 20]
    """
    kept, held = hold_out(count, max(1, count // 5))
    return held if split is Split.TEST else kept[official_rows(split, len(kept))]
