"""What a training sees, out of a name, a data set or a caller's arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from abscert_plugin.api.arrays import Images, as_array, as_data_set
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data import load_data as load
from abscert_plugin.data.holdout import official_rows
from abscert_plugin.errors import DataError
from abscert_plugin.training.run import TrainingData

Pair: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Images [count, channels, height, width], floats in [0, 1] or uint8, and the label of each."""

Data: TypeAlias = str | DataSet | Pair
"""A data set's name, its training split of `load_data`, or (images, labels)."""


def training_data(
    data: Data,
    validation: DataSet | Pair | None = None,
    classes: int | Sequence[str] | None = None,
    directory: Path | None = None,
    image_size: int | None = None,
) -> TrainingData:
    """Return what to learn from, and what the epoch is chosen on: a tenth of it, held out, where nothing is given.

    Args:
        data: see `Data`. Floats that are no k / levels are rounded to 8 bits: a training reads stored pixels.
        validation: what the epoch is chosen on.
        classes: names of the classes or their number, of arrays.
        directory: where a named data set's files are.
        image_size: side that images of a folder are resized to.

    Raises:
        DataError: if data have no meaning, are of the test split, or the two do not fit each other.
        ConfigError: if a name is unknown.
    """
    if isinstance(data, str):
        if validation is not None:
            raise DataError(f"expected no validation images with the data set {data}, which has its own")
        return TrainingData(*(load(data, split, directory, image_size) for split in (Split.TRAIN, Split.VALIDATION)))
    if isinstance(data, DataSet):
        if data.split is Split.TEST:
            raise DataError(f"expected the training split, got the test split of {data.name}: load_data(name, 'train')")
        if validation is None:
            return _held_out(data)
        return _fitting(data, as_data_set(*pair_of(validation), data.classes, Split.VALIDATION, is_trained_on=True))
    if validation is None:
        return _held_out(as_data_set(*pair_of(data), classes, Split.TRAIN, is_trained_on=True))
    if isinstance(validation, DataSet):
        return _fitting(as_data_set(*pair_of(data), validation.classes, Split.TRAIN, is_trained_on=True), validation)
    (images, labels), (others, their) = ([as_array(part) for part in pair_of(pair)] for pair in (data, validation))
    if images.shape[1:] != others.shape[1:] or images.dtype != others.dtype:
        raise DataError(
            f"expected validation images like those to train on, {images.dtype} {images.shape[1:]}, got {others.dtype} "
            f"{others.shape[1:]}"
        )
    # as one data set, so that a stored value means the same pixel in both
    whole = as_data_set(
        np.concatenate([images, others]), np.concatenate([labels, their]), classes, Split.TRAIN, is_trained_on=True
    )
    rows = np.arange(len(whole))
    return TrainingData(
        _part(whole, rows[: len(images)], Split.TRAIN), _part(whole, rows[len(images) :], Split.VALIDATION)
    )


def pair_of(given: DataSet | Pair) -> tuple[Images, ArrayLike | None]:
    """Return images and labels as `as_data_set` takes them.

    Raises:
        DataError: if they are neither a data set nor two things.
    """
    if isinstance(given, DataSet):
        return given, None
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(f"expected a name, a data set or (images, labels), got {type(given).__name__}")
    images, labels = given
    return images, labels


def _held_out(data: DataSet) -> TrainingData:
    parts = (_part(data, official_rows(split, len(data)), split) for split in (Split.TRAIN, Split.VALIDATION))
    return TrainingData(*parts)


def _part(data: DataSet, rows: np.ndarray, split: Split) -> DataSet:
    digest = hashlib.sha256(f"{data.sha256} {split} ".encode() + rows.astype("<i8").tobytes()).hexdigest()
    return replace(data, split=split, labels=data.labels[rows], index=data.index[rows], sha256=digest)


def _fitting(training: DataSet, validation: DataSet) -> TrainingData:
    one, other = ((part.shape, part.levels, len(part.classes)) for part in (training, validation))
    if one != other:
        raise DataError(
            f"expected validation images like those to train on (shape, levels, classes: {one}), got {other}; pass "
            "both as arrays"
        )
    return TrainingData(training, validation)
