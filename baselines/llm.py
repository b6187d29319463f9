"""LLM: CROWN-IBP whose lower lines of unstable ReLUs are chosen anew for every batch by one gradient step.

Source: Lee et al. 2021, "Towards Better Understanding of Training Certifiably Robust Models against Adversarial
Examples" (NeurIPS 2021), the method that they propose; its name here is that of their code, LossLandscapeMatters. Two
passes of CROWN-IBP over each batch: the first with slopes drawn evenly from [0, 1], whose loss L gives g = dL/da; then
a becomes clip(a - 2 sign(g), 0, 1), and the second pass with these slopes gives the loss for the weights. One slope
per image and neuron serves all margins. Beta is 1 and kappa 0 throughout: the loss is that of the bounds alone, which
at radius 0 is cross-entropy; there it is computed as such. The radius rises linearly.

Where their code differs:

- On CIFAR-10 it does not cut the ball to the pixel range; here it always is.
- It chooses the best epoch by the verified error on the test set, we by that on the validation split, in both cases
  with the two passes.
- It has seven steps of 0.1 as an option; we leave that out.
- Its learning rate falls in steps, ours by the cosine that all methods here share.

Default shares are those of MNIST: 200 epochs, the radius rises from epoch 10 for 50. Bounds come from auto_LiRPA.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, final

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.compat import lirpa_version
from abscert_plugin.lirpa.slopes import SlopedMargins, Slopes, stepped_to_ends
from abscert_plugin.lirpa.tracing import refuse_statistics
from abscert_plugin.lirpa.training import margins_of
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.training.options import UNIT
from abscert_plugin.training.schedule import Ramp
from baselines.pixels import PixelBalls

_EVALUATION_BATCH: Final = 100  # a validation batch is larger than memory may hold of linear bounds with gradients


@final
@dataclass(frozen=True)
class Llm:
    """CROWN-IBP with chosen slopes, and its options.

    Args:
        radius: the ball to train for.
        start: share of the epochs before the radius rises.
        ramp: share of the epochs in which it rises.

    Raises:
        ConfigError: if a value has no meaning.
    """

    radius: Radius
    start: float = field(default=0.05, metadata=UNIT)
    ramp: float = field(default=0.25, metadata=UNIT)

    name: ClassVar[str] = "llm"
    claim: ClassVar[str] = "ball"
    takes_intervals: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.course()

    def course(self) -> Ramp:
        """Return how the radius rises."""
        return Ramp(self.start, self.ramp)

    def prepare(self, network: nn.Module) -> None:
        """Leave the network, once it is known that it can be trained.

        Raises:
            ConfigError: if it has no ReLU, or auto_LiRPA is not installed.
            UnsupportedModelError: if it has BatchNorm layers.
        """
        if not any(isinstance(layer, nn.ReLU) for layer in network.modules()):
            raise ConfigError("llm chooses the slopes of ReLUs, and this network has none; use --activation relu")
        refuse_statistics(network)
        lirpa_version()

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective for plain images of these levels."""
        return _ChosenSlopes(self, PixelBalls(levels))

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        return {**self.radius.as_options(), "start": self.start, "ramp": self.ramp}


@final
class _ChosenSlopes:
    """Cross-entropy of the bounds by the slopes that a first pass has found.

    Args:
        options: the method's.
        balls: plain images and their balls.
    """

    name: Final = Llm.name
    claim: Final = Llm.claim

    def __init__(self, options: Llm, balls: PixelBalls) -> None:
        self._options = options
        self._balls = balls
        self._bounds: SlopedMargins | None = None

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
        """Return the cross-entropy of the margins' bounds over the balls of this moment.

        Raises:
            UnsupportedModelError: if auto_LiRPA cannot bound the network.
        """
        bounds = self._bounds_of(network, inputs)  # also where the radius is 0, so that it fails at once
        radius = self._options.course().progress(moment) * self._options.radius.outward
        if radius == 0:
            return functional.cross_entropy(network(self._balls.center(inputs)).float(), labels)
        box = self._balls.box(inputs, radius)
        return functional.cross_entropy(-_margins(bounds, box, labels, bounds.random_slopes(len(labels))), labels)

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return a lower bound of each image's margin over the whole ball, by the two passes of the training.

        The first slopes are drawn from a seed of their own, so that one network always gets one error.
        """
        found = []
        with torch.inference_mode(False), torch.enable_grad():
            images, targets = inputs.clone(), labels.clone()  # those made in inference mode take part in no gradient
            bounds = self._bounds_of(network, images)
            generator = torch.Generator(images.device).manual_seed(0)
            for some, those in zip(images.split(_EVALUATION_BATCH), targets.split(_EVALUATION_BATCH), strict=True):
                box = self._balls.box(some, self._options.radius.outward)
                lower = _margins(bounds, box, those, bounds.random_slopes(len(those), generator)).detach()
                found.append(lower.scatter(1, those[:, None], torch.inf).amin(dim=1))
        return torch.cat(found)

    def _bounds_of(self, network: nn.Module, images: Tensor) -> SlopedMargins:
        self._bounds = margins_of(network, self._bounds, SlopedMargins, lambda: self._balls.center(images[:1]))
        return self._bounds


def _margins(bounds: SlopedMargins, box: Box, labels: Tensor, first: Slopes) -> Float[Tensor, "batch classes"]:
    """Return bounds of the margins by the slopes that one step from the first ones leads to."""
    slopes = tuple(slope.requires_grad_() for slope in first)
    loss = functional.cross_entropy(-bounds.lower(box.lower, box.upper, labels, slopes), labels)
    gradients = torch.autograd.grad(loss, slopes, allow_unused=True, materialize_grads=True)
    return bounds.lower(box.lower, box.upper, labels, stepped_to_ends(slopes, gradients))


ENTRY = MethodEntry(
    Llm.name, "linear bounds whose slopes are chosen for every batch", "Lee et al. 2021", Llm, step_cost=50.0
)
