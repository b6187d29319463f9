"""The claim `ball`: every image within the radius gets the label from the deployed classifier. The steps, in order."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from abscert_plugin.errors import ConfigError, VerifierError
from abscert_plugin.lirpa.bounds import BoundMemoryError, BoundMethod
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.records import SCHEMA_VERSION, Record
from abscert_plugin.verification.attack import Candidates, gradient_attack, score_attack
from abscert_plugin.verification.branch_and_bound import BranchAndBound
from abscert_plugin.verification.cell import read_logits
from abscert_plugin.verification.decision import ITSELF, Decided
from abscert_plugin.verification.deployed import DeployedCells, Part, undecided
from abscert_plugin.verification.exhaustive import enumerate_cells
from abscert_plugin.verification.reach import Ball, Reach
from abscert_plugin.verification.verdict import Claim, Verdict

_FORWARD: Final = "forward"
_BOUND_METHODS: Final = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN, BoundMethod.OPTIMISED)
_OPTIMISED_COST: Final = 60  # of one CROWN bound: 20 steps forth and back
_LINEAR: Final = (BoundMethod.CROWN_IBP, BoundMethod.CROWN)


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on an image.

    Args:
        seconds: time from which no further step begins; a batch's time is shared equally. 0 leaves the clean forward
            pass alone.
        exhaustive: balls of no more combinations of cells than this are run whole before anything else is tried.
        restarts: starts of the gradient attack.
        queries: forward passes of the black-box attack.
        bounds_at_once: boxes that are bounded in one call.

    Raises:
        ConfigError: if a value has no meaning.
    """

    seconds: float = 10.0
    exhaustive: int = 256
    restarts: int = 2
    queries: int = 100
    bounds_at_once: int = 128

    def __post_init__(self) -> None:
        if not (self.seconds >= 0 and math.isfinite(self.seconds)):
            raise ConfigError(f"expected a time-out of at least 0 seconds, got {self.seconds}")
        for name in ("exhaustive", "restarts", "bounds_at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.queries < 2:
            raise ConfigError(f"expected at least 2 queries, got {self.queries}")


@final
class BallVerifier:
    """Decides images on the claim `ball`.

    Sound: `certified` rests on a bound above the floor, or on running every reachable combination of cells.
    `falsified` rests on an image of the ball that was run through the deployed file and got another label, by more
    than the floor. Complete, given time, but for margins within the floor.

    Args:
        deployed: the deployed classifier.
        white_box: its interval network for gradients and bounds; None leaves running it.
        ball: radius and kind of images.
        budget: what may be spent on an image.

    Source: AbsCert paper, sections 2 and 4.1; design.md section 1.
    """

    def __init__(self, deployed: DeployedCells, white_box: WhiteBox | None, ball: Ball, budget: Budget) -> None:
        self._deployed = deployed
        self._white_box = white_box
        self.ball = ball
        self._budget = budget
        self._pace: dict[BoundMethod, float] = {}  # seconds a box that each method last took

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on."""
        radius = self.ball.radius
        return {
            "claim": Claim.BALL.value,
            "radius": str(radius.given),
            "radius_scale": str(radius.scale),
            "inputs": str(self.ball.inputs),
            "floor": self._deployed.floor,
            "bound_floor": self.bound_floor if self._white_box is not None else None,
            "white_box": self._white_box is not None,
            "timeout_seconds": self._budget.seconds,
            "exhaustive": self._budget.exhaustive,
            "restarts": self._budget.restarts,
            "queries": self._budget.queries,
        }

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of torch and auto_LiRPA."""
        return {"torch": torch.__version__, **({"auto_LiRPA": lirpa_version()} if self._white_box is not None else {})}

    @property
    def floor(self) -> float:
        """What a margin must exceed, or be below 0 by, to decide anything."""
        return self._deployed.floor

    def run(self, images: Float32[np.ndarray, "batch channels height width"]) -> Float32[np.ndarray, "batch classes"]:
        """Return the deployed file's logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails.
        """
        return self._deployed.run(images)

    @property
    def bound_floor(self) -> float:
        """What a bound must exceed: the floor, and twice what onnxruntime and the bounded network were apart."""
        return self._deployed.floor + (2 * self._white_box.difference if self._white_box is not None else 0.0)

    def decide(
        self,
        images: Float32[np.ndarray, "batch channels height width"],
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> list[Decided]:
        """Return the verdicts on a batch of images, in order.

        Args:
            images: pixels on the pixel scale [0, 1].
            labels: classes from 0.
            index: each image's place in its data set.

        Raises:
            GridError: if a pixel is NaN or lies outside [0, 1].
        """
        batch = _Batch(self._deployed, self.ball.reach(self._deployed.metadata.grid, images), labels, index)
        for step in (self._forward, self._exhaustive, self._attack, *self._bounds(), self._search):
            batch.give_up_late(self._budget.seconds)
            rows = batch.open_rows
            if not len(rows):
                break
            start = time.perf_counter()
            try:
                step(batch, rows)
            except VerifierError as error:
                batch.end(rows, Verdict.UNKNOWN, str(error), "none")
            batch.spend(rows, time.perf_counter() - start)
        batch.end(batch.open_rows, Verdict.UNKNOWN, "no step decided it", "none")
        return batch.decided()

    def _forward(self, batch: "_Batch", rows: Int64[np.ndarray, "some"]) -> None:
        answers = read_logits(self._deployed.run(batch.reach.images), batch.labels)
        batch.prediction = answers.prediction
        floor = self._deployed.floor
        for row in rows.tolist():
            margin = float(answers.margin[row])
            batch.margin[row] = margin
            if margin < -floor:
                batch.falsify(row, batch.reach.images[row], "the image itself is mislabelled", _FORWARD)
            elif not margin > floor:
                batch.end([row], Verdict.UNKNOWN, undecided(margin, floor), _FORWARD)
            elif batch.log2_counts[row] == 0:
                batch.end([row], Verdict.CERTIFIED, "the ball lies in the image's own cells", _FORWARD)

    def _exhaustive(self, batch: "_Batch", rows: Int64[np.ndarray, "some"]) -> None:
        for row in rows[batch.log2_counts[rows] <= math.log2(self._budget.exhaustive) + 1e-9]:
            self._enumerate(batch, int(row), self._budget.seconds)

    def _enumerate(self, batch: "_Batch", row: int, seconds: float) -> None:
        reach = batch.reach
        method = "exhaustive"
        found = enumerate_cells(
            self._deployed,
            Part(reach.lowest[row], reach.highest[row], int(batch.labels[row]), seconds),
            lambda cells: batch.refute(row, cells, method),
        )
        if not batch.is_open[row]:
            return
        batch.margin[row] = found.margin
        if found.failure:
            batch.end([row], Verdict.UNKNOWN, found.failure, method)
        else:
            reason = "every reachable combination of cells was run"
            batch.end([row], Verdict.CERTIFIED, reason, method)

    def _attack(self, batch: "_Batch", rows: Int64[np.ndarray, "some"]) -> None:
        reach, labels, index = batch.reach.take(rows), batch.labels[rows], batch.index[rows]
        found: Candidates
        if self._white_box is not None:
            found, method = (
                gradient_attack(self._white_box.network, reach, labels, index, self._budget.restarts),
                "gradient attack",
            )
        else:
            found, method = score_attack(self._deployed, reach, labels, index, self._budget.queries), "score attack"
        for place in np.flatnonzero(found.margins < 0):
            batch.refute(int(rows[place]), found.cells[place], method)

    def _bounds(self) -> list[Callable[["_Batch", Int64[np.ndarray, "some"]], None]]:
        if self._white_box is None:
            return []

        def step(method: BoundMethod) -> Callable[["_Batch", Int64[np.ndarray, "some"]], None]:
            return lambda batch, rows: self._bound(batch, rows, method, self._budget.bounds_at_once)

        return [step(method) for method in _BOUND_METHODS]

    def _bound(self, batch: "_Batch", rows: Int64[np.ndarray, "some"], method: BoundMethod, size: int) -> None:
        assert self._white_box is not None
        if method is BoundMethod.OPTIMISED:
            # its steps each cost about three of CROWN: only where half of the time left suffices, the search is better
            likely = self._pace.get(method, _OPTIMISED_COST * self._pace.get(BoundMethod.CROWN, math.inf))
            rows = rows[likely <= (self._budget.seconds - batch.seconds[rows]) / 2]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            began = time.perf_counter()
            lower, upper = batch.reach.take(part).box()
            try:
                margins = self._white_box.bounder.margins(
                    torch.from_numpy(lower), torch.from_numpy(upper), torch.from_numpy(batch.labels[part]), method
                )
            except BoundMemoryError:
                if size > 1:  # else the next method, or the search, may still decide it
                    self._bound(batch, part, method, max(1, size // 2))
                continue
            except VerifierError:
                continue  # a method that fails leaves the image to the next one
            self._pace[method] = (time.perf_counter() - began) / len(part)
            least = margins.amin(dim=1).cpu().numpy()
            for row, bound in zip(part.tolist(), least, strict=True):
                batch.bounds[row, method] = float(bound)
                if bound > self.bound_floor:
                    batch.margin[row] = float(bound)
                    batch.end([row], Verdict.CERTIFIED, "a lower bound of every margin is above the floor", str(method))

    def _search(self, batch: "_Batch", rows: Int64[np.ndarray, "some"]) -> None:
        if self._white_box is None:
            for row in rows:
                self._enumerate(batch, int(row), self._budget.seconds - batch.seconds[row])
            return
        method = "branch and bound"
        search = BranchAndBound(
            self._white_box.bounder,
            self._deployed,
            self.bound_floor,
            lambda row, cells: batch.refute(row, cells, method),
        )
        reach = batch.reach
        parts = {
            int(row): Part(
                reach.lowest[row], reach.highest[row], int(batch.labels[row]), self._budget.seconds - batch.seconds[row]
            )
            for row in rows
        }
        # the tighter of the two; intervals alone are tighter still on networks that were trained by them
        methods = {row: max(_LINEAR, key=lambda kind: batch.bounds.get((row, kind), -math.inf)) for row in parts}
        for row, result in search.run(parts, methods).items():
            if batch.is_open[row]:
                batch.margin[row] = result.margin
                verdict = Verdict.CERTIFIED if result.certified else Verdict.UNKNOWN
                reason = result.failure or "every branch was bounded or run"
                batch.end([row], verdict, reason, method)


@final
class _Batch:
    """What is known so far of a batch of images."""

    def __init__(
        self,
        deployed: DeployedCells,
        reach: Reach,
        labels: Int64[np.ndarray, "batch"],
        index: Int64[np.ndarray, "batch"],
    ) -> None:
        count = len(reach)
        self._deployed = deployed
        self.reach = reach
        self.labels = labels
        self.index = index
        self.log2_counts = reach.log2_counts
        self.prediction: Int64[np.ndarray, "batch"] = np.full(count, -1, dtype=np.int64)
        self.margin = np.full(count, np.nan)
        self.seconds = np.zeros(count)
        self.bounds: dict[tuple[int, BoundMethod], float] = {}
        self.is_open: Bool[np.ndarray, "batch"] = np.ones(count, dtype=bool)
        self._ends: list[tuple[Verdict, str, str]] = [(Verdict.UNKNOWN, "", "")] * count
        self._counterexamples: dict[int, np.ndarray] = {}

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

    def refute(self, row: int, cells: UInt8[np.ndarray, "channels height width"], method: str) -> bool:
        """Replay an image of the ball in these cells through the deployed file; return whether it is mislabelled."""
        image = self.reach.image_in(row, cells)
        if image is None:
            return False
        margin = float(read_logits(self._deployed.run(image[None]), self.labels[row : row + 1]).margin[0])
        if not margin < -self._deployed.floor:
            return False
        self.margin[row] = margin
        self.falsify(row, image, "an image of the ball is mislabelled", method)
        return True

    def spend(self, rows: Int64[np.ndarray, "some"], seconds: float) -> None:
        """Share time among rows."""
        self.seconds[rows] += seconds / len(rows)

    def give_up_late(self, seconds: float) -> None:
        """End rows whose time is up; none before the forward pass, which every row has."""
        late = self.open_rows[(self.seconds[self.open_rows] >= seconds) & (self.seconds[self.open_rows] > 0)]
        self.end(late, Verdict.UNKNOWN, f"time-out of {seconds:g} s", "none")

    def decided(self) -> list[Decided]:
        """Return rows and counterexamples, in order."""
        return [Decided(self._record(row), self._counterexamples.get(row)) for row in range(len(self.reach))]

    def _record(self, row: int) -> Record:
        verdict, reason, method = self._ends[row]
        counterexample = None
        if row in self._counterexamples:
            counterexample = ITSELF if method == _FORWARD else counterexample_name(int(self.index[row]))
        margin = float(self.margin[row])
        radius = self.reach.ball.radius
        return Record(
            index=int(self.index[row]),
            label=int(self.labels[row]),
            prediction=int(self.prediction[row]),
            claim=Claim.BALL,
            radius=float(radius.given),
            radius_scale=str(radius.scale),
            inputs=str(self.reach.ball.inputs),
            verdict=verdict,
            reason=reason,
            method=method,
            reachable_log2=float(self.log2_counts[row]),
            margin=margin if math.isfinite(margin) else None,
            seconds=round(float(self.seconds[row]), 6),
            counterexample=counterexample,
            schema=SCHEMA_VERSION,
        )


def counterexample_name(index: int) -> str:
    """Return the name of the file, beside the records, that holds an image's counterexample."""
    return f"counterexamples/{index:08d}.npy"
