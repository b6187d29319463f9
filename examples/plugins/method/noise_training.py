"""A training method for abscert: cross-entropy on images with Gaussian noise, the usual training for smoothing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.objective import Moment


@dataclass(frozen=True)
class Noise:
    """The method with its options: `sigma` is the noise's standard deviation on the pixel scale."""

    sigma: float = 0.1
    name: ClassVar[str] = "noise"
    claim: ClassVar[str] = "clean"
    takes_intervals: ClassVar[bool] = False  # its networks take the images themselves

    def prepare(self, network: nn.Module) -> None:
        """Leave the new network as it is."""

    def build(self, grid: None, levels: int, device: torch.device) -> "NoiseLoss":  # noqa: ARG002
        """Return the loss for images with stored values from 0 to `levels`."""
        return NoiseLoss(self.sigma, levels)

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for the run's record."""
        return asdict(self)


@dataclass(frozen=True)
class NoiseLoss:
    """The loss on the training scale [-1, 1]."""

    sigma: float
    levels: int
    name: ClassVar[str] = Noise.name
    claim: ClassVar[str] = Noise.claim

    def encode(self, images: Tensor) -> Tensor:
        """Return stored images on the training scale."""
        return 2 * (images.float() / self.levels) - 1

    def loss(self, network: nn.Module, inputs: Tensor, labels: Tensor, moment: Moment) -> Tensor:  # noqa: ARG002
        """Return the cross-entropy on noisy images; a step of the pixel scale is two of the training scale."""
        noisy = inputs + 2 * self.sigma * torch.randn_like(inputs)
        return cross_entropy(network(noisy).float(), labels)

    def margins(self, network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the margins on the clean images, by which the epoch is chosen."""
        return logit_margins(network(inputs).float(), labels)


NOISE = MethodEntry(Noise.name, "cross-entropy on images with Gaussian noise", "Cohen et al. 2019, section 3.3", Noise)
