"""How a network is trained: the options of the loop, and the paper's settings per data set and network."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, final

from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import NETWORKS


class Augmentation(StrEnum):
    """Random changes of the training images.

    `CIFAR`: flip, crop after padding by 4, and erasing a rectangle. `SHIFT`: by up to 2 pixels each way. `ELASTIC`:
    turned and stretched a little, bent by a smooth field, and shifted by up to 2 pixels.
    """

    NONE = "none"
    CIFAR = "cifar"
    SHIFT = "shift"
    ELASTIC = "elastic"


class Optimiser(StrEnum):
    """What makes a step out of the gradient. `SGD`: stochastic gradient descent with a momentum of 0.9."""

    ADAM = "adam"
    SGD = "sgd"


class Precision(StrEnum):
    """Arithmetic of the forward pass. `AUTO`: bfloat16 where the device is CUDA, float32 elsewhere."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@final
@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Options of the training loop.

    Args:
        epochs: passes over the training split, at least 1.
        batch_size: images per step, at least 1.
        learning_rate: at the schedule's peak.
        weight_decay: L2 coefficient (paper's code: 2e-4; more for ImageNet).
        warmup: share of the steps in which the rate rises linearly; then it falls by half a cosine to 0.
        seed: of the weights, the order of the images and the augmentation.
        patience: end after so many epochs without a new least training loss; 0 never ends early.
        augmentation: random changes of the training images.
        precision: arithmetic of the forward pass.
        gradient_clip: greatest norm of a step's gradient; None never clips.
        optimiser: what makes a step out of the gradient.
        average: weights are averaged over the steps, and each step counts so many times the one behind it, 0 to 1: the
            averaged ones are validated, kept and exported; 0 takes those of the last step.

    Raises:
        ConfigError: if a value has no meaning.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 2e-4
    warmup: float = 0.1
    seed: int = 0
    patience: int = 5
    augmentation: Augmentation = Augmentation.NONE
    precision: Precision = Precision.AUTO
    gradient_clip: float | None = None
    optimiser: Optimiser = Optimiser.ADAM
    average: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"expected a learning rate above 0, got {self.learning_rate}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"expected a weight decay of at least 0, got {self.weight_decay}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"expected a warm-up share in [0, 1), got {self.warmup}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"expected a seed from 0 to 2^31 - 1, got {self.seed}")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ConfigError(f"expected a gradient clip above 0, got {self.gradient_clip}")
        if not 0 <= self.average < 1:
            raise ConfigError(f"expected an average in [0, 1), got {self.average}")
        if self.patience < 0:
            raise ConfigError(f"expected a patience of at least 0, got {self.patience}")

    def describe(self) -> dict[str, Any]:
        """Return the options for checkpoints and run.json; those that came later are named where they are used."""
        options = {key: str(value) if isinstance(value, str) else value for key, value in asdict(self).items()}
        if self.optimiser is Optimiser.ADAM:
            del options["optimiser"]
        if not self.average:
            del options["average"]
        return options


# The paper's code, imagenet_*.json: a momentum of 0.9 and these. Its text says "the same super-parameters as in their
# original experiments"; those of AlexNet and ResNet are (He et al. 2016: 1e-1, 1e-4, batches of 256).
_IMAGENET: Final[Mapping[str, TrainingConfig]] = MappingProxyType(
    {
        "alexnet": TrainingConfig(90, 128, 1e-2, weight_decay=5e-4, optimiser=Optimiser.SGD),
        "vgg11": TrainingConfig(90, 128, 1e-2, weight_decay=5e-4, optimiser=Optimiser.SGD),
        "inception-v1": TrainingConfig(90, 256, 1e-2, weight_decay=5e-4, optimiser=Optimiser.SGD),
        "resnet18": TrainingConfig(150, 256, 1e-1, weight_decay=1e-4, optimiser=Optimiser.SGD),
    }
)


def default_config(data: str, network: str, is_convolutional: bool | None = None) -> TrainingConfig:
    """Return the settings for a data set and network: the paper's where it has them.

    Args:
        data: name of the data set.
        network: name of the network.
        is_convolutional: whether it has convolutions; as the table says where None.

    The batch size is the one of the paper's text (128; its code has 256 on MNIST). Its code trains fully connected
    networks at a rate of 1e-2; ours is 1e-3 (docs/results/cells.md has what comes out). On ImageNet its rate falls
    tenfold four times, ours by the schedule that all trainings share.

    Source: the configuration files of AbsCert's released code.
    """
    if data == "imagenet" and network in _IMAGENET:
        return _IMAGENET[network]
    connected = not (NETWORKS.named(network).is_convolutional if is_convolutional is None else is_convolutional)
    if data == "cifar10":
        augmentation = Augmentation.NONE if connected else Augmentation.CIFAR
        rate = 1e-3 if connected else 3e-3
        return TrainingConfig(epochs=30, batch_size=128, learning_rate=rate, augmentation=augmentation)
    if data == "digits":
        return TrainingConfig(epochs=30, batch_size=64, learning_rate=3e-3)
    return TrainingConfig(epochs=10, batch_size=128, learning_rate=1e-3)


def learning_rate_at(step: int, total: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 0.

    The paper's text has this; its code runs two full cosine periods and ends at the peak.
    """
    warmup = max(1, round(config.warmup * total)) if config.warmup > 0 else 0
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
