"""The table from a network's name to its builder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

import torch
from torch import nn

from abscert_plugin.draws import drawing_from
from abscert_plugin.networks import dm, fc, imagenet
from abscert_plugin.networks.activation import Activation
from abscert_plugin.networks.shape import InputShape
from abscert_plugin.plugins import Registry

Builder: TypeAlias = Callable[[InputShape, int, Activation], nn.Module]


@final
@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """A row of the table of networks.

    Args:
        name: what `--network` takes.
        build: makes the network for the shape of its input, a number of classes and an activation function.
        is_convolutional: whether it has convolutions; the others are trained without augmentation.
    """

    name: str
    build: Builder
    is_convolutional: bool = True


NETWORKS: Final = Registry(
    NetworkEntry,
    (
        NetworkEntry("dm-small", dm.DM_SMALL.build),
        NetworkEntry("dm-medium", dm.DM_MEDIUM.build),
        NetworkEntry("dm-large", dm.DM_LARGE.build),
        NetworkEntry("cnn-2layer", dm.CNN_2LAYER.build),
        NetworkEntry("cnn-3layer", dm.CNN_3LAYER.build),
        NetworkEntry("cnn-3layer-wide", dm.CNN_3LAYER_WIDE.build),
        NetworkEntry("cnn-7", dm.CNN_7.build),
        NetworkEntry("fc-3", fc.FC_3.build, is_convolutional=False),
        NetworkEntry("fc-5", fc.FC_5.build, is_convolutional=False),
        NetworkEntry("fc-3-code", fc.FC_3_CODE.build, is_convolutional=False),
        NetworkEntry("fc-5-code", fc.FC_5_CODE.build, is_convolutional=False),
        NetworkEntry("alexnet", imagenet.ALEXNET.build),
        NetworkEntry("vgg11", imagenet.VGG11.build),
        NetworkEntry("inception-v1", imagenet.INCEPTION_V1.build),
        NetworkEntry("resnet18", imagenet.RESNET18.build),
    ),
    ("abscert.networks",),
    "network",
)
"""Every network by its name; a package adds one through the entry-point group `abscert.networks`."""


@final
@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Which network to build.

    Args:
        name: a key of `NETWORKS`.
        activation: its activation function.
        image_shape: (channels, height, width) of an image, before abstraction.
        classes: number of classes.
        takes_intervals: whether its input is the interval image (2C channels) or the image itself (C channels).
        own: builds a network that is in no table, for the shape of its input; its first weights stay as they are built.

    Raises:
        ConfigError: if the name is not in the table.
    """

    name: str
    activation: Activation
    image_shape: InputShape
    classes: int
    takes_intervals: bool = True
    own: Callable[[InputShape], nn.Module] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.own is None:
            NETWORKS.named(self.name)

    @property
    def title(self) -> str:
        """What an ONNX file's metadata call it."""
        return f"{self.name}-{self.activation}" if self.own is None else self.name

    @property
    def input_shape(self) -> InputShape:
        """Shape of the network's input, without the batch."""
        channels, height, width = self.image_shape
        return (2 * channels if self.takes_intervals else channels), height, width

    def empty(self) -> nn.Module:
        """Return the network without memory for its weights: they have shapes alone.

        Raises:
            ConfigError: if the image is too small for the network.
        """
        with torch.device("meta"):
            return NETWORKS[self.name].build(self.input_shape, self.classes, self.activation)

    def build(self, seed: int) -> nn.Module:
        """Return the network with Xavier-uniform weights and zero biases, drawn from this seed alone.

        One of `own` stays as it is built, under this seed.

        Source: AbsCert's code for the initialisation.

        Raises:
            ConfigError: if the image is too small for the network.
        """
        with drawing_from(seed):
            if self.own is not None:
                return self.own(self.input_shape)
            network = NETWORKS[self.name].build(self.input_shape, self.classes, self.activation)
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        return network
