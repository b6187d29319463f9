"""Training without any certificate: cross-entropy, on images or on attacked images.

Source: the usual baseline; and Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
equation 2.1, for `pgd`: cross-entropy on the images that signed gradient steps from a random start find in the ball.
The steps are of 2.5 radii divided by their number, as their paper's evaluation has it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import frozen_statistics
from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.claim import Radius
from abscert_plugin.draws import drawing_from
from abscert_plugin.grid import Grid
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.options import POSITIVE, UNIT, check_ranges
from abscert_plugin.training.schedule import Ramp
from baselines.pixels import PixelBalls

_EVALUATION_STEPS: Final = 10


@final
@dataclass(frozen=True)
class Plain:
    """Cross-entropy on the images; it has no options."""

    name: ClassVar[str] = "plain"
    claim: ClassVar[str] = "clean"
    takes_intervals: ClassVar[bool] = False

    def prepare(self, network: nn.Module) -> None:
        """Leave the network."""

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective."""
        return _CrossEntropy(levels)

    def describe(self) -> Mapping[str, Any]:
        """Return no options."""
        return {}


@final
@dataclass(frozen=True)
class Pgd:
    """Adversarial training.

    Args:
        radius: the ball that is attacked.
        attack_steps: gradient steps of the attack.
        ramp: share of the epochs in which the radius rises from 0.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    attack_steps: int = field(default=7, metadata=POSITIVE)
    ramp: float = field(default=0.2, metadata=UNIT)
    name: ClassVar[str] = "pgd"
    claim: ClassVar[str] = "attacked"
    takes_intervals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ranges(self)
        Ramp(0.0, self.ramp)

    def prepare(self, network: nn.Module) -> None:
        """Leave the network."""

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective."""
        return _AttackedCrossEntropy(levels, self)

    def describe(self) -> Mapping[str, Any]:
        """Return the options."""
        return {**asdict(self), **self.radius.as_options()}


@final
class _CrossEntropy:
    name: Final = Plain.name
    claim: Final = Plain.claim

    def __init__(self, levels: int) -> None:
        self._balls = PixelBalls(levels)

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return the images on the training scale."""
        return self._balls.center(images)

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,  # noqa: ARG002
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy."""
        return functional.cross_entropy(network(inputs).float(), labels)

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return the margins on the images themselves."""
        return logit_margins(network(inputs).float(), labels)


@final
class _AttackedCrossEntropy:
    name: Final = Pgd.name
    claim: Final = Pgd.claim

    def __init__(self, levels: int, config: Pgd) -> None:
        self._balls = PixelBalls(levels)
        self._config = config
        self._ramp = Ramp(0.0, config.ramp)

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return the stored images."""
        return images

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy on attacked images."""
        box = self._balls.box(inputs, self._ramp.progress(moment) * self._config.radius.outward)
        with frozen_statistics(network):
            attacked = self._balls.adversarial(network, box, labels, self._config.attack_steps)
        return functional.cross_entropy(network(attacked).float(), labels)

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return the margins on attacked images: an attack's, so no bound of the ball's.

        The start is drawn from a seed of its own, so that one network always gets one error.
        """
        box = self._balls.box(inputs, self._config.radius.outward)
        with torch.inference_mode(False), torch.enable_grad(), drawing_from(0, inputs.device):
            copied = labels.clone()
            attacked = self._balls.adversarial(network, box, copied, _EVALUATION_STEPS)
        return logit_margins(network(attacked).float(), labels)


PLAIN = MethodEntry(Plain.name, "cross-entropy on the images", "no certificate", Plain, step_cost=1.0)
PGD = MethodEntry(Pgd.name, "cross-entropy on attacked images", "Madry et al. 2018; no certificate", Pgd, step_cost=6.5)
