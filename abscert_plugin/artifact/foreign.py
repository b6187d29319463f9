"""ONNX classifiers that this project did not make, opened as they are: no metadata, no abstraction in front."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import onnx

from abscert_plugin.artifact.adapted import adapt, opened
from abscert_plugin.artifact.metadata import Metadata
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.third_party import is_of_this_project, read_third_party
from abscert_plugin.blackbox import Provider
from abscert_plugin.errors import ConfigError
from abscert_plugin.front import Pixels
from abscert_plugin.preprocessing import Opening

PREPROCESSING: Final = "preprocessing"
"""The key of a record's facts about the model that says how a file of others was opened."""

_log = logging.getLogger(__name__)


def open_classifier(
    path: Path,
    provider: Provider,
    opening: Opening | None = None,
    shape: tuple[int, int, int] | None = None,
    labels: int | None = None,
    model: onnx.ModelProto | None = None,
) -> Artifact:
    """Read, check and load an ONNX classifier, of this project or any other.

    Args:
        path: the file; that of others may be packed by gzip.
        provider: where to run it.
        opening: how a file of others is to be read; None where nothing was asked for.
        shape: (channels, height, width) of the images that it is to be run on, where they are known.
        labels: how many classes these have.
        model: what `read_model` gives of the file, which may be changed; it is read where None.

    Raises:
        UnsupportedModelError: if it cannot be read or run, kills onnxruntime, draws random numbers, is in training
            mode, or is no classifier of images.
        ConfigError: if an option is missing, does not fit, or is given for a file of this project.
        VerifierError: if the provider was asked for and is not there.
    """
    model = read_model(path) if model is None else model
    if is_of_this_project(model):
        if opening is not None:
            raise ConfigError(
                f"{path} says itself how it reads images; leave out --image-shape, --mean, --output and their like"
            )
        return Artifact.open(path, provider, model=model)
    return open_foreign(path, provider, opening or Opening(), shape, labels, model)


def reopen(
    path: Path,
    provider: Provider,
    facts: Mapping[str, Any],
    shape: tuple[int, int, int] | None = None,
    labels: int | None = None,
) -> Artifact:
    """Read, check and load the classifier that a run was about, in the way that its record tells.

    Args:
        path: the file.
        provider: where to run it.
        facts: what the record says of the model.
        shape: (channels, height, width) of the images that it is to be run on.
        labels: how many classes these have.

    Raises:
        UnsupportedModelError, ConfigError, VerifierError: as `open_classifier`.
    """
    told = facts.get(PREPROCESSING)
    opening = Opening.told(told) if isinstance(told, Mapping) else None
    return open_classifier(path, provider, opening, shape, labels)


def open_foreign(
    path: Path,
    provider: Provider,
    opening: Opening,
    shape: tuple[int, int, int] | None = None,
    labels: int | None = None,
    model: onnx.ModelProto | None = None,
) -> Artifact:
    """Read, check and load an ONNX classifier that this project did not make; see `open_classifier`.

    Soundness: what is run and what is proven are the file's own nodes, on the file's own input. A ball of images is a
    box of that input that holds whatever preprocessing of this scale makes of them, exactly or in float32.
    """
    source = read_third_party(path, opening.output, opening.constants, model)
    adapted = adapt(source, replace(opening, image_shape=opening.image_shape or shape), labels)
    preprocessing = adapted.preprocessing
    if adapted.obstacle is not None:
        _log.info("%s: images are run one by one, because %s", path, adapted.obstacle)
    classifier = opened(adapted, provider, adapted.obstacle is not None)
    metadata = Metadata(
        version="",
        front=Pixels(preprocessing),
        image_shape=preprocessing.image_shape,
        classes=adapted.classes,
        network=path.name,
        training="none",
    )
    facts = {**preprocessing.facts(), "output": opening.output, "constants": dict(opening.constants)}
    return Artifact(path, source.file.sha256, adapted.model, metadata, classifier, adapted.held, facts)
