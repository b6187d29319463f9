"""Data sets of Hugging Face on disk, read by their own library: what `save_to_disk` wrote, and .parquet files."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from abscert_plugin.data.own_part import OwnFile, OwnPart
from abscert_plugin.errors import DataError

MARKS: Final = ("dataset_dict.json", "state.json")
"""A folder that holds one of these was written by `save_to_disk`."""
_IMAGES: Final = ("image", "img", "images", "pixel_values")
_LABELS: Final = ("label", "labels", "fine_label", "target", "class")
_PARTS: Final[Mapping[str, str]] = {"train": "train", "test": "test", "validation": "validation", "valid": "validation"}


def read_saved(path: Path) -> OwnFile:
    """Return what `save_to_disk` wrote into a folder.

    Raises:
        DataError: if the library is missing, or the folder holds no images with labels.
    """
    library = _library(path)
    try:
        found = library.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"expected a folder of save_to_disk, got {error!r:.200} in {path}; save it again") from error
    parts = dict(found) if isinstance(found, dict) else {"all": found}
    return _file(parts, path)


def read_parquet(paths: Sequence[Path]) -> OwnFile:
    """Return what .parquet files hold; a name that begins with train, test or validation says which part one is.

    Raises:
        DataError: if the library is missing, or a file cannot be read, or holds no images with labels.
    """
    library = _library(paths[0])
    tables: dict[str, list[Any]] = {}
    for path in sorted(paths):
        name = path.name.split("-")[0].split(".")[0]
        try:
            tables.setdefault(name if name in _PARTS else "all", []).append(
                library.Dataset(import_module("pyarrow.parquet").read_table(path))  # nothing is copied into a cache
            )
        except Exception as error:
            raise DataError(f"expected a .parquet file of images, got {error!r:.200} in {path}") from error
    return _file({name: library.concatenate_datasets(those) for name, those in tables.items()}, paths[0])


def _library(path: Path) -> Any:
    try:
        return import_module("datasets")
    except ImportError as error:
        raise DataError(f"{path} is read by the library `datasets`, got none: pip install datasets") from error


def _file(parts: Mapping[str, Any], path: Path) -> OwnFile:
    known = {_PARTS.get(name, name): part for name, part in parts.items() if name in _PARTS}
    chosen = known or {"all": next(iter(parts.values()))}
    found: dict[str, OwnPart] = {}
    classes = None
    for name, part in chosen.items():
        images, labels = (_column(part, names, path) for names in (_IMAGES, _LABELS))
        classes = getattr(part.features[labels], "names", None) or classes
        found[name] = OwnPart(partial(_images, part, images, path), np.asarray(list(part[labels])))
    return OwnFile(found, tuple(classes) if classes else None)


def _column(part: Any, names: Sequence[str], path: Path) -> str:
    column = next((name for name in names if name in part.column_names), None)
    if column is None:
        held = ", ".join(part.column_names[:10])
        raise DataError(f"expected a column {' or '.join(names)} in {path}, got {held}; rename it")
    return column


def _images(part: Any, column: str, path: Path) -> np.ndarray:
    try:
        arrays = [_pixels(value) for value in part[column]]
    except (OSError, ValueError, SyntaxError, TypeError, KeyError) as error:
        raise DataError(f"expected readable images in {path}, got {error!r:.200}") from error
    if len({array.shape for array in arrays}) != 1:
        raise DataError(f"expected images of one size in {path}, got several; resize them")
    return np.stack(arrays)


def _pixels(value: Any) -> np.ndarray:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        from PIL import Image

        with Image.open(io.BytesIO(value["bytes"]), formats=("PNG", "JPEG")) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    if hasattr(value, "convert"):  # an image of Pillow
        return np.asarray(value.convert("L" if value.mode in ("1", "L") else "RGB"))
    return np.asarray(value)
