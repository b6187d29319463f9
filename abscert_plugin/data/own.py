"""Data of the user's own by its path: an .npz, .npy, .csv or .parquet file, or a folder of these."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import Int64

from abscert_plugin.data.arrays import ArrayFile
from abscert_plugin.data.dataset import DataSet, Split
from abscert_plugin.data.holdout import official_rows, unofficial_rows
from abscert_plugin.data.hugging_face import MARKS, read_parquet, read_saved
from abscert_plugin.data.own_arrays import npy_folder, read_csv, read_npy, read_npz
from abscert_plugin.data.own_part import OwnFile, class_labels, stored_images
from abscert_plugin.data.request import DataRequest, DataSetEntry
from abscert_plugin.errors import DataError

_LOG: Final = logging.getLogger(__name__)
_READERS: Final[Mapping[str, Callable[[Path], OwnFile]]] = MappingProxyType(
    {
        ".npz": read_npz,
        ".npy": read_npy,
        ".csv": read_csv,
        ".csv.gz": read_csv,
        ".parquet": lambda path: read_parquet((path,)),
    }
)
FORMS: Final = "a file .npz, .npy, .csv or .parquet, or a folder of such files or of save_to_disk"


def own_entry(name: str) -> DataSetEntry | None:
    """Return the entry of data by its path; None where the name is none: it has no slash and no suffix of ours."""
    if "/" not in name and _suffix(Path(name)) is None and not Path(name).is_dir():
        return None

    def load(request: DataRequest) -> DataSet:
        return load_own(name, request)

    return DataSetEntry(name, "your own arrays or table", (), load)


def is_own_file(path: Path) -> bool:
    """Tell whether a file is data of the user's own, by its suffix."""
    return _suffix(path) is not None


def load_own(name: str, request: DataRequest) -> DataSet:
    """Return a split of the data at a path, which is looked for below the request's directory too.

    Parts that are called train, test and validation are these. Without a validation part, it is held out of the
    training part, and of one part alone, a fifth is test, by a fixed seed; the log says so. The index is the place in
    the part, the checksum that of the stored images and labels.

    Raises:
        DataError: if there is nothing, or nothing that is understood; nothing is rounded, clipped or renumbered.
    """
    path = Path(name).expanduser()
    if not path.exists() and request.directory is not None:
        path = request.directory.expanduser() / path
    file = _read(path)
    part, rows = _rows(file, request.split, path)
    classes, labels = class_labels(file, str(path))
    images = stored_images(file.parts[part].images(), file.levels, f"the images of {path} ({part})")
    if len(images) != len(labels[part]):
        raise DataError(
            f"expected a label for each image of {path} ({part}), got {len(labels[part]):,} labels and "
            f"{len(images):,} images"
        )
    return ArrayFile(name, classes, file.levels, images, labels[part], is_of_user=True).part(request.split, rows)


def _read(path: Path) -> OwnFile:
    if not path.exists():
        raise DataError(f"expected data in {path}, got no such file or folder; --data takes a name or {FORMS}")
    if path.is_dir():
        return _read_folder(path)
    reader = _READERS.get(_suffix(path) or "")
    if reader is None:
        raise DataError(f"expected {FORMS}, got {path}")
    return reader(path)


def _read_folder(path: Path) -> OwnFile:
    if any((path / mark).is_file() for mark in MARKS):
        return read_saved(path)
    parquet = [*path.glob("*.parquet"), *path.glob("data/*.parquet")]
    if parquet:
        return read_parquet(parquet)
    for suffix in (".npz", ".csv", ".csv.gz"):
        files = {part: path / f"{part}{suffix}" for part in ("train", "validation", "test")}
        found = {part: _READERS[suffix](file) for part, file in files.items() if file.is_file()}
        if found:
            return _joined(found, path)
    arrays = npy_folder(path)
    if arrays is None:
        raise DataError(
            f"expected {FORMS}, such as train.npz and test.npz, got none in {path}; folders of PNG and JPEG files are "
            f"read by --data folder --data-dir {path}"
        )
    return arrays


def _joined(files: Mapping[str, OwnFile], path: Path) -> OwnFile:
    odd = [part for part, file in files.items() if set(file.parts) != {"all"}]
    if odd:
        raise DataError(f"expected images and labels in {path}, got several parts in that of {odd[0]}; name it alone")
    one = next(iter(files.values()))
    if any((file.levels, file.classes) != (one.levels, one.classes) for file in files.values()):
        raise DataError(f"expected the same levels and classes in all files of {path}")
    return OwnFile({part: file.parts["all"] for part, file in files.items()}, one.classes, one.levels)


def _rows(file: OwnFile, split: Split, path: Path) -> tuple[str, Int64[np.ndarray, "n"]]:
    """Return the part that a split lies in, and its rows there."""
    if "train" not in file.parts or "test" not in file.parts:
        alone = next((part for part in ("all", "train", "test") if part in file.parts), None)
        if alone is None:
            raise DataError(f"expected a part train or test in {path}, got validation alone")
        if split is Split.TEST and alone == "test":
            return alone, official_rows(split, len(file.parts[alone].labels))
        if alone == "test":
            raise DataError(f"expected a part train in {path} for the split {split}, got test alone")
        _say_split(str(path))
        return alone, unofficial_rows(split, len(file.parts[alone].labels))
    if "validation" in file.parts and split is not Split.TEST:
        return split.value, np.arange(len(file.parts[split.value].labels), dtype=np.int64)
    part = "test" if split is Split.TEST else "train"
    return part, official_rows(split, len(file.parts[part].labels))


@cache
def _say_split(path: str) -> None:
    """Say, once for each file, how it is split."""
    _LOG.warning(
        "note: %s has no part train and test: a fifth of it, drawn by a fixed seed, is test, and a tenth of the rest, "
        "at most 5,000, is validation",
        path,
    )


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in _READERS if path.name.lower().endswith(suffix)), None)
