"""What files do on the points of a ball, and what the command, the proof, the guard and auto_LiRPA say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

import abscert_plugin
from abscert_plugin.artifact.metadata import IMAGE, INTERVAL, Metadata, write_metadata
from abscert_plugin.artifact.model_file import with_tensors
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.scaling import prepend_scaling
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider, Runner
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.claim import Radius
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.errors import BoundDefectError, UnsupportedModelError
from abscert_plugin.front import Cells, Pixels, Reach
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.guards import guarded
from abscert_plugin.guards.guarded import CERTIFIED, LABEL
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.opening import BallQuestion, open_verifier
from soundness_trials.evaluation import Array, Evaluation, Way

METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)


@dataclass(frozen=True)
class Task:
    """A file, and images whose balls are judged.

    Args:
        path: the file.
        images: stored values.
        levels: the stored value that stands for 1.0.
        labels: the class that the file gives each image.
        radius: of the balls, on the pixel scale.
        targets: for each image, a point that is looked at first.
    """

    path: Path
    images: Array
    levels: int
    labels: Array
    radius: str
    targets: Array

    @property
    def pixels(self) -> Array:
        return (self.images / np.float32(self.levels)).astype(np.float32)

    @property
    def ball(self) -> Ball:
        return Ball(Radius.parse(self.radius))


@dataclass(frozen=True)
class Truth:
    """For each image, whether a point of its ball was seen to be mislabelled: by onnxruntime, or in some order."""

    by_runtime: Array
    in_some_order: Array


def plain_file(model: onnx.ModelProto, shape: tuple[int, int, int], classes: int, path: Path) -> None:
    """Write a model that reads `scaled` as a classifier of plain images."""
    prepend_scaling(model.graph, shape)
    write_metadata(model, Metadata(abscert_plugin.__version__, Pixels(), shape, classes, "trap", "none"))
    onnx.save(model, path)


def some_points(reach: Reach, targets: Array, chance: np.random.Generator, count: int) -> Array:
    """Return points of each ball, [image, point, *shape]: its target, its ends, and corners."""
    lowest, highest = reach.lowest[:, None], reach.highest[:, None]
    corners = np.where(chance.random((len(reach), count, *lowest.shape[2:])) < 0.5, lowest, highest)
    return np.concatenate([targets[:, None], reach.own[:, None], lowest, highest, corners], axis=1)


class Judge:
    """One file, opened.

    Args:
        task: the file and its images.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.artifact = Artifact.open(task.path, Provider.CPU, threads=1)
        self._has_cells = isinstance(self.artifact.front, Cells)
        self._reach = self.artifact.front.reach(task.ball, task.pixels)
        self._graph = read_graph(with_tensors(self.artifact.model, task.path), task.path)
        self._source = INTERVAL if self._has_cells else IMAGE

    def _inputs(self, points: Array) -> Array:
        """Return what a proof's boxes are of; plain images themselves, since a runtime may fold their scaling."""
        return self.artifact.front.network_input(points) if self._has_cells else points

    def truth(self, chance: np.random.Generator, corners: int, ways: int) -> Truth:
        """Return which images were seen to be mislabelled."""
        points = some_points(self._reach, self._task.targets, chance, corners)
        flat = points.reshape(-1, *points.shape[2:])

        def mislabelled(logits: Array) -> Array:
            logits = logits.reshape(*points.shape[:2], -1)
            own = np.take_along_axis(logits, self._task.labels[:, None, None], axis=2)[:, :, 0]
            others = logits.copy()
            np.put_along_axis(others, self._task.labels[:, None, None], -np.inf, axis=2)
            with np.errstate(invalid="ignore"):
                found: Array = (~(own > others.max(axis=2))).any(axis=1)  # NaN is no label
            return found

        by_runtime = mislabelled(self.artifact.run_images(self.artifact.front.images(flat)))
        in_some_order = by_runtime.copy()
        for _ in range(ways):
            values = Evaluation(self._graph, Way(chance)).run(self._source, self._inputs(flat))
            in_some_order |= mislabelled(values[self._graph.output])
        return Truth(by_runtime, in_some_order)

    def proven(self) -> Mapping[str, Array]:
        """Return which images the proof certifies, by each method and by quick intervals."""
        lower, upper = (torch.from_numpy(self._inputs(end)) for end in (self._reach.lowest, self._reach.highest))
        labels, shape = torch.from_numpy(self._task.labels), tuple(lower.shape[1:])
        found = {}
        for name, methods, dtype in (("", METHODS, torch.float64), ("quick ", METHODS[:1], torch.float32)):
            proof = Proof(self._graph, self._source, shape, self.artifact.metadata.classes, dtype)
            for method in methods:
                found[f"{name}{method}"] = _holds(proof.margins(lower, upper, labels, method))
        return found

    def by_guard(self) -> Array:
        """Return which images the guard certifies, of the class that the file gives; none where it has no guard."""
        try:
            made = guarded(self.artifact, [self._task.ball])
        except UnsupportedModelError:
            return np.zeros(len(self._task.labels), dtype=bool)
        runner = Runner(made.model.SerializeToString(), threads=1)
        found = runner.run(self.artifact.front.file_input(self._task.pixels))
        certified: Array = found[CERTIFIED] & (found[LABEL] == self._task.labels)
        return certified

    def by_lirpa(self) -> Mapping[str, Array]:
        """Return which images auto_LiRPA's bounds alone certify; none where it has none of the network."""
        try:
            white_box, front = open_white_box(self.artifact), self.artifact.front
        except UnsupportedModelError:
            return {}
        if white_box.unbounded:
            return {}
        lower, upper = (torch.from_numpy(front.network_input(end)) for end in (self._reach.lowest, self._reach.highest))
        labels = torch.from_numpy(self._task.labels)
        return {str(method): _holds(white_box.bounder.margins(lower, upper, labels, method)) for method in METHODS}

    def by_command(self, seconds: float) -> list[tuple[str, str]]:
        """Return verdict and arithmetic of each image by the functions behind `abscert verify --claim ball`.

        Where a verdict does not tell its arithmetic, it is taken to speak of this runtime. A file that contradicts a
        bound is refused as a whole.
        """
        task, shape = self._task, self._task.images.shape[1:]
        data = DataSet(
            name="trap",
            split=Split.TEST,
            classes=tuple(map(str, range(self.artifact.metadata.classes))),
            shape=(shape[0], shape[1], shape[2]),
            levels=task.levels,
            source=ArraySource(task.images),
            labels=task.labels,
            index=np.arange(len(task.labels)),
            sha256="",
        )
        verifier, _ = open_verifier(BallQuestion(self.artifact, data, task.ball, Budget(seconds=seconds)))
        batch = data.take(np.arange(len(data)))
        try:
            records = [one.record for one in verifier.decide(data.pixels(batch.images), batch.labels, batch.index)]
        except BoundDefectError:
            return [("refused", "")] * len(data)
        return [(str(one.verdict), str(getattr(one, "arithmetic", None) or "this-runtime")) for one in records]


def _holds(bounds: Tensor) -> Array:
    found: Array = (bounds > 0).all(dim=1).numpy()
    return found
