"""The activation functions that every network can be built with."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from torch import nn


class Activation(StrEnum):
    """Name of an activation function."""

    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"


ACTIVATIONS: Final[Mapping[Activation, Callable[[], nn.Module]]] = MappingProxyType(
    {Activation.RELU: nn.ReLU, Activation.SIGMOID: nn.Sigmoid, Activation.TANH: nn.Tanh}
)
