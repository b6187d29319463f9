"""The claim `ball` for classifiers of plain images: attack, bounds, and branch and bound on ReLU."""

from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float32, Int64

from abscert_plugin.artifact.metadata import IMAGE, PlainMetadata
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.claim import Claim, Verdict
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.grid import check_pixels
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.verification.batch import Batch
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import PROBES, observed_floor
from abscert_plugin.verification.pgd import pgd
from abscert_plugin.verification.reach import Ball
from abscert_plugin.verification.relu_search import Problem, ReluSearch
from abscert_plugin.verification.steps import Bounding, Budget, Step, run_steps

_SEARCH: Final = "branch and bound"
_NO_NETWORK: Final = "the network could not be opened, and running a plain classifier alone certifies nothing"


@final
class PlainBallVerifier:
    """Decides images on the claim `ball`, for a file that takes plain images.

    Sound: `certified` rests on a bound above the floor over a box that holds the ball. `falsified` rests on an image of
    the ball that was run through the file and got another label, by more than the floor. Not complete: what neither
    attack nor branch and bound decides is `unknown`.

    Args:
        classifier: the file, with the input `image`.
        metadata: what it says of itself.
        white_box: its network, on the training scale; None leaves the clean prediction alone.
        ball: radius and kind of images.
        budget: what may be spent on an image.

    Raises:
        UnsupportedModelError: if the file takes something else than images.
        VerifierError: if the file does not run.
    """

    def __init__(
        self, classifier: BlackBox, metadata: PlainMetadata, white_box: WhiteBox | None, ball: Ball, budget: Budget
    ) -> None:
        if classifier.input_name != IMAGE:
            raise UnsupportedModelError(f"expected the input `{IMAGE}`, got `{classifier.input_name}`")
        self._classifier = classifier
        self._classes = metadata.classes
        self._white_box = white_box
        self.ball = ball
        self._budget = budget
        probes = np.random.default_rng(0).random((PROBES, *metadata.image_shape), dtype=np.float32)
        self.floor = observed_floor(self.run, probes)
        # twice what onnxruntime and the bounded network were apart, since a margin is a difference of two logits
        self.bound_floor = self.floor + (2 * white_box.difference if white_box is not None else 0.0)
        self._bounding = Bounding(white_box.bounder, self.bound_floor, budget) if white_box is not None else None

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on."""
        return {
            "claim": Claim.BALL.value,
            **self.ball.radius.as_options(),
            "inputs": str(self.ball.inputs),
            "floor": self.floor,
            "bound_floor": self.bound_floor if self._white_box is not None else None,
            "white_box": self._white_box is not None,
            "timeout_seconds": self._budget.seconds,
            "restarts": self._budget.restarts,
            **self._budget.chosen,
        }

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of torch and auto_LiRPA."""
        return {"torch": torch.__version__, **({"auto_LiRPA": lirpa_version()} if self._white_box is not None else {})}

    def run(self, images: Float32[np.ndarray, "batch channels height width"]) -> Float32[np.ndarray, "batch classes"]:
        """Return the file's logits of images on the pixel scale.

        Raises:
            VerifierError: if the backend fails.
        """
        logits = self._classifier.run(images)
        if logits.shape[1] != self._classes:
            raise VerifierError(f"expected {self._classes} logits, got {logits.shape[1]}")
        return logits

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
        check_pixels(images)
        low, high = self.ball.ends(images)
        # the file computes 2 x - 1 in float32, which is monotone: what it makes of the ball lies between these
        lower, upper = 2 * low - 1, 2 * high - 1
        is_point = (low == high).reshape(len(images), -1).all(axis=1)
        batch = Batch(self.run, self.floor, self.ball, images, labels, index, None, is_point)
        steps: list[Step] = [lambda _: batch.forward("the ball holds the image alone")]
        if self._bounding is None:
            steps.append(lambda rows: batch.end(rows, Verdict.UNKNOWN, _NO_NETWORK, "none"))
        elif self._budget.only is not None:
            steps += self._bounding.steps(batch, lambda rows: (lower[rows], upper[rows]))
        else:
            # intervals first: they cost less than the attack, and neither can contradict the other
            intervals, *tighter = self._bounding.steps(batch, lambda rows: (lower[rows], upper[rows]))
            steps += [intervals, lambda rows: self._attack(batch, rows), *tighter]
            steps.append(lambda rows: self._search(batch, rows, lower, upper))
        run_steps(batch, steps, self._budget.seconds)
        return batch.decided()

    def _attack(self, batch: Batch, rows: Int64[np.ndarray, "some"]) -> None:
        assert self._white_box is not None
        found, margins = pgd(
            self._white_box.network,
            self.ball,
            batch.images[rows],
            batch.labels[rows],
            batch.index[rows],
            self._budget.restarts,
        )
        for place in np.flatnonzero(margins < 0):
            self._refute(batch, int(rows[place]), found[place], "gradient attack")

    def _search(self, batch: Batch, rows: Int64[np.ndarray, "some"], lower: np.ndarray, upper: np.ndarray) -> None:
        assert self._white_box is not None
        search = ReluSearch(
            self._white_box.bounder,
            self.bound_floor,
            lambda row, image: self._refute(batch, row, (image + 1) / 2, _SEARCH),
        )
        problems = {
            int(row): Problem(lower[row], upper[row], int(batch.labels[row]), self._budget.seconds - batch.seconds[row])
            for row in rows
        }
        for row, outcome in search.run(problems).items():
            if batch.is_open[row]:
                batch.margin[row] = outcome.margin
                verdict = Verdict.CERTIFIED if outcome.certified else Verdict.UNKNOWN
                batch.end([row], verdict, outcome.failure or "every branch was bounded", _SEARCH)

    def _refute(self, batch: Batch, row: int, image: Float32[np.ndarray, "channels height width"], method: str) -> bool:
        """Move an image into the ball, and run it through the file; return whether it is mislabelled."""
        center = batch.images[row]
        moved = self.ball.into(center, image)
        return self.ball.contains(center, moved) and batch.replay(row, moved, method)
