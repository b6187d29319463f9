"""A question about images: what to decide of each, and how."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from abscert_plugin.claim import PROVABLE, Arithmetic, Claim, Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.verification.query_solvers import from_anywhere

THEN_SECONDS: Final = 60.0
"""What a second solver may take for an image: the larger ones need ten to start."""

_OWN: Final = "abscert"  # `solvers.OWN`, which imports torch
_ASKABLE: Final = (*PROVABLE, Arithmetic.THIS_RUNTIME)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to decide of each image, and how; names as the options of `abscert verify`.

    Args:
        radius: of the ball; None asks for the claim `cell`.
        inputs: images of the ball: `float`, or `uint8` for those of 8 bits alone.
        arithmetic: what verdicts are to hold for; None: any order of the sums where the graph can be read.
        bound: the one bound to decide by; None: all steps.
        timeout: seconds an image (claim `ball`).
        exhaustive: balls of no more combinations of cells are run whole.
        black_box: whether the model is run alone, without gradients and bounds.
        checkpoint: folder of the training whose network serves gradients and bounds; None: the model's own.
        solver: who decides; None: our own verifier.
        batch_size: images that are decided together; by the claim where None.
        then: who is asked about what stays open, see `following.open_follower`; nobody where None.
        then_timeout: seconds an image for that one.
    """

    radius: Radius | None
    inputs: str = "float"
    arithmetic: str | None = None
    bound: str | None = None
    timeout: float = 10.0
    exhaustive: int = 256
    black_box: bool = False
    checkpoint: Path | None = None
    solver: str | None = None
    batch_size: int | None = None
    then: str | None = None
    then_timeout: float = THEN_SECONDS

    @property
    def claim(self) -> Claim:
        """What is decided."""
        return Claim.CELL if self.radius is None else Claim.BALL

    @property
    def other_solver(self) -> str | None:
        """Another package's solver; None for our own verifier, which has a name too."""
        return None if self.solver == _OWN else self.solver

    @property
    def asked_arithmetic(self) -> Arithmetic | None:
        """What verdicts are to hold for.

        Raises:
            ConfigError: if it is nothing that can be asked for.
        """
        if self.arithmetic not in (None, *_ASKABLE):
            raise ConfigError(f"expected --arithmetic any-order, wide-sums or this-runtime, got {self.arithmetic!r}")
        return None if self.arithmetic is None else Arithmetic(self.arithmetic)

    def check(self) -> None:
        """Refuse options that only the claim `ball` has.

        Raises:
            ConfigError: if one is given with the claim `cell`.
        """
        of_balls = {"checkpoint": self.checkpoint, "bound": self.bound, "solver": self.solver, "then": self.then}
        for option, given in of_balls.items():
            if given is not None and self.radius is None:
                raise ConfigError(f"expected --{option} with --claim ball: the claim cell is decided by the file alone")

    def anywhere(self) -> "Question":
        """Return the question as it can be asked from another folder."""
        checkpoint = None if self.checkpoint is None else self.checkpoint.absolute()
        return replace(self, checkpoint=checkpoint, then=None if self.then is None else from_anywhere(self.then))
