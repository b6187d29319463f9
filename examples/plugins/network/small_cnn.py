"""A network for abscert: one convolution of stride 2 and one linear layer."""

from torch import nn

from abscert_plugin.networks import Activation, InputShape, NetworkEntry
from abscert_plugin.networks.activation import ACTIVATIONS


def build(shape: InputShape, classes: int, activation: Activation) -> nn.Sequential:
    """Return the network for inputs of this shape: 2 x channels where it is trained on intervals."""
    channels, height, width = shape
    hidden = (16, (height + 1) // 2, (width + 1) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, hidden[0], kernel_size=3, stride=2, padding=1),
        ACTIVATIONS[activation](hidden),
        nn.Flatten(),
        nn.Linear(hidden[0] * hidden[1] * hidden[2], classes),
    )


CNN_1LAYER = NetworkEntry("cnn-1layer", build)
