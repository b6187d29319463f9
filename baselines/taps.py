"""TAPS and STAPS: interval bounds through the first layers of a network, an attack within their box through the last.

Source: Mao et al. 2023, "Connecting Certified and Adversarial Training", section 3. The network is f = c o e, an
extractor e and a classifier c. Intervals take the ball, or SABR's small box in it (STAPS), through e to a box [l, u];
for each class i but the label y, signed gradient steps look in that box for a point z_i at which c_i - c_y is large
("multi-estimator"). With d_i the value found and b_i the interval bound of c_i - c_y over the same box,

    L_TAPS = log(1 + sum_i exp(d_i)),    L_IBP = log(1 + sum_i exp(b_i)),    L = L_TAPS L_IBP,

image by image. d_i <= b_i, so that L_TAPS <= L_IBP: unlike L_IBP it is no bound of the worst loss. Only L_TAPS's
share of the gradient is weighted: w L_IBP grad L_TAPS + L_TAPS grad L_IBP, with `weight` w.

Gradient connector: how z depends on the ends of its box is not known, so it is said to be, entry by entry,

    dz / dl = max(0, 1 - (z - l) / (k (u - l))),    dz / du = max(0, 1 - (u - z) / (k (u - l))),

with `connector` k: 1 is linear, near 0 only a point on an end moves with it. Where u = l, z moves with both by half.

While the radius rises the loss is that of IBP (TAPS) or of SABR (STAPS), with Shi et al.'s weights, regulariser and
rise, as in the paper; only at the whole radius it is L. The epoch is chosen by interval bounds, as for the others here.

Where the code of CTRAIN differs, which follows theirs (ADA-research/CTRAIN): its steps are of a fifth of the box's
width, and shorter after the fifth and seventh; ours are of 1.25 widths divided by their number, as those of all attacks
here. It evaluates the points that were found by their own batch statistics where the classifier has BatchNorm layers,
we by the running ones, as all attacks here. Its classifier is a number of modules, `classifier` one of activation
layers.

The attack's cost is that of the classifier's first layer, once a step and class: on a DM-small network, whose first
dense layer is most of it, a step takes 30 times IBP's and more.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias, final

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import (
    ACTIVATIONS,
    Box,
    bounded_layers,
    frozen_statistics,
    interval_margins,
    propagated,
    records_statistics,
)
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.options import NOT_NEGATIVE, PART, POSITIVE, UNIT, check_ranges
from abscert_plugin.training.robust import Initialisation, RobustConfig, RobustLoss, RobustObjective, small_box
from baselines.pixels import PixelBalls
from baselines.robust import RobustBaseline
from baselines.sabr import Sabr

_WHOLE: Final = 1 - 1e-9  # a smoothed rise ends a rounding below 1


class _LatentBaseline(RobustBaseline):
    """What TAPS and STAPS have in common."""

    classifier: int
    latent_steps: int
    connector: float
    weight: float

    @abstractmethod
    def config(self) -> RobustConfig:
        """Return the options of the objective while the radius rises."""

    def check(self) -> None:
        """Return if every option has a meaning.

        Raises:
            ConfigError: if one has none.
        """
        self.config()
        check_ranges(self)

    def prepare(self, network: nn.Module) -> None:
        """Draw the first weights, once it is known that the network can be trained.

        Raises:
            ConfigError: if interval arithmetic is not written for it, or it has fewer activation layers than the
                classifier.
        """
        split(network, self.classifier)
        super().prepare(network)

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective for plain images of these levels."""
        return _LatentAttack(self, PixelBalls(levels))

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        own = {name: getattr(self, name) for name in ("classifier", "latent_steps", "connector", "weight")}
        return {**super().describe(), **own}


@final
@dataclass(frozen=True)
class Taps(_LatentBaseline):
    """TAPS and its options.

    Args:
        radius: the ball to train for.
        classifier: activation layers of the part that is attacked, the last ones.
        latent_steps: gradient steps of the attack within the box that the classifier is fed.
        connector: share of that box's width within which a point moves with an end (k).
        weight: of the attack's share of the gradient (w).
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    classifier: int = field(default=1, metadata=NOT_NEGATIVE)
    latent_steps: int = field(default=8, metadata=POSITIVE)
    connector: float = field(default=0.5, metadata=PART)
    weight: float = field(default=5.0, metadata=NOT_NEGATIVE)
    start: float = field(default=0.02, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)

    name: ClassVar[str] = "taps"

    def __post_init__(self) -> None:
        self.check()

    def config(self) -> RobustConfig:
        """Return the options of IBP."""
        return RobustConfig(
            self.radius,
            natural_start=0.0,
            start=self.start,
            ramp=self.ramp,
            smooth=True,
            initialisation=Initialisation.IBP,
        )


@final
@dataclass(frozen=True)
class Staps(_LatentBaseline):
    """STAPS and its options.

    Args:
        radius: the ball to train for.
        share: size of the small box as a share of the ball's (lambda).
        attack_steps: gradient steps that look for the adversarial image.
        classifier: activation layers of the part that is attacked, the last ones.
        latent_steps: gradient steps of the attack within the box that the classifier is fed.
        connector: share of that box's width within which a point moves with an end (k).
        weight: of the attack's share of the gradient (w).
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    share: float = field(default=0.4, metadata=UNIT)
    attack_steps: int = field(default=8, metadata=POSITIVE)
    classifier: int = field(default=1, metadata=NOT_NEGATIVE)
    latent_steps: int = field(default=8, metadata=POSITIVE)
    connector: float = field(default=0.5, metadata=PART)
    weight: float = field(default=5.0, metadata=NOT_NEGATIVE)
    start: float = field(default=0.02, metadata=UNIT)
    ramp: float = field(default=0.5, metadata=UNIT)

    name: ClassVar[str] = "staps"

    def __post_init__(self) -> None:
        self.check()

    def config(self) -> RobustConfig:
        """Return the options of SABR."""
        return Sabr(self.radius, self.share, self.attack_steps, self.start, self.ramp).config()


Points: TypeAlias = Float[Tensor, "others batch *feature"]
Differences: TypeAlias = Float[Tensor, "others batch"]


def split(network: nn.Module, activations: int) -> tuple[list[nn.Module], nn.Sequential]:
    """Return the layers of the extractor, and the classifier.

    Args:
        network: a sequence of layers.
        activations: how many activation layers the classifier has; with 0 it is the last layer alone.

    Raises:
        ConfigError: as `bounded_layers`, or if the network has fewer activation layers.
    """
    layers, last = bounded_layers(network)
    places = [place for place, layer in enumerate(layers) if type(layer) in ACTIVATIONS]
    if activations > len(places):
        raise ConfigError(f"expected a classifier of at most {len(places)} activation layers, got {activations}")
    start = places[-activations] if activations else len(layers)
    while activations and start > 0 and not isinstance(layers[start], nn.Linear | nn.Conv2d):
        start -= 1
    return layers[:start], nn.Sequential(*layers[start:], last)


def differences(classifier: nn.Sequential, points: Points, labels: Int64[Tensor, "batch"]) -> Differences:
    """Return the logit of another class minus the label's: at the points of row i, of the i-th class after the label.

    Args:
        classifier: gives the logits.
        points: a row for each class but one.
        labels: of the images.
    """
    rows = len(points)
    logits = classifier(points.flatten(0, 1)).float().unflatten(0, (rows, len(labels)))
    others = (labels + torch.arange(1, rows + 1, device=labels.device)[:, None]) % (rows + 1)
    own = labels.expand(rows, -1)
    return (logits.gather(2, others[..., None]) - logits.gather(2, own[..., None]))[..., 0]


def worst_points(classifier: nn.Sequential, box: Box, labels: Int64[Tensor, "batch"], steps: int) -> Points:
    """Return points of a box at which `differences` are large: the best of a random start and of some gradient steps.

    Args:
        classifier: gives the logits; it ends with a linear layer.
        box: that it is fed, one for each image.
        labels: of the images.
        steps: how many.
    """
    rows = bounded_layers(classifier)[1].out_features - 1
    low, high = (end.detach().expand(rows, *end.shape) for end in (box.lower, box.upper))
    current = low + (high - low) * torch.rand_like(low)
    best, most = current.clone(), torch.full((rows, len(labels)), -torch.inf, device=labels.device)
    for step in range(steps + 1):
        current.requires_grad_()
        found = differences(classifier, current, labels)
        is_better = (found.detach() > most).reshape(rows, len(labels), *[1] * (low.ndim - 2))
        best = torch.where(is_better, current.detach(), best)
        most = torch.maximum(most, found.detach())
        if step < steps:
            (gradient,) = torch.autograd.grad(found.sum(), current)
            moved = current.detach() + 1.25 / steps * (high - low) * gradient.sign()
            current = torch.minimum(torch.maximum(moved, low), high)
    return best


def connected(box: Box, points: Points, connector: float) -> Points:
    """Return the points, so that gradients go on from them to the ends of their box by the gradient connector.

    Args:
        box: that the points lie in.
        points: found by an attack.
        connector: share of the box's width within which a point moves with an end.
    """
    low, high = box.lower, box.upper
    width = connector * (high - low).detach()
    has_width = width > 0
    safe = torch.where(has_width, width, 1)

    def pull(distance: Tensor) -> Tensor:
        return torch.where(has_width, (1 - distance.detach() / safe).clamp(min=0), 0.5)

    return points + pull(points - low) * (low - low.detach()) + pull(high - points) * (high - high.detach())


@final
class _LatentAttack:
    """The loss of IBP or SABR while the radius rises, then the product of the attack's and the interval loss.

    Args:
        options: the method's.
        balls: plain images and their balls.
    """

    claim: Final = RobustObjective.claim

    def __init__(self, options: _LatentBaseline, balls: PixelBalls) -> None:
        self.name = options.name
        self._options = options
        self._balls = balls
        self._config = options.config()
        self._rising = RobustObjective(self.name, balls, self._config)

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
        """Return the loss of the moment.

        At the whole radius its value is L, its gradient the weighted one.

        Raises:
            ConfigError: if interval arithmetic is not written for the network.
        """
        if self._config.progress(moment) < _WHOLE:
            return self._rising.loss(network, inputs, labels, moment)
        options, clean = self._options, self._balls.center(inputs)
        extractor, classifier = split(network, options.classifier)
        if records_statistics(network):  # boxes are normalised by the clean batch's, so those are recorded
            with torch.no_grad():
                network(clean)
        box = self._box(network, inputs, labels)
        with torch.autocast(labels.device.type, enabled=False):  # in bfloat16 bounds would be of another network
            latent, follows, _ = propagated(extractor, box, clean if records_statistics(network) else None)
            bounds = interval_margins(classifier, latent, labels, follows).lower
            with frozen_statistics(network):
                points = worst_points(classifier, latent, labels, options.latent_steps)
                found = differences(classifier, connected(latent, points, options.connector), labels)
        sound = functional.cross_entropy(-bounds, labels, reduction="none")
        attacked = torch.cat([torch.zeros_like(found[:1]), found]).logsumexp(dim=0)
        weighted = attacked.detach() + options.weight * (attacked - attacked.detach())
        return (weighted * sound).mean()

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each image's margin over the whole ball, by interval arithmetic."""
        return self._rising.margins(network, inputs, labels)

    def _box(self, network: nn.Module, images: Tensor, labels: Tensor) -> Box:
        """Return the balls, or small boxes in them round attacks."""
        box = self._balls.box(images, self._config.radius.outward)
        if self._config.loss is not RobustLoss.SABR:
            return box
        with frozen_statistics(network):
            found = self._balls.adversarial(network, box, labels, self._config.attack_steps)
        return small_box(box, found, self._config.share)


TAPS = MethodEntry(
    Taps.name, "interval bounds of the first layers, an attack on the last", "Mao et al. 2023", Taps, step_cost=10.3
)
STAPS = MethodEntry(
    Staps.name, "the same from small boxes round attacks", "Mao et al. 2023; Mueller et al. 2023", Staps, step_cost=17.4
)
