"""SABR: interval bounds over a small box around an adversarial image inside the ball.

Source: Mueller et al. 2023, "Certified Training: Small Boxes are All You Need", section 3: the box has the share
lambda of the radius, its centre is moved so that it stays in the ball. Weights, regulariser and rise are Shi et
al.'s, as in the paper. The code attacks with 8 steps; `attack_steps` says how many are made here.
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
class Sabr(RobustBaseline):
    """SABR and its options.

    Args:
        radius: the ball to train for.
        share: size of the small box as a share of the ball's (lambda).
        attack_steps: gradient steps that look for the adversarial image.
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    share: float = field(default=0.4, metadata=UNIT)
    attack_steps: int = field(default=8, metadata=POSITIVE)
    start: float = field(default=0.02, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)

    name: ClassVar[str] = "sabr"

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> RobustConfig:
        """Return the options of the objective."""
        return RobustConfig(
            self.radius,
            loss=RobustLoss.SABR,
            share=self.share,
            natural_start=0.0,
            start=self.start,
            ramp=self.ramp,
            smooth=True,
            attack_steps=self.attack_steps,
            initialisation=Initialisation.IBP,
        )


ENTRY = MethodEntry(
    Sabr.name, "interval bounds of small boxes round attacks", "Mueller et al. 2023", Sabr, step_cost=8.5
)
