"""CROWN-IBP: one backward pass of linear bounds over interval bounds of the hidden layers, giving way to intervals.

Source: Zhang et al. 2020, "Towards Stable and Efficient Training of Verifiably Robust Neural Networks", section 3.2:
the bound is beta times CROWN-IBP's plus 1 - beta times IBP's; beta falls from 1 to `bounds_end`, kappa (the weight of
the cross-entropy on the image) from 1 to `natural_end`, as the radius rises. The paper ends with beta 0; its code
keeps 1 for CIFAR-10 at 2/255. Where beta is below 1e-5 the backward pass is left out, as in the code. Bounds come
from auto_LiRPA. Loss fusion (Xu et al. 2020) is an option: beta then mixes bounds of the sum of exponentials, as in
auto_LiRPA's examples, and a step costs one backward pass of one row instead of one of classes - 1.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

from abscert_plugin.claim import Radius
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.options import UNIT
from abscert_plugin.training.robust import BoundKind, RobustConfig
from baselines.robust import RobustBaseline


@final
@dataclass(frozen=True)
class CrownIbp(RobustBaseline):
    """CROWN-IBP and its options.

    Args:
        radius: the ball to train for.
        natural_end: kappa at the end, 0 or 0.5 in the paper.
        bounds_end: beta at the end.
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.
        loss_fusion: whether the linear bound is one of the whole cross-entropy.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    natural_end: float = field(default=0.0, metadata=UNIT)
    bounds_end: float = field(default=0.0, metadata=UNIT)
    start: float = field(default=0.05, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)
    loss_fusion: bool = False

    name: ClassVar[str] = "crown-ibp"

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> RobustConfig:
        """Return the options of the objective."""
        return RobustConfig(
            self.radius,
            natural_end=self.natural_end,
            start=self.start,
            ramp=self.ramp,
            regulariser=0.0,
            bounds=BoundKind.CROWN_IBP,
            bounds_end=self.bounds_end,
            loss_fusion=self.loss_fusion,
        )


ENTRY = MethodEntry(
    CrownIbp.name, "linear bounds in the warm-up, then intervals", "Zhang et al. 2020", CrownIbp, step_cost=15.0
)
