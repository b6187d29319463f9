"""What is known so far of a batch of balls: margins, time, and how each of them ended."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.records import SCHEMA_VERSION, Record
from abscert_plugin.verification.cell import read_logits
from abscert_plugin.verification.decision import ITSELF, Decided
from abscert_plugin.verification.deployed import undecided
from abscert_plugin.verification.reach import Ball

FORWARD: Final = "forward"


class Batch:
    """A batch of balls that are being decided.

    Args:
        run: the deployed file's logits of images on the pixel scale.
        floor: what a margin must exceed, or be below 0 by, to decide anything.
        ball: the ball of the claim.
        images: its centres, on the pixel scale.
        labels: their classes.
        index: each image's place in its data set.
        log2_counts: log2 of the number of interval images that each ball reaches; None where there are no cells.
        reaches_itself: whether a ball holds nothing that the network could tell from its centre.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        floor: float,
        ball: Ball,
        images: Float32[np.ndarray, "batch channels height width"],
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
        log2_counts: Float64[np.ndarray, "batch"] | None,
        reaches_itself: Bool[np.ndarray, "batch"],
    ) -> None:
        count = len(images)
        self._run = run
        self._floor = floor
        self._ball = ball
        self.images = images
        self.labels = labels
        self.index = index
        self.log2_counts = log2_counts
        self.reaches_itself = reaches_itself
        self.prediction: Int64[np.ndarray, "batch"] = np.full(count, -1, dtype=np.int64)
        self.margin = np.full(count, np.nan)
        self.seconds = np.zeros(count)
        self.bounds: dict[tuple[int, BoundMethod], float] = {}
        self.is_open: Bool[np.ndarray, "batch"] = np.ones(count, dtype=bool)
        self._ends: list[tuple[Verdict, str, str]] = [(Verdict.UNKNOWN, "", "")] * count
        self._counterexamples: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def open_rows(self) -> Int64[np.ndarray, "some"]:
        """The rows that nothing has decided yet."""
        return np.flatnonzero(self.is_open)

    def end(self, rows: Int64[np.ndarray, "some"] | list[int], verdict: Verdict, reason: str, method: str) -> None:
        """Decide rows."""
        for row in rows:
            self._ends[row] = (verdict, reason, method)
            self.is_open[row] = False

    def falsify(self, row: int, image: Float32[np.ndarray, "channels height width"], reason: str, method: str) -> None:
        """Decide a row by an image that the deployed file was seen to mislabel."""
        self._counterexamples[int(row)] = image
        self.end([row], Verdict.FALSIFIED, reason, method)

    def replay(self, row: int, image: Float32[np.ndarray, "channels height width"], method: str) -> bool:
        """Run an image of the ball through the file; return whether it is mislabelled by more than the floor."""
        margin = float(read_logits(self._run(image[None]), self.labels[row : row + 1]).margin[0])
        if not margin < -self._floor:
            return False
        self.margin[row] = margin
        self.falsify(row, image, "an image of the ball is mislabelled", method)
        return True

    def forward(self, alone: str) -> None:
        """Run the images themselves; decide those that are mislabelled, too close, or all that the ball has.

        Args:
            alone: the reason to certify an image whose ball reaches nothing but its own cells.
        """
        answers = read_logits(self._run(self.images), self.labels)
        self.prediction = answers.prediction
        for row in range(len(self)):
            margin = float(answers.margin[row])
            self.margin[row] = margin
            if margin < -self._floor:
                self.falsify(row, self.images[row], "the image itself is mislabelled", FORWARD)
            elif not margin > self._floor:
                self.end([row], Verdict.UNKNOWN, undecided(margin, self._floor), FORWARD)
            elif self.reaches_itself[row]:
                self.end([row], Verdict.CERTIFIED, alone, FORWARD)

    def spend(self, rows: Int64[np.ndarray, "some"], seconds: float) -> None:
        """Share time among rows."""
        self.seconds[rows] += seconds / len(rows)

    def give_up_late(self, seconds: float) -> None:
        """End rows whose time is up; none before the forward pass, which every row has."""
        late = self.open_rows[(self.seconds[self.open_rows] >= seconds) & (self.seconds[self.open_rows] > 0)]
        self.end(late, Verdict.UNKNOWN, f"time-out of {seconds:g} s", "none")

    def decided(self) -> list[Decided]:
        """Return rows and counterexamples, in order."""
        return [Decided(self._record(row), self._counterexamples.get(row)) for row in range(len(self))]

    def _record(self, row: int) -> Record:
        verdict, reason, method = self._ends[row]
        counterexample = None
        if row in self._counterexamples:
            counterexample = ITSELF if method == FORWARD else counterexample_name(int(self.index[row]))
        margin = float(self.margin[row])
        radius = self._ball.radius
        return Record(
            index=int(self.index[row]),
            label=int(self.labels[row]),
            prediction=int(self.prediction[row]),
            claim=Claim.BALL,
            radius=float(radius.given),
            radius_scale=str(radius.scale),
            inputs=str(self._ball.inputs),
            verdict=verdict,
            reason=reason,
            method=method,
            reachable_log2=None if self.log2_counts is None else float(self.log2_counts[row]),
            margin=margin if math.isfinite(margin) else None,
            seconds=round(float(self.seconds[row]), 6),
            counterexample=counterexample,
            schema=SCHEMA_VERSION,
        )


def counterexample_name(index: int) -> str:
    """Return the name of the file, beside the records, that holds an image's counterexample."""
    return f"counterexamples/{index:08d}.npy"
