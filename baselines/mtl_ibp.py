"""MTL-IBP: the interval loss mixed with the cross-entropy on an adversarial image.

Source: De Palma et al. 2024, "Expressive Losses for Verified Robustness via Convex Combinations", section 4: alpha
times the interval loss plus 1 - alpha times the adversarial one (alpha 0.02 at MNIST 0.1, 0.5 at MNIST 0.3). Weights,
regulariser and rise are Shi et al.'s, as in the paper.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

from abscert_plugin.claim import Radius
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.options import POSITIVE, UNIT
from abscert_plugin.training.robust import Initialisation, RobustConfig, RobustLoss
from baselines.robust import RobustBaseline


@final
@dataclass(frozen=True)
class MtlIbp(RobustBaseline):
    """MTL-IBP and its options.

    Args:
        radius: the ball to train for.
        share: weight of the interval loss (alpha).
        attack_steps: gradient steps that look for the adversarial image.
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    share: float = field(default=0.5, metadata=UNIT)
    attack_steps: int = field(default=3, metadata=POSITIVE)
    start: float = field(default=0.02, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)

    name: ClassVar[str] = "mtl-ibp"

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> RobustConfig:
        """Return the options of the objective."""
        return RobustConfig(
            self.radius,
            loss=RobustLoss.MTL_IBP,
            share=self.share,
            natural_start=0.0,
            start=self.start,
            ramp=self.ramp,
            smooth=True,
            attack_steps=self.attack_steps,
            initialisation=Initialisation.IBP,
        )


ENTRY = MethodEntry(
    MtlIbp.name, "interval loss mixed with an attack's loss", "De Palma et al. 2024", MtlIbp, step_cost=6.5
)
