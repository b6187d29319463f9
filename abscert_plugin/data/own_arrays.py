"""Arrays and tables of the user's own: .npz archives, pairs of .npy files, and .csv tables."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from abscert_plugin.data.archive import LIMIT, read_archive
from abscert_plugin.data.own_part import LEVELS, OwnFile, OwnPart, check_levels
from abscert_plugin.errors import DataError, RecordError
from abscert_plugin.files import read_array, read_packed

_PARTS: Final = ("train", "validation", "test")
_PREFIXES: Final = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
_PAIRS: Final = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("data", "target"))
_WANTED: Final = "images and labels (or x_train, y_train, x_test, y_test, or train_images, train_labels, ...)"
_LABEL_COLUMNS: Final = ("label", "class", "target", "y")


def read_npz(path: Path) -> OwnFile:
    """Return what an archive holds; an optional `levels` says which stored value stands for 1.0.

    Raises:
        DataError: if it cannot be read, or has no arrays of these names.
    """
    return read_archive(path, _WANTED, partial(_of_archive, path))


def _of_archive(path: Path, archive: Any) -> OwnFile:
    names = set(archive.files)
    parts = {part: pair for part in _PARTS if (pair := _pair(names, part)) is not None}
    if not parts:
        alone = next((pair for pair in _PAIRS if names >= {*pair}), None)
        if alone is None:
            held = ", ".join(sorted(names)[:10]) or "no array"
            raise DataError(f"expected {_WANTED} in {path}, got {held}; rename the arrays")
        parts = {"all": alone}
    levels = check_levels(archive["levels"], str(path)) if "levels" in names else LEVELS
    classes = tuple(map(str, np.ravel(archive["classes"]))) if "classes" in names else None
    found = {part: OwnPart(partial(_array_of, path, pair[0]), archive[pair[1]]) for part, pair in parts.items()}
    return OwnFile(found, classes, levels)


def _array_of(path: Path, name: str) -> np.ndarray:
    found: np.ndarray = read_archive(path, name, lambda archive: archive[name])
    return found


def _pair(names: set[str], part: str) -> tuple[str, str] | None:
    for prefix in _PREFIXES[part]:
        for images, labels in _PAIRS:
            for pair in ((f"{images}_{prefix}", f"{labels}_{prefix}"), (f"{prefix}_{images}", f"{prefix}_{labels}")):
                if names >= {*pair}:
                    return pair
    return None


def read_npy(path: Path) -> OwnFile:
    """Return images.npy with the labels.npy beside it; likewise x_train.npy with y_train.npy, and what else is there.

    Raises:
        DataError: if it cannot be read, or no labels are beside it.
    """
    found = npy_folder(path.parent)
    if found is None:
        raise DataError(f"expected labels beside {path}, such as images.npy with labels.npy, got none; save them there")
    return found


def npy_folder(folder: Path) -> OwnFile | None:
    """Return what the .npy files of a folder hold; None where there are no images with labels.

    Raises:
        DataError: if a file cannot be read.
    """
    names = {entry.stem for entry in folder.glob("*.npy")}
    parts = {part: pair for part in _PARTS if (pair := _pair(names, part)) is not None}
    if not parts:
        alone = next((pair for pair in _PAIRS if names >= {*pair}), None)
        if alone is None:
            return None
        parts = {"all": alone}
    return OwnFile(
        {
            part: OwnPart(partial(_npy, folder / f"{images}.npy"), _npy(folder / f"{labels}.npy"))
            for part, (images, labels) in parts.items()
        }
    )


def _npy(path: Path) -> np.ndarray:
    try:
        return read_array(path, LIMIT)
    except RecordError as error:
        raise DataError(f"{error}, or one of objects; write it again by numpy.save") from error


def read_csv(path: Path) -> OwnFile:
    """Return a table of an image a row: a column of labels, and pixels row by row in the others.

    Columns with a heading: the labels' is `label`, `class`, `target` or `y`. Without headings, labels come first.

    Raises:
        DataError: if it is not such a table.
    """
    text = _text(path)
    first = next(csv.reader(io.StringIO(text[: text.find("\n") + 1] or text)), [])
    has_heading = any(not _is_number(cell) for cell in first[1:])
    place = _label_column(path, first) if has_heading else 0
    others = [column for column in range(len(first)) if column != place]
    if not others:
        raise DataError(f"expected columns of pixels beside the labels in {path}, got none")
    labels = _columns(path, text, (place,), has_heading, str)[:, 0]
    if all(label.strip().lstrip("-").isdecimal() for label in labels.tolist()):
        labels = labels.astype(np.int64)
    return OwnFile({"all": OwnPart(lambda: _columns(path, text, others, has_heading, np.float32), labels)})


def _columns(path: Path, text: str, columns: Sequence[int], has_heading: bool, kind: type) -> np.ndarray:
    try:
        found: np.ndarray = np.loadtxt(
            io.StringIO(text),
            dtype=kind,
            delimiter=",",
            skiprows=int(has_heading),
            usecols=columns,
            ndmin=2,
            comments=None,
            quotechar='"',
        )
    except (ValueError, OverflowError) as error:
        raise DataError(f"expected a row of numbers for each image in {path}, got {error}") from error
    if len(found) == 0:
        raise DataError(f"expected a row for each image in {path}, got none")
    return found


def _label_column(path: Path, heading: Sequence[str]) -> int:
    named = [place for place, name in enumerate(heading) if name.strip().lower() in _LABEL_COLUMNS]
    if len(named) != 1:
        raise DataError(
            f"expected one column of {path} called {' or '.join(_LABEL_COLUMNS)}, got {len(named)}; rename the "
            "column of labels"
        )
    return named[0]


def _text(path: Path) -> str:
    try:
        return read_packed(path, LIMIT, "write the table again", DataError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"expected text in UTF-8 in {path}, got other bytes; write the table again") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
