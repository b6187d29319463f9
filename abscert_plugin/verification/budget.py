"""What may be spent on an image, and which steps may be taken."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.errors import ConfigError

OF_WHOLE_BALLS: Final = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent on an image.

    Args:
        seconds: time from which no further step begins, and CROWN bounds no further hidden value; the time of a call is
            shared by the images in it. 0 leaves the clean forward pass alone.
        exhaustive: balls of no more combinations of cells than this that intervals leave open are run whole before any
            attack.
        restarts: starts of the cheap gradient attack.
        strong_restarts: starts of the strong one towards each class that bounds leave open.
        queries: forward passes of the black-box attack.
        bounds_at_once: boxes that are bounded in one call.
        only: the one bound that may be computed, once, besides a forward pass: what papers report of a method. None:
            every step.
        bounds: the bounds that are tried before the search; `BallVerifier` has their order.
        attacks: whether counterexamples are looked for before the search.
        leaf: parts of no more combinations of cells than this are run by the search, and not bounded.
        branches_at_once: branches of the search that are bounded in one call.
        search_bytes: memory that branches of the search may take before it goes on depth-first.

    Raises:
        ConfigError: if a value has no meaning.
    """

    seconds: float = 10.0
    exhaustive: int = 256
    restarts: int = 2
    strong_restarts: int = 30
    queries: int = 100
    bounds_at_once: int = 128
    only: BoundMethod | None = None
    bounds: tuple[BoundMethod, ...] = OF_WHOLE_BALLS
    attacks: bool = True
    leaf: int = 64
    branches_at_once: int = 64
    search_bytes: int = 2**28

    def __post_init__(self) -> None:
        if not (self.seconds >= 0 and math.isfinite(self.seconds)):
            raise ConfigError(f"expected a time-out of at least 0 seconds, got {self.seconds}")
        for name in ("exhaustive", "restarts", "strong_restarts", "bounds_at_once", "leaf", "branches_at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.queries < 2:
            raise ConfigError(f"expected at least 2 queries, got {self.queries}")

    def described(self, counts_cells: bool) -> Mapping[str, object]:
        """Return what run.json says of it: of cells also what is run whole, and `bound` where one alone decides.

        What is left out stands at its default in every run of the command line.
        """
        return {
            "timeout_seconds": self.seconds,
            **({"exhaustive": self.exhaustive, "queries": self.queries} if counts_cells else {}),
            "restarts": self.restarts,
            **({} if self.only is None else {"bound": str(self.only)}),
        }
