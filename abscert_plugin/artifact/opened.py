"""An ONNX file of this project, read, checked and loaded: the one place where a file is opened to be run."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import onnx
from jaxtyping import Float32, Int64

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import IMAGE, Metadata
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
        metadata: what it says of itself, held against its graph.
        classifier: the file as onnxruntime runs it.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    metadata: Metadata
    classifier: BlackBox

    @classmethod
    def open(cls, path: Path, provider: Provider, threads: int | None = None) -> "Artifact":
        """Read, check and load an ONNX file of this project.

        Where it does not tell the sizes of all its tensors, it is run in a process of its own first. Where the graph
        does not show that images of a batch get the logits that they get alone, each is run alone.

        Raises:
            UnsupportedModelError: if it cannot be read or run, kills onnxruntime, draws random numbers, is in
                training mode, or its graph is not what its metadata say.
            VerifierError: if the provider was asked for and is not there.
        """
        model = read_model(path)
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

    def run_images(
        self, images: Float32[np.ndarray, "batch channels height width"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Return the logits of images on the pixel scale, by whichever input the file has.

        Raises:
            VerifierError: if the backend fails.
        """
        is_deployed = self.classifier.input_name == IMAGE
        return self.classifier.run(images if is_deployed else self.cells.interval_image(images))

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
