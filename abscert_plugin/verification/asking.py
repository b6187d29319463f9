"""Images that another program decides: each is asked about as ONNX and VNN-LIB, and its answer read as a verdict."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.claim import Arithmetic, Claim, QueryVerdict, Verdict
from abscert_plugin.errors import VerifierError
from abscert_plugin.files import read_packed
from abscert_plugin.front import Cells, Images, Point, Reach
from abscert_plugin.records import SCHEMA_VERSION, Record
from abscert_plugin.verification.answers import Answer
from abscert_plugin.verification.decision import Decided, counterexample_name
from abscert_plugin.verification.queries import BoxQuestion, asked_network, version_1, version_2
from abscert_plugin.verification.query_solvers import QuerySolver, Task

_LARGEST: Final = 2**31  # bytes of a packed network
_SAID: Final = {QueryVerdict.UNKNOWN: "it answered unknown", QueryVerdict.TIMED_OUT: "its time was up"}


@final
@dataclass(frozen=True)
class AskedSolver:
    """A `Decider` of the claim `ball` that asks a program about one image after another.

    `certified` is its word `unsat`, where it does not say so too of what the image itself satisfies: a solver that
    misreads a file may find nothing in any box. `falsified` is `sat` with an image of the ball, which nobody has run
    yet (`CheckedSolver` does).

    Args:
        solver: the program.
        artifact: the deployed file.
        ball: radius and kind of images.
        seconds: that it may take for an image.
        network: the file that it is asked about: the deployed one, or the network without cells.
    """

    solver: QuerySolver
    artifact: Artifact
    ball: Ball
    seconds: float
    network: Path

    @classmethod
    def opened(cls, solver: QuerySolver, artifact: Artifact, ball: Ball, seconds: float) -> "AskedSolver":
        """Return it, with the file that it is asked about.

        Raises:
            UnsupportedModelError: if nothing can be asked about the file, see `asked_network`.
        """
        return cls(solver, artifact, ball, seconds, asked_network(artifact).resolve())

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on."""
        return {"program": self.solver.name, "version": self.solver.version, "arithmetic": str(Arithmetic.REAL)}

    @property
    def versions(self) -> Mapping[str, str]:
        """The program's version."""
        return {self.solver.name: self.solver.version}

    def decide(
        self, images: Images, labels: Int64[np.ndarray, "batch"], index: Int64[np.ndarray, "batch"]
    ) -> list[Decided]:
        """Return its verdicts, in order.

        Raises:
            VerifierError: if it fails, gives no answer, names an input that no image of the ball is near, or misreads
                the file.
        """
        reach = self.artifact.front.reach(self.ball, images)
        least = self.artifact.run_images(images).argmin(axis=1)
        rows = zip(labels.tolist(), index.tolist(), least.tolist(), strict=True)
        return [self._decide_one(reach.take(np.array([place])), *row) for place, row in enumerate(rows)]

    def _decide_one(self, reach: Reach, label: int, index: int, least: int) -> Decided:
        lower, upper = reach.front.held_ends(reach.lowest, reach.highest)
        asked = BoxQuestion(index, label, lower[0], upper[0])
        answer = self._answer(asked)
        # of its least likely class the image itself is a counterexample
        if answer.word is QueryVerdict.UNSAT and self._answer(replace(asked, label=least)).word is QueryVerdict.UNSAT:
            raise VerifierError("it answers unsat even to what the image itself satisfies: it misreads the file")
        image = None if answer.point is None else image_at(reach, answer.point.reshape(lower.shape))
        if answer.word is QueryVerdict.SAT and image is None:
            raise VerifierError("it answered sat with an input that is that of no image of the ball")
        verdict = {QueryVerdict.SAT: Verdict.FALSIFIED, QueryVerdict.UNSAT: Verdict.CERTIFIED}.get(
            answer.word, Verdict.UNKNOWN
        )
        reason = _SAID.get(answer.word, f"it answered {answer.word}")
        record = Record(
            index=index,
            label=label,
            prediction=label,  # CheckedSolver runs the image itself
            claim=Claim.BALL,
            radius=float(self.ball.radius.given),
            radius_scale=str(self.ball.radius.scale),
            inputs=str(self.ball.inputs),
            verdict=verdict,
            reason=reason,
            method=self.solver.name,
            reachable_log2=None,
            margin=None,
            seconds=0.0,
            counterexample=None if image is None else counterexample_name(index),
            schema=SCHEMA_VERSION,
        )
        return Decided(record, image)

    def _answer(self, asked: BoxQuestion) -> Answer:
        with tempfile.TemporaryDirectory(prefix="abscert-then-", ignore_cleanup_errors=True) as folder:
            return self.solver.ask(self._task(asked, Path(folder)))

    def _task(self, asked: BoxQuestion, folder: Path) -> Task:
        """Write what is asked into an empty folder."""
        metadata = self.artifact.metadata
        classes, shape = metadata.classes, self.artifact.front.input_shape(metadata.image_shape)
        network = self.network
        if network.suffix == ".gz":  # not every program unpacks it
            network = folder / "network.onnx"
            network.write_bytes(read_packed(self.network, _LARGEST))
        first, second = folder / "query1.vnnlib", folder / "query2.vnnlib"
        first.write_text(version_1(asked, classes))
        second.write_text(version_2(asked, (1, *shape), classes))
        working = folder / "working"
        working.mkdir()
        return Task(network, first, second, working / "results.txt", self.seconds, prod(shape))


def image_at(
    reach: Reach, values: Float64[np.ndarray, "1 *input"]
) -> Float32[np.ndarray, "channels height width"] | None:
    """Return the image of a ball at, or nearest to, an input of the network that is asked about; None without one.

    Args:
        reach: one ball.
        values: the input; of a network with cells, ends of cells or whatever lies between them.
    """
    return reach.image_in(0, _point(reach, values))


def _point(reach: Reach, values: np.ndarray) -> Point:
    front = reach.front
    if isinstance(front, Cells):
        ends = front.grid.training_edges.astype(np.float64)
        channels = values.shape[1] // 2
        sums = values[0, :channels] + values[0, channels:]
        cells = np.searchsorted((ends[:-1] + ends[1:])[1:] - np.diff(ends[:-1] + ends[1:]) / 2, sums)
        return np.clip(cells, reach.lowest[0], reach.highest[0]).astype(front.grid.index_type)
    preprocessing = getattr(front, "preprocessing", None)
    images = values.clip(0, 1).astype(np.float32) if preprocessing is None else preprocessing.images(values)
    point: Point = images[0]
    return point
