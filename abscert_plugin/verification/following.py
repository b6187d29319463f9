"""A second solver for what the first leaves open: one image at a time, its answers checked, its defects a line each."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import msgspec
import numpy as np
from jaxtyping import Int64

from abscert_plugin.claim import Arithmetic, Verdict
from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.front import Images
from abscert_plugin.records import Record
from abscert_plugin.verification.asking import AskedSolver
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided, Decider
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.opening import BallQuestion
from abscert_plugin.verification.query_solvers import SHIPPED, found_solver
from abscert_plugin.verification.solvers import OWN, SOLVERS, CheckedSolver, checked

METHOD: Final = "then "
"""How the method of a row begins that a second solver has decided; its name and version follow."""

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Followed:
    """Decides images by one solver, and has a second one decide those that it leaves open.

    Sound as the first is, and as `CheckedSolver` is for what the second decides: `falsified` was replayed through the
    deployed file, and `certified` rests on the second solver alone, holds for real numbers, and says so. Whatever goes
    wrong with the second leaves the first's verdict as it is, with a reason, and is said in one line.

    Args:
        first: the verifier.
        then: the second solver, with checks; its name has its version.
        option: how it was named.
        on_fault: told why an answer of the second counts for nothing.
    """

    first: Decider
    then: CheckedSolver
    option: str
    on_fault: Callable[[str], object]

    @property
    def configuration(self) -> Mapping[str, Any]:
        """What a verdict depends on: what the first says, and who follows."""
        follower = {
            **self.then.options,
            "solver": self.then.name,
            "option": self.option,
            "arithmetic": str(Arithmetic.REAL),
            "timeout_seconds": self.then.budget.seconds,
        }
        return {**self.first.configuration, "then": follower}

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the libraries of both."""
        return {**self.then.versions, **self.first.versions}

    def decide(
        self, images: Images, labels: Int64[np.ndarray, "batch"], index: Int64[np.ndarray, "batch"]
    ) -> list[Decided]:
        """Return the verdicts on a batch of images, in order.

        Raises:
            AbscertError: as the first solver does.
        """
        decided = list(self.first.decide(images, labels, index))
        for place, item in enumerate(decided):
            if item.record.verdict == Verdict.UNKNOWN:
                one = slice(place, place + 1)
                decided[place] = self._asked(item, images[one], labels[one], index[one])
        return decided

    def _asked(self, item: Decided, *image: Any) -> Decided:
        """Return what the second solver makes of an image that is open."""
        start = time.perf_counter()
        try:
            (found,) = self.then.decide(*image)
        except AbscertError as error:  # a point of the ball contradicts it, or the file does not run
            fault = f"the solver {self.then.name} is wrong: {error}"
            self.on_fault(fault)
            found = Decided(_with(item.record, reason=fault))
        reason, record = item.record.reason, found.record
        seconds = round(item.record.seconds + time.perf_counter() - start, 6)
        if record.verdict == Verdict.UNKNOWN or record.method != self.then.name:
            return Decided(_with(item.record, reason=f"{reason}; {record.reason}", seconds=seconds))
        return Decided(_with(record, method=f"{METHOD}{record.method}", seconds=seconds), found.counterexample)


@final
class Faults:
    """Says each fault of a solver once, in one line; rows have it too."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, fault: str) -> None:
        """Say a fault that was not said yet."""
        if fault not in self._told:
            self._told.add(fault)
            _LOG.warning("note: %s; such answers are not counted", fault)


def open_follower(named: str, seconds: float, first: Decider, asked: BallQuestion) -> Followed:
    """Return a verifier that is followed by a second solver.

    Args:
        named: an entry point of `abscert.solvers`, or what `found_solver` finds.
        seconds: that the second may take for an image.
        first: the verifier.
        asked: what it is asked.

    Raises:
        ConfigError: if it names no solver, the time has no meaning, or the solver cannot be opened.
        UnsupportedModelError: if nothing can be asked about the file.
    """
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"expected --then-timeout above 0 seconds, got {seconds}")
    budget, faults = Budget(seconds=seconds), Faults()
    title, opened = _named(named, asked, budget)
    # of the same arithmetic as the first, so that an image that it alone leaves open stays open
    deployed = Deployed(asked.artifact, asked.arithmetic, asked.choice.black_box)
    then = checked(title, opened, deployed, asked.ball, budget, faults.tell)
    return Followed(first, then, named, faults.tell)


def _named(named: str, asked: BallQuestion, budget: Budget) -> tuple[str, Callable[[], Decider]]:
    """Return a solver's name, with its version where it is a program, and what opens it."""
    if named in SOLVERS and named != OWN:
        entry = SOLVERS.named(named)
        return named, lambda: entry.open(asked.artifact, asked.data, asked.ball, budget)
    found = None if named == OWN else found_solver(named)
    if found is None:
        names = ", ".join([*SHIPPED, *(name for name in SOLVERS if name != OWN)])
        raise ConfigError(
            f"expected --then with one of {names}, a folder that holds run_instance.sh, or a program that takes "
            f"`verify QUERY --network f=MODEL`, got {named!r}"
        )
    return found.title, lambda: AskedSolver.opened(found, asked.artifact, asked.ball, budget.seconds)


def _with(record: Record, **changes: Any) -> Record:
    return msgspec.structs.replace(record, **changes)
