"""A run's own images and its own ONNX file, found again and checked against what run.json says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from abscert_plugin.artifact.foreign import reopen
from abscert_plugin.artifact.model_file import model_sha256, read_model
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.data.arrays import ARRAYS
from abscert_plugin.errors import AbscertError, DataError
from abscert_plugin.records import RunInfo
from abscert_plugin.report.counterexamples import Replay
from abscert_plugin.verification.logits import read_logits

IMAGES: Final = "images.npz"
"""Where images that came as arrays lie beside their rows."""


def run_images(
    run: RunInfo, data_dir: Path | None, image_size: int | None = None, folder: Path | None = None
) -> DataSet:
    """Return the split that the rows of a run speak of.

    Args:
        run: the content of run.json.
        data_dir: where the files of data sets are.
        image_size: side that images are resized to.
        folder: of the run, where images that came as arrays are looked for.

    Raises:
        DataError: if it is not there, or holds other images than those of the run.
    """
    facts = run.data or {}
    name = str(facts.get("name"))
    if name == ARRAYS:
        if folder is None or not (folder / IMAGES).is_file():
            raise DataError(f"the images came as arrays, and no {IMAGES} holds them beside the records")
        name = str(folder / IMAGES)
    try:
        data = load_data(name, Split(facts.get("split", Split.TEST)), data_dir, image_size)
    except (AbscertError, ValueError) as error:
        raise DataError(f"the images are not there: {error}") from error
    if facts.get("sha256") != data.sha256:
        raise DataError("these are not the images of the run")
    return data


def run_model(run: RunInfo, places: Sequence[Path]) -> Path | None:
    """Return the very file that a run was about, where it lies in one of some folders; None where it does not.

    Raises:
        AbscertError: if a file of its name cannot be read.
    """
    name = str((run.model or {}).get("path"))
    path = next((place / name for place in places if (place / name).is_file()), None)
    return path if path is not None and Path(name).name == name and is_model_of(run, path) else None


def is_model_of(run: RunInfo, path: Path) -> bool:
    """Return whether a file is the very one that a run was about, whatever it is called.

    Raises:
        AbscertError: if it cannot be read.
    """
    return bool(model_sha256(path, read_model(path)) == (run.model or {}).get("sha256"))


def run_replay(run: RunInfo, places: Sequence[Path], shape: tuple[int, ...]) -> Replay | None:
    """Return what runs the deployed file, where that very file lies in one of the places; None where it does not.

    Args:
        run: the content of run.json.
        places: folders.
        shape: that of the images.

    Raises:
        AbscertError: if the file cannot be read or run.
        OSError: if it cannot be opened.
    """
    path = run_model(run, places)
    if path is None:
        return None
    artifact = reopen(path, Provider.CPU, run.model or {})
    if not artifact.takes_images or artifact.metadata.image_shape != shape:
        return None

    def replay(images: np.ndarray) -> list[int]:
        answers = read_logits(artifact.run_images(images), np.zeros(len(images), dtype=np.int64))
        return [int(label) for label in answers.prediction]

    return replay
