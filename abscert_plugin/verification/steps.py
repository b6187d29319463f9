"""Steps that decide balls one after the other, and the step that bounds them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Int64

from abscert_plugin.bounds.bounder import BoundMemoryError, BoundMethod
from abscert_plugin.claim import Verdict
from abscert_plugin.errors import ConfigError, VerifierError
from abscert_plugin.lirpa.bounds import Bounder
from abscert_plugin.verification.batch import Batch

Step: TypeAlias = Callable[[Int64[np.ndarray, "some"]], None]
"""Decides some rows of a batch, or leaves them open."""
Boxes: TypeAlias = Callable[[Int64[np.ndarray, "some"]], tuple[np.ndarray, np.ndarray]]
"""The ends of the boxes that some rows of a batch are bounded over."""
_BOUND_METHODS: Final = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN, BoundMethod.OPTIMISED)
_OPTIMISED_COST: Final = 60  # of one CROWN bound: 20 steps forth and back


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
        only: the one bound that may be computed, once, besides a forward pass: what papers report of a method. None:
            every step.

    Raises:
        ConfigError: if a value has no meaning.
    """

    seconds: float = 10.0
    exhaustive: int = 256
    restarts: int = 2
    queries: int = 100
    bounds_at_once: int = 128
    only: BoundMethod | None = None

    def __post_init__(self) -> None:
        if not (self.seconds >= 0 and math.isfinite(self.seconds)):
            raise ConfigError(f"expected a time-out of at least 0 seconds, got {self.seconds}")
        for name in ("exhaustive", "restarts", "bounds_at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.queries < 2:
            raise ConfigError(f"expected at least 2 queries, got {self.queries}")

    @property
    def chosen(self) -> Mapping[str, str]:
        """What run.json says of `only`: nothing where every step may be taken."""
        return {} if self.only is None else {"bound": str(self.only)}


def run_steps(batch: Batch, steps: Sequence[Step], seconds: float) -> None:
    """Run steps on what is still open, until every row is decided or its time is up."""
    for step in steps:
        batch.give_up_late(seconds)
        rows = batch.open_rows
        if not len(rows):
            break
        start = time.perf_counter()
        try:
            step(rows)
        except VerifierError as error:
            batch.end(rows[batch.is_open[rows]], Verdict.UNKNOWN, str(error), "none")
        batch.spend(rows, time.perf_counter() - start)
    batch.end(batch.open_rows, Verdict.UNKNOWN, "no step decided it", "none")


@final
class Bounding:
    """Bounds from fast and loose to slow and tight, on boxes that cover the balls.

    Args:
        bounder: bounds the network.
        floor: what a bound must exceed.
        budget: what may be spent on an image.
    """

    def __init__(self, bounder: Bounder, floor: float, budget: Budget) -> None:
        self._bounder = bounder
        self._floor = floor
        self._budget = budget
        self._pace: dict[BoundMethod, float] = {}  # seconds a box that each method last took

    def steps(self, batch: Batch, boxes: Boxes) -> list[Step]:
        """Return one step for each method.

        Soundness: a row is certified where the bounds of all its margins over its box are above the floor.
        """

        def step(method: BoundMethod) -> Step:
            return lambda rows: self._bound(batch, boxes, rows, method, self._budget.bounds_at_once)

        only = self._budget.only
        if only is None:
            return [step(method) for method in _BOUND_METHODS]
        # CROWN-LBP has planes in all pixels for every neuron: more boxes at once take longer, for memory alone
        size = 1 if only is BoundMethod.CROWN_LBP else self._budget.bounds_at_once
        reason = f"no lower bound by {only} is above the floor"
        return [
            lambda rows: self._bound(batch, boxes, rows, only, size),
            lambda rows: batch.end(rows, Verdict.UNKNOWN, reason, str(only)),
        ]

    def _bound(
        self, batch: Batch, boxes: Boxes, rows: Int64[np.ndarray, "some"], method: BoundMethod, size: int
    ) -> None:
        if method is BoundMethod.OPTIMISED and self._budget.only is None:
            # its steps each cost about three of CROWN: only where half of the time left suffices, the search is better
            likely = self._pace.get(method, _OPTIMISED_COST * self._pace.get(BoundMethod.CROWN, math.inf))
            rows = rows[likely <= (self._budget.seconds - batch.seconds[rows]) / 2]
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            began = time.perf_counter()
            lower, upper = boxes(part)
            try:
                margins = self._bounder.margins(
                    torch.from_numpy(lower), torch.from_numpy(upper), torch.from_numpy(batch.labels[part]), method
                )
            except BoundMemoryError:
                if size > 1:  # else the next method, or the search, may still decide it
                    self._bound(batch, boxes, part, method, max(1, size // 2))
                continue
            except VerifierError:
                continue  # a method that fails leaves the image to the next one
            self._pace[method] = (time.perf_counter() - began) / len(part)
            least = margins.amin(dim=1).cpu().numpy()
            for row, bound in zip(part.tolist(), least, strict=True):
                batch.bounds[row, method] = float(bound)
                if bound > self._floor or self._budget.only is not None:
                    batch.margin[row] = float(bound)
                if bound > self._floor:
                    batch.end([row], Verdict.CERTIFIED, "a lower bound of every margin is above the floor", str(method))
