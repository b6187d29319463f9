"""An ONNX file of this project, read, checked and loaded: the one place where a file is opened to be run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import onnx
from jaxtyping import Float32, Int64

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import IMAGE, INTERVAL, SCALED, Metadata
from abscert_plugin.artifact.model_file import model_sha256, read_model
from abscert_plugin.artifact.trial import try_in_child
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.errors import DataError, UnsupportedModelError
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.chance import refuse_chance
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.graph.shapes import check_sizes
from abscert_plugin.grid import Grid

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Artifact:
    """An ONNX file that was read, checked and loaded.

    Args:
        path: the file.
        sha256: its checksum, with that of the files that hold its tensors.
        model: its graph, without the tensors that it keeps in other files.
        metadata: what it says of itself, held against its graph; of a file that this project did not make, what was
            found out and told.
        classifier: the file as onnxruntime runs it.
        foreign_input: name of the tensor that a file which this project did not make is fed; None for its own files.
        opening: what a record has to tell of how a file of others was opened; empty for one of this project.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    metadata: Metadata
    classifier: BlackBox
    foreign_input: str | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, provider: Provider, threads: int | None = None, model: onnx.ModelProto | None = None
    ) -> "Artifact":
        """Read, check and load an ONNX file of this project.

        Where it does not tell the sizes of all its tensors, it is run in a process of its own first. Where the graph
        does not show that images of a batch get the logits that they get alone, each is run alone.

        Args:
            path: the file.
            provider: where to run it.
            threads: how many run it; onnxruntime's own choice where None.
            model: what `read_model` gave of the file, where it was read before.

        Raises:
            UnsupportedModelError: if it cannot be read or run, kills onnxruntime, draws random numbers, is in
                training mode, or its graph is not what its metadata say.
            VerifierError: if the provider was asked for and is not there.
        """
        if path.suffix == ".gz":
            raise UnsupportedModelError(f"{path} is a file of this project that was packed; unpack it first")
        model = read_model(path) if model is None else model
        sha256 = model_sha256(path, model)
        refuse_chance(model, path)
        metadata = check_artifact(model, path)
        graph = read_graph(model, path)
        if not check_sizes(graph, model, path):
            shape = tuple(size or 1 for size in graph.input_shape or ())
            try_in_child(path, shape, path)
        obstacle = batch_obstacle(graph, model)
        if obstacle is not None:
            _log.info("%s: images are run one by one, because %s", path, obstacle)
        classifier = BlackBox(path, provider, threads, one_by_one=obstacle is not None)
        return cls(path, sha256, model, metadata, classifier)

    @property
    def front(self) -> Cells | Pixels:
        """What stands between an image and the network."""
        return self.metadata.front

    @property
    def grid(self) -> Grid | None:
        """The cells; None for a classifier of plain images."""
        return self.metadata.grid

    @property
    def cells(self) -> Grid:
        """The cells of a file that has them.

        Raises:
            UnsupportedModelError: if it has none.
        """
        if self.grid is None:
            raise UnsupportedModelError(
                f"{self.path} is a classifier of plain images, without cells: verify it with --claim ball, or put it "
                "under abstraction with `abscert wrap`"
            )
        return self.grid

    @property
    def held(self) -> str:
        """Name of the tensor that every runtime holds, and that proofs are over boxes of."""
        return self.foreign_input or (IMAGE if self.grid is None else INTERVAL)

    @property
    def read(self) -> str:
        """Name of the tensor that the network inside the file reads."""
        return self.foreign_input or (SCALED if self.grid is None else INTERVAL)

    @property
    def told(self) -> str:
        """How a file that this project did not make is read, in a line; empty for its own files."""
        if not self.opening:
            return ""
        low, high = self.opening["input_range"]
        normalised = f", less {self.opening['mean']}, over {self.opening['std']}"
        is_plain = (self.opening["mean"], self.opening["std"]) == ([0.0], [1.0])
        return (
            f"note: {self.path.name} is read as a classifier of others: pixels from {low:g} to {high:g}"
            f"{'' if is_plain else normalised}, in the order {self.opening['layout']}"
        )

    @property
    def takes_images(self) -> bool:
        """Whether it is a deployed classifier: its input is an image, not an interval image."""
        return self.grid is None or self.classifier.input_name == IMAGE

    def run_images(
        self, images: Float32[np.ndarray, "batch channels height width"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Return the logits of images on the pixel scale, by whichever input the file has.

        Raises:
            VerifierError: if the backend fails.
        """
        given = self.front.file_input(images) if self.takes_images else self.cells.interval_image(images)
        return self.classifier.run(given)

    def check_fit(self, shape: tuple[int, ...], labels: Int64[np.ndarray, "batch"]) -> None:
        """Raise unless images of this shape and these labels fit the file.

        Raises:
            DataError: if the images do not have the file's shape, or a label lies outside its classes.
            UnsupportedModelError: if the file has fewer than two classes.
        """
        if self.metadata.classes < 2:
            raise UnsupportedModelError(f"expected a classifier of at least 2 classes, got {self.metadata.classes}")
        if shape != self.metadata.image_shape:
            raise DataError(f"expected images of shape {self.metadata.image_shape}, got {shape}; choose other --data")
        outside = (labels < 0) | (labels >= self.metadata.classes)
        if outside.any():
            raise DataError(
                f"expected labels from 0 to {self.metadata.classes - 1}, got {labels[outside][0]}; choose other --data"
            )
