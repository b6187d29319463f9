"""The activation functions that every network can be built with."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from torch import nn

from abscert_plugin.networks.param_ramp import ParamRamp


class Activation(StrEnum):
    """Name of an activation function."""

    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    PARAM_RAMP = "param-ramp"


ACTIVATIONS: Final[Mapping[Activation, Callable[[tuple[int, ...]], nn.Module]]] = MappingProxyType(
    {
        Activation.RELU: lambda _: nn.ReLU(),
        Activation.SIGMOID: lambda _: nn.Sigmoid(),
        Activation.TANH: lambda _: nn.Tanh(),
        Activation.PARAM_RAMP: ParamRamp,
    }
)
"""How each is made, for a layer of this shape (without the batch)."""
