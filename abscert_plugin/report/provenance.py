"""A run's own images and its own ONNX file, found again and checked against what run.json says of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from abscert_plugin.artifact.model_file import model_sha256, read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import AbscertError, DataError
from abscert_plugin.records import RunInfo
from abscert_plugin.report.counterexamples import Replay
from abscert_plugin.verification.logits import read_logits


def run_images(run: RunInfo, data_dir: Path | None, image_size: int | None = None) -> DataSet:
    """Return the split that the rows of a run speak of.

    Raises:
        DataError: if it is not there, or holds other images than those of the run.
    """
    facts = run.data or {}
    try:
        data = load_data(str(facts.get("name")), Split(facts.get("split", Split.TEST)), data_dir, image_size)
    except (AbscertError, ValueError) as error:
        raise DataError(f"the images are not there: {error}") from error
    if facts.get("sha256") != data.sha256:
        raise DataError("these are not the images of the run")
    return data


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
    facts = run.model or {}
    name = str(facts.get("path"))
    path = next((place / name for place in places if (place / name).is_file()), None)
    if path is None or Path(name).name != name or model_sha256(path, read_model(path)) != facts.get("sha256"):
        return None
    artifact = Artifact.open(path, Provider.CPU)
    if not artifact.takes_images or artifact.metadata.image_shape != shape:
        return None

    def replay(images: np.ndarray) -> list[int]:
        answers = read_logits(artifact.run_images(images), np.zeros(len(images), dtype=np.int64))
        return [int(label) for label in answers.prediction]

    return replay
