"""The convolutional networks: DM-small, -medium and -large of the paper's code, and CNNs of 2, 3 and 7 layers."""

from dataclasses import dataclass
from typing import Final, final

from torch import nn

from abscert_plugin.errors import ConfigError
from abscert_plugin.networks.activation import ACTIVATIONS, Activation
from abscert_plugin.networks.shape import InputShape, windows


@final
@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution: number of filters, kernel size, stride and padding."""

    filters: int
    kernel: int
    stride: int
    padding: int


@final
@dataclass(frozen=True, slots=True)
class ConvolutionalPlan:
    """Convolutions, then fully connected hidden layers of these widths; an activation after each.

    Args:
        convolutions: the convolutions.
        widths: widths of the fully connected hidden layers.
        is_normalised: whether a BatchNorm layer stands before each activation.
    """

    convolutions: tuple[Convolution, ...]
    widths: tuple[int, ...]
    is_normalised: bool = False

    def build(self, shape: InputShape, classes: int, activation: Activation) -> nn.Sequential:
        """Return the network; `shape` is that of its input, interval image or plain image.

        Raises:
            ConfigError: if the image is too small for the convolutions.
        """
        layers: list[nn.Module] = []
        channels, height, width = shape
        for plan in self.convolutions:
            layers.append(nn.Conv2d(channels, plan.filters, plan.kernel, plan.stride, plan.padding))
            height, width = (windows(size, plan.kernel, plan.stride, plan.padding) for size in (height, width))
            channels = plan.filters
            if min(height, width) < 1:
                raise ConfigError(f"expected images large enough for this network, got {shape[1]}x{shape[2]}")
            layers += [nn.BatchNorm2d(channels)] if self.is_normalised else []
            layers.append(ACTIVATIONS[activation]((channels, height, width)))
        layers.append(nn.Flatten())
        features = channels * height * width
        for hidden in self.widths:
            layers.append(nn.Linear(features, hidden))
            layers += [nn.BatchNorm1d(hidden)] if self.is_normalised else []
            layers.append(ACTIVATIONS[activation]((hidden,)))
            features = hidden
        return nn.Sequential(*layers, nn.Linear(features, classes))


DM_SMALL: Final = ConvolutionalPlan((Convolution(16, 4, 2, 2), Convolution(32, 4, 1, 2)), (100,))
DM_MEDIUM: Final = ConvolutionalPlan(
    (Convolution(32, 3, 1, 1), Convolution(32, 4, 2, 2), Convolution(64, 3, 1, 1), Convolution(64, 4, 2, 2)),
    (512, 512),
)
DM_LARGE: Final = ConvolutionalPlan(
    (
        Convolution(64, 3, 1, 1),
        Convolution(64, 3, 1, 1),
        Convolution(128, 3, 2, 1),
        Convolution(128, 3, 1, 1),
        Convolution(128, 3, 1, 1),
    ),
    (512,),
)
# CROWN-IBP's model_cnn_2layer with width 4: DM-small with strides of 2, a fifth of its cost
CNN_2LAYER: Final = ConvolutionalPlan((Convolution(16, 4, 2, 1), Convolution(32, 4, 2, 1)), (100,))
# a wider CNN-2layer with a third convolution: as strong as DM-medium on MNIST for a fifth of its cost
CNN_3LAYER: Final = ConvolutionalPlan(
    (Convolution(32, 4, 2, 1), Convolution(64, 4, 2, 1), Convolution(128, 3, 2, 1)), (256,)
)
CNN_3LAYER_WIDE: Final = ConvolutionalPlan(  # what a ball of 0.3 leaves of MNIST is too much for the one above
    (Convolution(64, 4, 2, 1), Convolution(128, 4, 2, 1), Convolution(256, 3, 2, 1)), (256,)
)
# the network of the later certified-training papers, such as Shi et al. 2021
CNN_7: Final = ConvolutionalPlan(DM_LARGE.convolutions, DM_LARGE.widths, is_normalised=True)
