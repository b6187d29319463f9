"""The table of solvers of the claim `ball`: our own verifier, and those of other packages, which are checked."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.claim import Arithmetic, Claim, Verdict
from abscert_plugin.data import DataSet
from abscert_plugin.errors import AbscertError, ConfigError, VerifierError
from abscert_plugin.plugins import Registry
from abscert_plugin.records import Record
from abscert_plugin.verification.batch import BallBatch, Rows
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided, Decider
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.opening import BallQuestion, NetworkChoice, check_inputs, open_verifier

OWN: Final = "abscert"
"""The name of our own verifier."""


@final
@dataclass(frozen=True, slots=True)
class SolverEntry:
    """A row of the table of solvers.

    Args:
        name: what `--solver` takes, and the method that rows of its verdicts name.
        summary: what it does, in one line.
        open: makes what decides the claim `ball` for images of a data set by a file, within a budget.
    """

    name: str
    summary: str
    open: Callable[[Artifact, DataSet, Ball, Budget], Decider]


SOLVERS: Final = Registry(
    SolverEntry,
    (
        SolverEntry(
            OWN,
            "attacks, bounds, and branch and bound; every combination of cells where there are few",
            lambda artifact, data, ball, budget: open_verifier(BallQuestion(artifact, data, ball, budget))[0],
        ),
    ),
    ("abscert.solvers",),
    "solver",
)
"""Every solver by its name; a package adds one through the entry-point group `abscert.solvers`."""


def open_solver(name: str, asked: BallQuestion) -> tuple[Decider, str]:
    """Return what decides the claim `ball` by a solver, and what stays closed to our own; empty where nothing does.

    Raises:
        ConfigError: if there is no such solver, it cannot be opened, or an option is of our own alone.
        UnsupportedModelError: if the file is not a deployed classifier.
        AbscertError: as `open_verifier`, and whatever of these the solver raises.
    """
    entry = SOLVERS.named(name)
    if name == OWN:
        return open_verifier(asked)
    if asked.choice != NetworkChoice() or asked.budget.only is not None or asked.arithmetic is not None:
        raise ConfigError(
            f"expected no --bound, --black-box, --checkpoint or --arithmetic with --solver {name}: they are of {OWN}'s"
        )
    check_inputs(asked.data, asked.ball)
    deployed = Deployed(asked.artifact)

    def opened() -> Decider:
        return entry.open(asked.artifact, asked.data, asked.ball, asked.budget)

    return checked(name, opened, deployed, asked.ball, asked.budget), ""


def checked(
    name: str,
    opened: Callable[[], Decider],
    deployed: Deployed,
    ball: Ball,
    budget: Budget,
    on_fault: Callable[[str], object] = lambda _: None,
) -> "CheckedSolver":
    """Return a solver whose answers are checked.

    Args:
        name: what it is called.
        opened: opens it.
        deployed: the deployed classifier.
        ball: radius and kind of images.
        budget: what may be spent on an image.
        on_fault: told why an answer counts for nothing.

    Raises:
        ConfigError: if it cannot be opened.
        AbscertError: whatever of these it raises.
    """
    try:
        decider = opened()
        # as run.json will hold them, so that a run is gone on with where they are the same
        said = json.dumps([dict(decider.configuration), dict(decider.versions)], allow_nan=False)
        options, versions = json.loads(said)
        return CheckedSolver(name, decider, deployed, ball, budget, options, versions, on_fault)
    except AbscertError:
        raise
    except Exception as error:  # whatever another package's code raises
        raise ConfigError(f"the solver {name} cannot be opened: {_one_line(error)}") from error


@final
@dataclass(frozen=True)
class CheckedSolver:
    """Decides images on the claim `ball` by a solver of another package, and checks what it answers.

    Soundness: the file runs every image first. `falsified` is recorded where exact arithmetic finds the solver's
    counterexample in the ball and the deployed file mislabels it by more than the floor. `certified` rests on the
    solver; it is held against the file at 16 images of the ball, which shows defects and not their absence. An error
    of the solver, and an answer that is no answer to what was asked, leave images `unknown`.

    Args:
        name: the solver's name.
        solver: what it was opened as.
        deployed: the deployed classifier.
        ball: radius and kind of images.
        budget: what may be spent on an image.
        options: what the solver says its verdicts depend on.
        versions: the versions of its libraries.
        on_fault: told why an answer counts for nothing.
    """

    name: str
    solver: Decider
    deployed: Deployed
    ball: Ball
    budget: Budget
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    on_fault: Callable[[str], object] = lambda _: None

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on: what the solver says, and the claim."""
        return {
            **self.options,
            "claim": Claim.BALL.value,
            **self.ball.radius.as_options(),
            "inputs": str(self.ball.inputs),
            "floor": self.deployed.floor,
            "timeout_seconds": self.budget.seconds,
            "solver": self.name,
        }

    def decide(
        self,
        images: Float32[np.ndarray, "batch channels height width"],
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> list[Decided]:
        """Return the verdicts on a batch of images on the pixel scale, in order.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
            BoundDefectError: if the file mislabels an image of a ball that the solver calls certified.
        """
        reach = self.deployed.front.reach(self.ball, images)
        batch = BallBatch(self.deployed, reach, labels, index, self.budget.seconds)
        return batch.run([batch.forward, lambda rows: self._ask(batch, rows)])

    def _ask(self, batch: BallBatch, rows: Rows) -> None:
        """Have the solver decide rows, and decide them where its answers hold."""
        asked = (batch.reach.images[rows], batch.labels[rows], batch.index[rows])  # copies
        try:
            with batch.timed(rows):
                answers = list(self.solver.decide(*asked))
            if len(answers) != len(rows):
                raise ValueError(f"expected {len(rows)} answers, got {len(answers)}")
            faults = [self._fault(batch, *pair) for pair in zip(rows.tolist(), answers, strict=True)]
        except Exception as error:  # noqa: BLE001 - whatever another package's code raises: the images stay unknown
            failure = f"the solver {self.name} failed: {_one_line(error)}"
            self.on_fault(failure)
            batch.end(rows, Verdict.UNKNOWN, failure, self.name)
            return
        certified, unmeasured = {}, []
        for row, answer, fault in zip(rows.tolist(), answers, faults, strict=True):
            record = answer.record
            if not fault and record.verdict == Verdict.FALSIFIED and answer.counterexample is not None:
                if not batch.refute_by(row, answer.counterexample, self.name):
                    fault = "its counterexample is not mislabelled by more than the floor"
            elif not fault and record.verdict == Verdict.CERTIFIED:
                certified[row] = self.deployed.floor if record.margin is None else float(record.margin)
                unmeasured += [row] if record.margin is None else []
            if fault:
                self.on_fault(f"the solver {self.name} is wrong: {fault}")
            if batch.is_open[row] and row not in certified:
                batch.end([row], Verdict.UNKNOWN, fault or str(record.reason), self.name)
        # another solver bounds real numbers, whatever its own rounding does to that
        reason = f"certified by the solver {self.name}"
        batch.certify(certified, reason, self.name, Arithmetic.REAL, of_ball_alone=True)
        batch.margin[unmeasured] = np.nan

    def _fault(self, batch: BallBatch, row: int, answer: Decided) -> str:
        """Return why an answer decides nothing; empty where it may."""
        record, image = answer.record, answer.counterexample
        asked = (int(batch.index[row]), int(batch.labels[row]), Claim.BALL, float(self.ball.radius.given))
        if not isinstance(record, Record) or asked != (record.index, record.label, record.claim, record.radius):
            return "it answered another question"
        if (record.radius_scale, record.inputs) != (self.ball.radius.scale, self.ball.inputs):
            return "it answered for a ball of another scale or other images"
        if record.verdict == Verdict.CERTIFIED:
            floor = self.deployed.floor
            is_within = record.margin is not None and not record.margin > floor
            return f"its bound of {record.margin} is not above the floor of {floor:.3g}" if is_within else ""
        if record.verdict == Verdict.FALSIFIED:
            center = batch.reach.images[row]
            is_image = isinstance(image, np.ndarray) and (image.dtype, image.shape) == (center.dtype, center.shape)
            if image is None or not is_image or not ((image >= 0) & (image <= 1)).all():
                return "its counterexample is no float32 image of the file's shape with pixels from 0 to 1"
            return "" if self.ball.contains(center, image) else "its counterexample lies outside the ball"
        return "" if record.verdict == Verdict.UNKNOWN else f"it answered {record.verdict!r}"


def _one_line(error: Exception) -> str:
    said = str(error) if isinstance(error, VerifierError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:300]
