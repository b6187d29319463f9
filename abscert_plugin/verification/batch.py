"""What is known so far of a batch of balls: margins, time, and how each of them ended."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Arithmetic, Claim, Verdict
from abscert_plugin.errors import BoundDefectError, VerifierError
from abscert_plugin.front import Point, Reach
from abscert_plugin.records import FORWARD, SCHEMA_VERSION, Record
from abscert_plugin.verification.decision import ITSELF, Decided, counterexample_name
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import Evidence
from abscert_plugin.verification.logits import read_logits

_CHECKED_POINTS: Final = 16
Rows: TypeAlias = Int64[np.ndarray, "some"]


@final
class BallBatch:
    """A batch of balls that are being decided.

    Args:
        deployed: the file.
        reach: the balls.
        labels: the classes of their centres.
        index: each centre's place in its data set.
        seconds: what may be spent on each of them.
    """

    def __init__(
        self,
        deployed: Deployed,
        reach: Reach,
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
        seconds: float,
    ) -> None:
        count = len(reach)
        self._deployed = deployed
        self._limit = seconds
        self.reach = reach
        self.labels = labels
        self.index = index
        self.log2_counts = reach.log2_counts
        self.prediction: Int64[np.ndarray, "batch"] = np.full(count, -1, dtype=np.int64)
        self.margin = np.full(count, np.nan)
        self.seconds = np.zeros(count)
        self.bounds: dict[tuple[int, BoundMethod], float] = {}
        self.evidence: dict[int, Evidence | None] = {}
        self.is_open: Bool[np.ndarray, "batch"] = np.ones(count, dtype=bool)
        self._ends: list[tuple[Verdict, str, str]] = [(Verdict.UNKNOWN, "", "")] * count
        self._arithmetic: dict[int, Arithmetic] = {}
        self._counterexamples: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.reach)

    @property
    def open_rows(self) -> Rows:
        """The rows that nothing has decided yet."""
        return np.flatnonzero(self.is_open)

    def in_time(self, rows: Rows) -> Int64[np.ndarray, "fewer"]:
        """Return those of some rows that are open, after ending those whose time is up.

        None ends before the forward pass, which every row has.
        """
        late = rows[self.is_open[rows] & (self.seconds[rows] >= self._limit) & (self.seconds[rows] > 0)]
        self.end(late, Verdict.UNKNOWN, f"time-out of {self._limit:g} s", "none")
        return rows[self.is_open[rows]]

    def left(self, rows: Rows) -> float:
        """Return the seconds that some rows have left together."""
        return float((self._limit - self.seconds[rows]).clip(min=0).sum())

    @contextmanager
    def timed(self, rows: Rows) -> Iterator[None]:
        """Share the time of a block among rows, also where it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[rows] += (time.perf_counter() - start) / max(1, len(rows))

    def run(self, steps: Sequence[Callable[[Rows], None]]) -> list[Decided]:
        """Run steps on what is still open, until every row is decided or its time is up; return rows in order.

        A step charges its time to the rows that it is spent on (`timed`).
        """
        for step in steps:
            rows = self.in_time(self.open_rows)
            if not len(rows):
                break
            try:
                step(rows)
            except VerifierError as error:
                self.end(rows[self.is_open[rows]], Verdict.UNKNOWN, str(error), "none")
        self.end(self.in_time(self.open_rows), Verdict.UNKNOWN, "no step decided it", "none")
        return [
            Decided(self._record(row), self._counterexamples.get(row), self.evidence.get(row))
            for row in range(len(self))
        ]

    def end(self, rows: Rows | list[int], verdict: Verdict, reason: str, method: str) -> None:
        """Decide rows."""
        for row in rows:
            self._ends[row] = (verdict, reason, method)
            self.is_open[row] = False

    def certify(
        self,
        bounds: dict[int, float],
        reason: str,
        method: str,
        arithmetic: Arithmetic,
        of_ball_alone: bool = False,
    ) -> None:
        """Decide rows by lower bounds of their margins, after holding them against the file's own.

        A row is left undecided where the file gives no finite logits at one of the points.

        Soundness: a bound that a point of its ball contradicts is a defect of what computed it. Points show defects
        and not their absence, so what is certified rests on the bound.

        Args:
            bounds: of each row, a lower bound of the margin over all that its ball reaches.
            reason: why that certifies them.
            method: what computed it.
            arithmetic: what evaluations of the file it holds for.
            of_ball_alone: whether the bounds are of the images of the ball, and not of the whole box around them.

        Raises:
            BoundDefectError: if the file gives a point of a ball a margin below its bound.
        """
        rows, at_once = list(bounds), max(1, self._deployed.batch_size // _CHECKED_POINTS)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            around = [self._points(row) for row in some]
            if of_ball_alone:
                around = [self._moved_into_ball(row, points) for row, points in zip(some, around, strict=True)]
            points = np.concatenate(around)
            margins = self._deployed.margins(points, np.repeat(self.labels[some], _CHECKED_POINTS))
            for row, least in zip(some, margins.reshape(len(some), -1).min(axis=1).tolist(), strict=True):
                if np.isnan(least):
                    self.end([row], Verdict.UNKNOWN, self._deployed.undecided(least), method)
                    continue
                if least < (bounds[row] if self._deployed.shows_logits else 0.0) - self._deployed.floor:
                    raise BoundDefectError(
                        f"the bound of image {self.index[row]} by {method} is {bounds[row]:.4g}, but the file gives an "
                        f"image of its ball a margin of {least:.4g}: a defect of this bound, so nothing is certified "
                        "by it; please report the model, and go on with another --bound or --solver, or with "
                        "--black-box"
                    )
                self.margin[row] = bounds[row]
                self.affirm(row, reason, method, arithmetic)

    def affirm(self, row: int, reason: str, method: str, arithmetic: Arithmetic) -> None:
        """Certify a row of which everything was run, or a bound was held against points."""
        self._arithmetic[row] = arithmetic
        self.end([row], Verdict.CERTIFIED, reason, method)

    def _points(self, row: int) -> np.ndarray:
        """Return points of a ball, drawn from the image's index: its ends, corners, and points between."""
        low, high = self.reach.lowest[row], self.reach.highest[row]
        share = np.random.default_rng([3, int(self.index[row])]).random((_CHECKED_POINTS, *low.shape))
        corners = _CHECKED_POINTS // 2
        share[:corners] = share[:corners] < 0.5
        share[0], share[1] = 0, 1
        return self.reach.front.between(low, high, share)

    def _moved_into_ball(self, row: int, points: np.ndarray) -> np.ndarray:
        """Return the points of the images of the ball that are nearest to those of points around it."""
        front, ball = self.reach.front, self.reach.ball
        images = front.images(points)
        return front.reach(ball, ball.into(np.broadcast_to(self.reach.images[row], images.shape), images)).own

    def refute(self, row: int, point: Point, method: str) -> bool:
        """Replay an image of the ball at a point through the file; return whether it is mislabelled."""
        image = self.reach.image_in(row, point)
        return image is not None and self.refute_by(row, image, method)

    def refute_by(self, row: int, image: Float32[np.ndarray, "channels height width"], method: str) -> bool:
        """Replay an image of the ball through the file; return whether it is mislabelled.

        An image is mislabelled where its margin is below 0 by more than the floor.
        """
        margin = float(read_logits(self._deployed.run(image[None]), self.labels[row : row + 1]).margin[0])
        if not margin < -self._deployed.floor:
            return False
        self.margin[row] = margin
        self._falsify(row, image, "an image of the ball is mislabelled", method)
        return True

    def forward(self, rows: Rows) -> None:
        """Run the images themselves; decide those that are mislabelled, too close, or all that the ball reaches."""
        floor, alone = self._deployed.floor, self.reach.front.alone
        with self.timed(rows):
            answers = read_logits(self._deployed.run(self.reach.images), self.labels)
            shown = self._shown_alone(answers.margin)
        self.prediction = answers.prediction
        for row, is_point in enumerate(self.reach.is_point):
            margin = float(answers.margin[row])
            self.margin[row] = margin
            if margin < -floor:
                self._falsify(row, self.reach.images[row], "the image itself is mislabelled", FORWARD)
            elif not margin > floor or (is_point and not shown[row]):
                self.end([row], Verdict.UNKNOWN, self._deployed.undecided(margin), FORWARD)
            elif is_point:
                self.affirm(row, alone, FORWARD, self._deployed.arithmetic)

    def _shown_alone(self, margins: Float32[np.ndarray, "batch"]) -> Bool[np.ndarray, "batch"]:
        """Return which balls that reach one point alone are decided by running it."""
        shown: Bool[np.ndarray, "batch"] = np.zeros(len(self), dtype=bool)
        rows = np.flatnonzero(self.reach.is_point)
        shown[rows] = self._deployed.shown(self.reach.own[rows], self.labels[rows], margins[rows])
        return shown

    def _falsify(self, row: int, image: Float32[np.ndarray, "channels height width"], reason: str, method: str) -> None:
        self._counterexamples[int(row)] = image
        self._arithmetic[int(row)] = Arithmetic.THIS_RUNTIME
        self.end([row], Verdict.FALSIFIED, reason, method)

    def _record(self, row: int) -> Record:
        verdict, reason, method = self._ends[row]
        counterexample = None
        if row in self._counterexamples:
            is_right = self.prediction[row] == self.labels[row]
            counterexample = counterexample_name(int(self.index[row])) if is_right else ITSELF
        margin, ball = float(self.margin[row]), self.reach.ball
        return Record(
            index=int(self.index[row]),
            label=int(self.labels[row]),
            prediction=int(self.prediction[row]),
            claim=Claim.BALL,
            radius=float(ball.radius.given),
            radius_scale=str(ball.radius.scale),
            inputs=str(ball.inputs),
            verdict=verdict,
            reason=reason,
            method=method,
            reachable_log2=None if self.log2_counts is None else float(self.log2_counts[row]),
            margin=margin if math.isfinite(margin) else None,
            seconds=round(float(self.seconds[row]), 6),
            counterexample=counterexample,
            arithmetic=self._arithmetic.get(row),
            schema=SCHEMA_VERSION,
        )
