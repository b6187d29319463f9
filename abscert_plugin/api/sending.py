"""A question about images to an opened model, as it is sent to workers: all that one needs to open the same decider."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np

from abscert_plugin.api.question import Question
from abscert_plugin.artifact.model_file import external_locations
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import DataSet, Split
from abscert_plugin.engines.job import Engine
from abscert_plugin.errors import DataError, UnsupportedModelError
from abscert_plugin.verification.elsewhere import Elsewhere, SentArray

_OPENS: Final = "abscert_plugin.api.deciding:open_decider"


@final
class SentModel(msgspec.Struct, frozen=True):
    """A model's file, with those that hold its tensors, and how it was opened.

    Args:
        name: of the model's file.
        files: each content by the path from the model's folder.
        provider: where it runs.
        opening: how a file of others was opened; empty for one of this project.
        classes: how many it has.
    """

    name: str
    files: Mapping[str, bytes]
    provider: Provider
    opening: Mapping[str, Any]
    classes: int


@final
class SentData(msgspec.Struct, frozen=True):
    """A data set without its images, which come batch by batch."""

    name: str
    split: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    levels: int
    labels: SentArray
    index: SentArray
    sha256: str

    def opened(self) -> DataSet:
        """Return the data set; its images cannot be read."""
        labels, index = self.labels.array(), self.index.array()
        shown = (self.name, self.split, self.classes, self.shape, self.levels)
        return DataSet(*shown, _NotHere(), labels, index, self.sha256)


@final
class _NotHere:
    """The images of a data set that were not sent."""

    is_resident = False

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Raise.

        Raises:
            DataError: always.
        """
        raise DataError(f"expected images of a batch that was sent, got asked for {len(positions)} of the data set")


@final
class SentQuestion(msgspec.Struct, frozen=True):
    """A question, and the facts of the run that asks it."""

    model: SentModel
    data: SentData
    question: Question
    facts: Mapping[str, Any]


_decoder: Final = msgspec.msgpack.Decoder(SentQuestion, dec_hook=lambda kind, value: kind(value))


def received(shared: bytes) -> SentQuestion:
    """Return what was sent."""
    return _decoder.decode(shared)


def elsewhere(engine: Engine, artifact: Artifact, data: DataSet, question: Question) -> Elsewhere:
    """Return how an engine's workers decide a question about images to a model.

    Args:
        engine: the engine.
        artifact: the model.
        data: the images.
        question: what is decided of each, and how.
    """

    def shared(facts: Mapping[str, Any]) -> bytes:
        shown = (data.name, data.split, data.classes, data.shape, data.levels)
        sent = SentData(*shown, SentArray.of(data.labels), SentArray.of(data.index), data.sha256)
        asked = SentQuestion(_model(artifact), sent, question.anywhere(), facts)
        return msgspec.msgpack.encode(asked, enc_hook=_text)

    return Elsewhere(engine, _OPENS, shared)


def _model(artifact: Artifact) -> SentModel:
    folder, name = artifact.path.parent, artifact.path.name
    try:
        files = {part: (folder / part).read_bytes() for part in (name, *external_locations(artifact.model))}
    except OSError as error:
        raise UnsupportedModelError(f"cannot read {artifact.path}: {error.strerror}") from error
    classifier = artifact.classifier
    return SentModel(name, files, classifier.chosen, artifact.opening, artifact.metadata.classes)


def _text(value: Any) -> str:
    """Return a number or path as it is sent."""
    if isinstance(value, Fraction | Path):
        return str(value)
    raise TypeError(f"expected a value that can be sent, got {type(value).__name__}")
