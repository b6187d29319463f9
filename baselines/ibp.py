"""IBP: cross-entropy on interval bounds of the margins, mixed with cross-entropy on the image.

Source: Gowal et al. 2018, "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models",
equations 7 to 13: the last layer is merged with the margins, kappa falls from 1 to 0.5 and the radius rises, both
linearly. With `fast`, Shi et al. 2021, "Fast Certified Robust Training with Short Warmup": their weights, regulariser
(equations 8 to 11), smoothed rise and kappa of 0. Their code clips gradients at 10 and so do we; its rate falls in
steps, ours by the cosine that all methods here share. Interval arithmetic is that of
`abscert_plugin.bounds.intervals`.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

from abscert_plugin.claim import Radius
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.options import UNIT
from abscert_plugin.training.robust import Initialisation, RobustConfig
from baselines.robust import RobustBaseline


@final
@dataclass(frozen=True)
class Ibp(RobustBaseline):
    """IBP and its options.

    Args:
        radius: the ball to train for.
        fast: Shi et al.'s weights, regulariser and schedule, instead of Gowal et al.'s.
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    fast: bool = True
    start: float = field(default=0.02, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)

    name: ClassVar[str] = "ibp"

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> RobustConfig:
        """Return the options of the objective."""
        return RobustConfig(
            self.radius,
            natural_start=0.0 if self.fast else 1.0,
            natural_end=0.0 if self.fast else 0.5,
            start=self.start,
            ramp=self.ramp,
            smooth=self.fast,
            regulariser=0.5 if self.fast else 0.0,
            initialisation=Initialisation.IBP if self.fast else Initialisation.XAVIER,
        )


ENTRY = MethodEntry(
    Ibp.name, "cross-entropy of interval bounds", "Gowal et al. 2018; Shi et al. 2021", Ibp, step_cost=3.3
)
