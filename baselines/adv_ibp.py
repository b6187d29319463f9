"""AdvIBP: the gradients of an attack's loss and of the interval loss, joined by the angle between them.

Source: Fan & Li 2021, "Adversarial Training and Provable Robustness: A Tale of Two Objectives" (AAAI 2021), for the
whole network, which is stage 0 of their code; their later stages, layer by layer, are not built. L_adv is the
cross-entropy on an attacked image (one step of 1.25 radii from a random start), L_ibp that of interval bounds.

- Phases, as shares of the epochs: cross-entropy on the images; on attacked images, while the radius rises; L_ibp
  alone, while the radius of its boxes rises; then both. Default shares are those of MNIST: epochs 10, 50 and 99 of 250.
- Both: where the gradients agree, half their sum's projection on the bisector of the two; where they conflict, one of
  them without its component along the other (`objective_weights`). FOSC says which: an attack that has converged
  leads, else the bounds do.
- FOSC (Wang et al. 2019): radius |g|_1 - <x' - x, g>, with the gradient g of L_adv at the attacked image x'; 0 is a
  constrained maximum. Its mean over the batch is held against c_t, which falls linearly from `threshold` (c_max: 1e-4
  for MNIST 0.3 and 0.4 and CIFAR-10 8/255, 1e-5 for less) to 0. As in the code it is that of the batch's mean loss,
  so that it falls with the batch size (theirs is 256), and c_t stays for 10 and falls for 49 of the last 151 epochs.

Where the code differs from the paper, or we from the code:

- Gradients: of all parameters that are trained, as in the paper; the code compares those of the first tensor alone.
- No moving averages. The code averages gradients (0.9) and their norms (0.99) over the steps of the last phase, and
  uses those of the step before; we use the current step's, so that an objective has no state, and a training that was
  killed and resumed ends as an undisturbed one.
- The code multiplies the weights of gradients that agree by the norm of the first, and adds L_ibp^2 / 2 where they
  conflict. We do neither, as in the paper.
- The code's attack in the second phase is given the radius of the boxes, which is 0 there; we give it the radius that
  its schedule names, a smoothed rise over the phase.
- Its learning rate falls in steps, ours by the cosine that all methods here share.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Final, TypeAlias, final

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from abscert_plugin.bounds.intervals import (
    bounded_layers,
    frozen_statistics,
    interval_margins,
    records_statistics,
)
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.options import NOT_NEGATIVE, UNIT, check_ranges
from abscert_plugin.training.robust import RobustConfig, RobustObjective
from abscert_plugin.training.schedule import Ramp
from baselines.pixels import PixelBalls

_HOLD: Final = 10 / 151  # shares of the joint phase: c_t stays
_FALL: Final = 49 / 151  # and then falls
_STEP: Final = 1.25  # radii
_SCALE: Final = 2  # a length on the training scale [-1, 1] is twice that on the pixel scale


class Phase(StrEnum):
    """What the loss is made of, in the order of the training."""

    NATURAL = "natural"
    ATTACKED = "attacked"
    BOUNDED = "bounded"
    JOINT = "joint"


@final
@dataclass(frozen=True)
class AdvIbp:
    """AdvIBP and its options.

    Args:
        radius: the ball to train for.
        natural: share of the epochs on the images themselves.
        attacked: share of the epochs, after those, on attacked images, while the radius rises.
        ramp: share of the epochs, after those, on bounds alone, while their radius rises.
        threshold: FOSC below which an attack counts as converged, at first (c_max).

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    natural: float = field(default=0.04, metadata=UNIT)
    attacked: float = field(default=0.16, metadata=UNIT)
    ramp: float = field(default=0.196, metadata=UNIT)
    threshold: float = field(default=1e-4, metadata=NOT_NEGATIVE)

    name: ClassVar[str] = "adv-ibp"
    claim: ClassVar[str] = "ball"
    takes_intervals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ranges(self)
        if self._joint > 1 + 1e-9:
            raise ConfigError(f"expected natural, attacked and ramp within the training, got {self._joint:g} of it")

    @property
    def _joint(self) -> float:
        return self.natural + self.attacked + self.ramp

    def phase(self, moment: Moment) -> Phase:
        """Return the phase that a step belongs to."""
        done = moment.step / (moment.steps_per_epoch * moment.epochs)
        if done < self.natural:
            return Phase.NATURAL
        if done < self.natural + self.attacked:
            return Phase.ATTACKED
        return Phase.BOUNDED if done < self._joint else Phase.JOINT

    def attack_progress(self, moment: Moment) -> float:
        """Return how far the radius of attacks has risen, from 0 to 1."""
        return Ramp(self.natural, self.attacked, smooth=True).progress(moment)

    def bound_progress(self, moment: Moment) -> float:
        """Return how far the radius of the boxes has risen, from 0 to 1."""
        return Ramp(min(1.0, self.natural + self.attacked), self.ramp, smooth=True).progress(moment)

    def threshold_at(self, moment: Moment) -> float:
        """Return the FOSC below which an attack counts as converged (c_t)."""
        start = min(1.0, self._joint)
        fall = Ramp(start + _HOLD * (1 - start), _FALL * (1 - start))
        return self.threshold * (1 - fall.progress(moment))

    def prepare(self, network: nn.Module) -> None:
        """Leave the network, once it is known that it can be trained.

        Raises:
            ConfigError: if interval arithmetic is not written for it.
        """
        bounded_layers(network)

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective for plain images of these levels."""
        return _TwoObjectives(self, PixelBalls(levels))

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        return {**asdict(self), **self.radius.as_options()}


Vector: TypeAlias = Float[Tensor, "weights"]
Scalar: TypeAlias = Float[Tensor, ""]


def objective_weights(attack: Vector, bound: Vector, converged: Bool[Tensor, ""]) -> tuple[Scalar, Scalar]:
    """Return the weights of two gradients g1, g2 in the one to descend along.

    Where <g1, g2> > 0: (c / |g1|, c / |g2|), c = (|g1| + |g2| + <g1, g2> / |g1| + <g1, g2> / |g2|) / (2 |b|^2), b the
    sum of the two unit vectors: half the projection of g1 + g2 on the bisector b, which descends on both. Else, g1
    without its component along g2 where the attack has converged, and g2 without that along g1 where not: it descends
    on one and leaves the other. A gradient of 0 has weight 0, and the other then 1.

    Args:
        attack: gradient of L_adv (g1).
        bound: gradient of L_ibp (g2).
        converged: whether the attack has converged.

    Source: Fan & Li 2021, the joint training of two objectives.
    """
    dot, first, second = attack @ bound, attack.norm(), bound.norm()
    none = (first == 0) | (second == 0)
    longer, wider = torch.where(none, 1, first), torch.where(none, 1, second)  # no division by 0 below
    cosine = dot / longer / wider
    along = (first + second + dot / longer + dot / wider) / (4 * (1 + cosine))  # |b|^2 is 2 (1 + cosine)
    kept_attack = torch.where(converged, 1, -cosine * wider / longer)
    kept_bound = torch.where(converged, -cosine * longer / wider, 1)
    of_attack = torch.where(dot > 0, along / longer, kept_attack)
    of_bound = torch.where(dot > 0, along / wider, kept_bound)
    return torch.where(none, (first > 0).to(dot), of_attack), torch.where(none, (second > 0).to(dot), of_bound)


def first_order_condition(
    attacked: Float[Tensor, "batch *feature"],
    center: Float[Tensor, "batch *feature"],
    radius: float,
    gradient: Float[Tensor, "batch *feature"],
) -> Float[Tensor, "batch"]:
    """Return FOSC of each attacked input: 0 exactly where no step within the ball raises the loss to first order.

    Args:
        attacked: the attacked inputs.
        center: the inputs that they come from.
        radius: of the ball, on the scale of the inputs.
        gradient: of the loss at the attacked inputs.

    Source: Wang et al. 2019, "On the Convergence and Robustness of Adversarial Training", equation 5; as there and in
    Fan & Li's code, the ball is not cut to the pixel range, so an input at its border may count as not converged.
    """
    slope = gradient.flatten(1)
    return radius * slope.abs().sum(dim=1) - ((attacked - center).flatten(1) * slope).sum(dim=1)


@final
class _TwoObjectives:
    """The loss of each phase.

    Args:
        options: the method's.
        balls: plain images and their balls.
    """

    name: Final = AdvIbp.name
    claim: Final = AdvIbp.claim

    def __init__(self, options: AdvIbp, balls: PixelBalls) -> None:
        self._options = options
        self._balls = balls
        self._validated = RobustObjective(self.name, balls, RobustConfig(options.radius))

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
        """Return the loss of the moment's phase.

        In the joint phase its gradient is the joined one, with the weights held fixed; its value is the weighted sum.

        Raises:
            ConfigError: if interval arithmetic is not written for the network.
        """
        options = self._options
        phase = options.phase(moment)
        if phase is Phase.NATURAL:
            return functional.cross_entropy(network(self._balls.center(inputs)).float(), labels)
        if phase is Phase.BOUNDED:
            return self._bound_loss(network, inputs, labels, options.bound_progress(moment))
        radius = options.attack_progress(moment) * options.radius.outward
        attacked = self._attacked(network, inputs, labels, radius)
        attack_loss = functional.cross_entropy(network(attacked).float(), labels)
        if phase is Phase.ATTACKED:
            return attack_loss
        bound_loss = self._bound_loss(network, inputs, labels, options.bound_progress(moment))
        weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
        *of_attack, at_image = _gradients(attack_loss, [*weights, attacked])
        first, second = _flat(of_attack), _flat(_gradients(bound_loss, weights))
        condition = first_order_condition(attacked.detach(), self._balls.center(inputs), _SCALE * radius, at_image)
        shares = objective_weights(first, second, condition.mean() <= options.threshold_at(moment))
        # its gradient is the joined one, without a third pass through the network
        carrier = parameters_to_vector(weights) @ (shares[0] * first + shares[1] * second)
        value = shares[0] * attack_loss.detach() + shares[1] * bound_loss.detach()
        return value + (carrier - carrier.detach())

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each image's margin over the whole ball, by interval arithmetic."""
        return self._validated.margins(network, inputs, labels)

    def _attacked(self, network: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
        """Return images of the ball after one signed step of 1.25 radii, a leaf for gradients.

        Start and step are of the ball that is not cut to the pixel range, as in the code; only the result is cut.
        """
        box, center = self._balls.box(images, radius), self._balls.center(images)
        start = (center + _SCALE * radius * (2 * torch.rand_like(center) - 1)).requires_grad_()
        with frozen_statistics(network):
            loss = functional.cross_entropy(network(start).float(), labels)
        (gradient,) = torch.autograd.grad(loss, start)
        moved = start.detach() + _STEP * _SCALE * radius * gradient.sign()
        return torch.minimum(torch.maximum(moved, box.lower), box.upper).requires_grad_()

    def _bound_loss(self, network: nn.Module, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        clean = self._balls.center(images)
        if records_statistics(network):  # boxes are normalised by the clean batch's, so those are recorded
            with torch.no_grad():
                network(clean)
        box = self._balls.box(images, progress * self._options.radius.outward)
        with torch.autocast(labels.device.type, enabled=False):  # in bfloat16 bounds would be of another network
            bounds = interval_margins(network, box, labels, clean)
        return functional.cross_entropy(-bounds.lower, labels)


def _gradients(loss: Tensor, inputs: list[Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def _flat(parts: Any) -> Vector:
    return torch.cat([part.reshape(-1) for part in parts])


ENTRY = MethodEntry(
    AdvIbp.name, "an attack's and the interval loss, joined by their gradients", "Fan & Li 2021", AdvIbp, step_cost=3.5
)
