"""The fully connected networks FC-3 and FC-5, in both readings.

The paper's text says 3 and 5 layers, which we read as layers of weights; its code builds one hidden layer of 512
for FC-3, and two of 512 and 128 for FC-5.
"""

from dataclasses import dataclass
from math import prod
from typing import Final, final

from torch import nn

from abscert_plugin.networks.activation import ACTIVATIONS, Activation
from abscert_plugin.networks.shape import InputShape


@final
@dataclass(frozen=True, slots=True)
class ConnectedPlan:
    """Fully connected hidden layers of these widths, an activation after each."""

    widths: tuple[int, ...]

    def build(self, shape: InputShape, classes: int, activation: Activation) -> nn.Sequential:
        """Return the network; `shape` is that of its input, interval image or plain image."""
        layers: list[nn.Module] = [nn.Flatten()]
        features = prod(shape)
        for hidden in self.widths:
            layers += [nn.Linear(features, hidden), ACTIVATIONS[activation]((hidden,))]
            features = hidden
        return nn.Sequential(*layers, nn.Linear(features, classes))


FC_3: Final = ConnectedPlan((512, 512))
FC_5: Final = ConnectedPlan((512, 512, 512, 512))
FC_3_CODE: Final = ConnectedPlan((512,))
FC_5_CODE: Final = ConnectedPlan((512, 128))
