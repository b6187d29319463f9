"""Sound training for a ball: a loss on the image itself, mixed with one over all that the network sees of the ball."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import (
    Box,
    bounded_layers,
    frozen_statistics,
    initialise_for_intervals,
    interval_margins,
    records_statistics,
    warmup_regulariser,
)
from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.claim import Radius
from abscert_plugin.draws import drawing_from
from abscert_plugin.errors import ConfigError
from abscert_plugin.training.loss_fusion import fused_cross_entropy
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.options import NOT_NEGATIVE, PART, POSITIVE, UNIT, check_ranges
from abscert_plugin.training.schedule import Ramp

if TYPE_CHECKING:
    from abscert_plugin.lirpa.training import CrownIbpMargins


class RobustLoss(StrEnum):
    """How the loss over a ball is made.

    `INTERVAL`: cross-entropy of interval bounds over the whole box (Gowal et al. 2018).
    `MTL_IBP`: that, mixed with cross-entropy on an adversarial input (De Palma et al. 2024).
    `SABR`: interval bounds over a small box around an adversarial input (Mueller et al. 2023).
    """

    INTERVAL = "interval"
    MTL_IBP = "mtl-ibp"
    SABR = "sabr"


class BoundKind(StrEnum):
    """The bounds of the loss: intervals, or CROWN-IBP (auto_LiRPA), which gives way to them as the radius rises."""

    INTERVAL = "interval"
    CROWN_IBP = "crown-ibp"


class Initialisation(StrEnum):
    """How the first weights are drawn: as every network's, or so that intervals keep their size from layer to layer.

    Source of `IBP`: Shi et al. 2021, section 4.1.
    """

    XAVIER = "xavier"
    IBP = "ibp"


class Selection(StrEnum):
    """What an epoch's validation error counts: images that intervals leave open, or those that an attack refutes.

    Where intervals weigh little in the loss they say little of what can be proven. An attack's error is below the true
    one, so it chooses an epoch and is no result.
    """

    INTERVALS = "intervals"
    ATTACK = "attack"


class CellAttack(StrEnum):
    """How `reachable` looks for adversarial inputs among the cells that a ball reaches.

    `ENDS`: each step moves every pixel to its lowest or highest cell, whichever the gradient there says.
    `BETWEEN`: steps are signed gradients between these ends, as if all were reachable, and the last point is rounded to
    them. It finds far more where many pixels straddle an edge.
    """

    ENDS = "ends"
    BETWEEN = "between"


@final
@dataclass(frozen=True, slots=True)
class RobustConfig:
    """Options of sound training.

    Args:
        radius: the ball to train for.
        loss: how the loss over the ball is made.
        share: weight of the interval loss (MTL-IBP's alpha), or size of the small box (SABR's lambda).
        natural_start: weight of the cross-entropy on the image itself when the radius begins to rise (before, it is 1).
        natural_end: the weight of the cross-entropy on the image itself at the end.
        start: share of the epochs before the radius rises from 0.
        ramp: share of the epochs in which it rises to the whole.
        regulariser: weight of the warm-up regulariser of Shi et al. 2021 while the radius rises.
        attack_steps: gradient steps to find adversarial inputs.
        bounds: the bounds that the loss is made of.
        bounds_end: weight of the CROWN-IBP bounds at the end (CROWN-IBP's beta, which begins with 1).
        loss_fusion: whether the linear bound is one of the whole cross-entropy.
        smooth: whether the radius begins to rise slowly.
        initialisation: how the first weights are drawn.
        interval_batch: share of each batch that the interval bounds are computed of: they cost
            two passes and back, and where their weight is small a part of the batch tells enough (MTL-IBP alone).
        attacked_batch: share of each batch that is attacked and learnt from: the images of the largest loss at a random
            input of their ball. The others, which cost one pass, count as if their loss were 0 (MTL-IBP alone).
        selection: what the epoch is chosen by.
        attack: how `reachable` looks for adversarial inputs; methods on images take gradient steps.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    loss: RobustLoss = RobustLoss.INTERVAL
    share: float = field(default=0.5, metadata=UNIT)
    natural_start: float = field(default=1.0, metadata=UNIT)
    natural_end: float = field(default=0.0, metadata=UNIT)
    start: float = field(default=0.02, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)
    regulariser: float = field(default=0.5, metadata=NOT_NEGATIVE)
    attack_steps: int = field(default=3, metadata=POSITIVE)
    bounds: BoundKind = BoundKind.INTERVAL
    bounds_end: float = field(default=0.0, metadata=UNIT)
    loss_fusion: bool = False
    smooth: bool = False
    initialisation: Initialisation = Initialisation.XAVIER
    interval_batch: float = field(default=1.0, metadata=PART)
    attacked_batch: float = field(default=1.0, metadata=PART)
    selection: Selection = Selection.INTERVALS
    attack: CellAttack = CellAttack.ENDS

    def __post_init__(self) -> None:
        check_ranges(self)
        Ramp(self.start, self.ramp, self.smooth)
        if self.loss_fusion and self.bounds is not BoundKind.CROWN_IBP:
            raise ConfigError(f"expected bounds of {BoundKind.CROWN_IBP} with loss fusion, got {self.bounds}")
        for name in ("interval_batch", "attacked_batch"):
            takes_parts = self.loss is RobustLoss.MTL_IBP and self.bounds is BoundKind.INTERVAL
            if getattr(self, name) < 1 and not takes_parts:
                raise ConfigError(f"expected a loss of {RobustLoss.MTL_IBP} and bounds of intervals with {name}")

    def progress(self, moment: Moment) -> float:
        """Return how far the radius has risen at a moment, from 0 to 1."""
        return Ramp(self.start, self.ramp, self.smooth).progress(moment)

    def natural_weight(self, progress: float) -> float:
        """Return the weight of the cross-entropy on the image itself (kappa)."""
        return self.natural_start + progress * (self.natural_end - self.natural_start) if progress > 0 else 1.0

    def prepare(self, network: nn.Module) -> None:
        """Draw a network's first weights anew, where the options ask for it.

        Raises:
            ConfigError: if interval arithmetic is not written for the network.
            UnsupportedModelError: if its bounds are linear, and it has BatchNorm layers.
        """
        bounded_layers(network)
        if self.bounds is BoundKind.CROWN_IBP:
            from abscert_plugin.lirpa.tracing import refuse_statistics

            refuse_statistics(network)
        if self.initialisation is Initialisation.IBP:
            initialise_for_intervals(network)

    def describe(self) -> dict[str, Any]:
        """Return the options for a checkpoint and run.json."""
        return {
            **self.radius.as_options(),
            "loss": str(self.loss),
            "share": self.share,
            "natural_start": self.natural_start,
            "natural_end": self.natural_end,
            "start": self.start,
            "ramp": self.ramp,
            "regulariser": self.regulariser,
            "attack_steps": self.attack_steps,
            "bounds": str(self.bounds),
            "bounds_end": self.bounds_end,
            **({"loss_fusion": True} if self.loss_fusion else {}),
            "smooth": self.smooth,
            "initialisation": str(self.initialisation),
            **({"interval_batch": self.interval_batch} if self.interval_batch < 1 else {}),
            **({"attacked_batch": self.attacked_batch} if self.attacked_batch < 1 else {}),
            **({"selection": str(self.selection)} if self.selection is not Selection.INTERVALS else {}),
            **({"attack": str(self.attack)} if self.attack is not CellAttack.ENDS else {}),
        }


@runtime_checkable
class Balls(Protocol):
    """What a network sees of the balls around stored images."""

    def center(self, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch *feature"]:
        """Return what the network is fed for the images themselves."""
        ...

    def box(self, images: UInt8[Tensor, "batch channels height width"], radius: float) -> Box:
        """Return the box of all that it is fed for images within the radius (pixel scale)."""
        ...

    def adversarial(
        self, network: nn.Module, box: Box, labels: Int64[Tensor, "batch"], steps: int
    ) -> Float[Tensor, "batch *feature"]:
        """Return inputs within the box, that images of the ball lead to, on which the loss is large.

        Random ones where there are no steps.
        """
        ...


_NEGLIGIBLE: Final = 1e-5
_LEAST_RADIUS: Final = 1e-6
_FIRST_STEPS: Final = 3
_NEAR: Final = 0.25  # of a batch
_SELECTING_STEPS: Final = 10
_RESTARTS: Final = 2


@final
class RobustObjective:
    """Cross-entropy on images, mixed with a sound loss over the balls around them.

    Args:
        name: the method's name.
        balls: what the network sees of a ball; interval images of reachable cells, or plain pixels.
        config: the options.

    Source: Gowal et al. 2018 for the interval loss and its schedule; `RobustLoss` for the others.
    """

    claim: Final = "ball"

    def __init__(self, name: str, balls: Balls, config: RobustConfig) -> None:
        self.name = name
        self._balls = balls
        self._config = config
        self._linear: "CrownIbpMargins | None" = None

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return the stored images: what the loss sees of them depends on the moment."""
        return images

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,
    ) -> Float[Tensor, ""]:
        """Return the mixed loss of a batch of stored images.

        Raises:
            ConfigError: if interval arithmetic is not written for the network.
        """
        config, progress = self._config, self._config.progress(moment)
        natural_weight = config.natural_weight(progress)
        # CROWN-IBP's beta; bounds that count for nothing are not computed
        linear_weight = 1 - progress * (1 - config.bounds_end) if config.bounds is BoundKind.CROWN_IBP else 0.0
        is_linear = linear_weight > _NEGLIGIBLE and progress > 0
        linear = self._linear_margins(network, inputs) if is_linear else None
        clean = self._balls.center(inputs)
        total = labels.new_zeros((), dtype=torch.float32)
        if natural_weight > 0:
            total = total + natural_weight * functional.cross_entropy(network(clean).float(), labels)
        elif records_statistics(network):
            with torch.no_grad():
                network(clean)
        if natural_weight == 1 and not config.regulariser:
            return total
        # boxes without any width tell the regulariser nothing
        least = _LEAST_RADIUS if config.regulariser and progress < 1 else 0.0
        box = self._balls.box(inputs, max(least, progress * config.radius.outward))
        adversarial, targets = None, labels
        if natural_weight < 1 and config.loss is not RobustLoss.INTERVAL:
            with frozen_statistics(network):
                within, targets = self._hardest(network, box, labels)
                adversarial = self._balls.adversarial(network, within, targets, config.attack_steps)
        if adversarial is not None and config.loss is RobustLoss.SABR:
            box = small_box(box, adversarial, config.share)
        part = labels
        if config.interval_batch < 1:  # the order of the images is random: the first ones are as good as any
            part = labels[: _count_of(config.interval_batch, labels)]
            box = box.of(slice(len(part)))
        with torch.autocast(labels.device.type, enabled=False):  # in bfloat16 bounds would be of another network
            bounds = interval_margins(network, box, part, clean)
            if linear is not None and config.loss_fusion:
                robust = fused_cross_entropy(linear, bounds, box, labels, linear_weight)
            else:
                margins = bounds.lower
                if linear is not None:
                    bound = linear.lower(box.lower, box.upper, labels)
                    margins = linear_weight * bound + (1 - linear_weight) * margins
                robust = functional.cross_entropy(-margins, part)
        if adversarial is not None and config.loss is RobustLoss.MTL_IBP:
            with frozen_statistics(network):
                losses = functional.cross_entropy(network(adversarial).float(), targets, reduction="sum")
            attacked = losses / len(labels)
            robust = (1 - config.share) * attacked + config.share * robust
        total = total + (1 - natural_weight) * robust
        if progress < 1 and config.regulariser > 0:
            total = total + config.regulariser * (1 - progress) * warmup_regulariser(box, bounds.hidden)
        return total

    def margins(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each image's margin over the whole ball, by the bounds the training ends with.

        With `Selection.ATTACK`, the least margin that an attack finds: an upper bound. Those of images that a short
        attack is far from refuting are of that one.
        """
        box = self._balls.box(inputs, self._config.radius.outward)
        if self._config.selection is Selection.ATTACK:
            return self._attacked_margins(network, box, labels)
        lower = interval_margins(network, box, labels).lower
        if self._config.bounds is BoundKind.CROWN_IBP and self._config.bounds_end > 0:
            linear = self._linear_margins(network, inputs).lower(box.lower, box.upper, labels)
            lower = torch.maximum(lower, linear)
        return lower.scatter(1, labels[:, None], torch.inf).amin(dim=1)

    def _hardest(self, network: nn.Module, box: Box, labels: Tensor) -> tuple[Box, Tensor]:
        """Return boxes and labels of the images that are worth an attack.

        Source: Loshchilov and Hutter 2015, Jiang et al. 2019, who learn from examples of large loss; here at an input
        of the ball, since what a network labels rightly with ease it often does on the whole ball.
        """
        count = _count_of(self._config.attacked_batch, labels)
        if count == len(labels):
            return box, labels
        with torch.no_grad():
            some = self._balls.adversarial(network, box, labels, 0)
            losses = functional.cross_entropy(network(some).float(), labels, reduction="none")
        chosen = losses.topk(count).indices
        return box.of(chosen), labels[chosen]

    def _attacked_margins(self, network: nn.Module, box: Box, labels: Tensor) -> Tensor:
        """Attack every image shortly, and those for long on which that nearly succeeded."""
        with drawing_from(0, box.lower.device):  # each epoch from the same starts, in a training that was resumed too
            least = self._least_margins(network, box, labels, _FIRST_STEPS)
            near = least.where(least > 0, torch.inf).argsort()[: math.ceil(_NEAR * len(labels))]
            within = box.of(near)
            for _ in range(_RESTARTS):
                found = self._least_margins(network, within, labels[near], _SELECTING_STEPS)
                least[near] = torch.minimum(least[near], found)
        return least

    def _least_margins(self, network: nn.Module, box: Box, labels: Tensor, steps: int) -> Tensor:
        with torch.enable_grad():
            point = self._balls.adversarial(network, box, labels, steps)
        return logit_margins(network(point).float(), labels)

    def _linear_margins(self, network: nn.Module, images: Tensor) -> "CrownIbpMargins":
        from abscert_plugin.lirpa.training import CrownIbpMargins, margins_of  # auto_LiRPA is needed here alone

        self._linear = margins_of(network, self._linear, CrownIbpMargins, lambda: self._balls.center(images[:1]))
        return self._linear


def _count_of(share: float, labels: Tensor) -> int:
    """Return how many images a share of a batch is, at least one."""
    return max(1, round(share * len(labels)))


def small_box(box: Box, point: Float[Tensor, "batch *feature"], share: float) -> Box:
    """Return the box of a share of the size around a point, moved so far that it stays inside the whole one."""
    radius = share * box.radius
    return Box(torch.minimum(torch.maximum(point, box.lower + radius), box.upper - radius), radius)
