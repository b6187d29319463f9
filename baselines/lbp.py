"""LBP: CROWN-IBP on networks whose ParamRamp activations bend back at a point that is learnt.

Source: Lyu et al. 2021, "Towards Evaluating and Training Verifiably Robust Neural Networks" (CVPR 2021), section 5
(ParamRamp) and its experiments: ParamRamp with eta from 0.01 to 0, trained with CROWN-IBP, kappa from 1 to 0.5, is
their best. Where their released code says more than the paper, or something else, we follow the code:

- For its first 10 of 200 epochs the activation is a leaky ReLU of slope eta. Then each bend point is set to the mean
  of the neuron's activations over the clean training images, negative ones included, and is trained from there
  (`bend_at`). The code runs the whole training set once more for that mean; we add it up in the last epoch before.
- eta goes to `eta_end` during epochs 70 to 140 of 200, slowly at first (`Ramp`, smoothed); in the code it changes once
  an epoch, here at every step.
- Bend points are kept at 1e-4 or above.
- The lower line of a neuron of either sign is adaptive, as in CROWN (`abscert_plugin.lirpa.param_ramp`).
- The paper's name is that of a bound for evaluation: LBP, and CROWN-LBP (`abscert_plugin.bounds.forward`;
  `abscert baseline certify --bound crown-lbp`). Training uses CROWN-IBP's, and so does the code's. The validation
  error is that of intervals, with which training ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from abscert_plugin.bounds.intervals import frozen_statistics
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation
from abscert_plugin.networks.param_ramp import ETA, ParamRamp, collecting, ramps_of
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.options import UNIT, check_ranges
from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustObjective
from abscert_plugin.training.schedule import Ramp
from baselines.pixels import PixelBalls

_ETA_COURSE: Final = Ramp(0.35, 0.35, smooth=True)  # epochs 70 to 140 of 200


@final
@dataclass(frozen=True)
class Lbp:
    """ParamRamp trained with CROWN-IBP, and its options.

    Args:
        radius: the ball to train for.
        eta: slope of both ends of the activation at first.
        eta_end: that slope at the end.
        bend_at: share of the epochs after which the right bend begins.
        natural_end: weight of the cross-entropy on the image itself at the end (kappa).
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    eta: float = field(default=ETA, metadata=UNIT)
    eta_end: float = field(default=0.0, metadata=UNIT)
    bend_at: float = field(default=0.05, metadata=UNIT)
    natural_end: float = field(default=0.5, metadata=UNIT)
    start: float = field(default=0.05, metadata=UNIT)
    ramp: float = field(default=0.25, metadata=UNIT)

    name: ClassVar[str] = "lbp"
    claim: ClassVar[str] = RobustObjective.claim
    takes_intervals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.config()
        check_ranges(self)

    def config(self) -> RobustConfig:
        """Return the options of the loss."""
        return RobustConfig(
            self.radius,
            natural_end=self.natural_end,
            start=self.start,
            ramp=self.ramp,
            regulariser=0.0,
            bounds=BoundKind.CROWN_IBP,
        )

    def prepare(self, network: nn.Module) -> None:
        """Give the activations their first slope.

        Raises:
            ConfigError: if the network has no ParamRamp.
            UnsupportedModelError: if it has BatchNorm layers.
        """
        self.config().prepare(network)
        for layer in _ramps(network):
            layer.set_eta(self.eta)

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective for plain images of these levels."""
        return _RampedObjective(self, PixelBalls(levels))

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        own = {"eta": self.eta, "eta_end": self.eta_end, "bend_at": self.bend_at}
        return {**self.config().describe(), **own}


@final
class _RampedObjective:
    """`RobustObjective`, and what happens to the activations meanwhile.

    Args:
        options: the method's.
        balls: plain images and their balls.
    """

    name: Final = Lbp.name
    claim: Final = Lbp.claim

    def __init__(self, options: Lbp, balls: PixelBalls) -> None:
        self._options = options
        self._balls = balls
        self._robust = RobustObjective(self.name, balls, options.config())

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return the stored images."""
        return self._robust.encode(images)

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,
    ) -> Float[Tensor, ""]:
        """Return the loss of CROWN-IBP, after the activations have been given the form of this moment.

        Raises:
            ConfigError: if the network has no ParamRamp, or a layer that its bounds are not written for.
        """
        ramps = _ramps(network)
        eta = self._options.eta + (self._options.eta_end - self._options.eta) * _ETA_COURSE.progress(moment)
        for layer in ramps:
            layer.set_eta(eta)
            layer.raise_bend_points()
        self._bend(network, ramps, inputs, moment)
        return self._robust.loss(network, inputs, labels, moment)

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each image's margin over the whole ball, by interval arithmetic."""
        return self._robust.margins(network, inputs, labels)

    def _bend(self, network: nn.Module, ramps: list[ParamRamp], images: Tensor, moment: Moment) -> None:
        """Collect in the epoch before the bend, or from the first batch if it is to begin at once; then begin it."""
        first = round(self._options.bend_at * moment.epochs * moment.steps_per_epoch)
        straight = [layer for layer in ramps if not layer.is_bent]
        if not straight or moment.step < first - moment.steps_per_epoch:
            return
        if moment.step < first or not first:
            with torch.no_grad(), frozen_statistics(network), collecting(network):
                network(self._balls.center(images))
        if moment.step >= first:
            for layer in straight:
                layer.begin_bend()


def _ramps(network: nn.Module) -> list[ParamRamp]:
    ramps = ramps_of(network)
    if not ramps:
        raise ConfigError("lbp trains networks of ParamRamp activations, got one without; use --activation param-ramp")
    return ramps


ENTRY = MethodEntry(
    Lbp.name,
    "CROWN-IBP on activations that bend back",
    "Lyu et al. 2021",
    Lbp,
    activation=Activation.PARAM_RAMP,
    step_cost=12.0,
)
