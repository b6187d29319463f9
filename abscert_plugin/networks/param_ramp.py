"""ParamRamp: an activation that bends back to a small slope beyond a point that each neuron learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.errors import ConfigError

ETA: Final = 0.01
LEAST_BEND_POINT: Final = 1e-4
"""Bend points count as at least this; that of the paper's code."""


@final
class ParamRamp(nn.Module):
    """A ramp between two gentle slopes: eta x below 0, x up to r, and r + eta (x - r) beyond it.

    It begins without its right bend, as a leaky ReLU. `begin_bend` puts each bend point (r) at the mean of the
    activations that were seen (`collecting`); from then on it is trained. All of this is in the `state_dict`, so a
    training that is killed in between goes on as if it had not been.

    Args:
        shape: of what it is fed, without the batch: each neuron has a bend point of its own.
        eta: slope of both ends, 0 to 1.

    Raises:
        ConfigError: if eta has no meaning.

    Source: Lyu et al. 2021, "Towards Evaluating and Training Verifiably Robust Neural Networks", section 5
    (ParamRamp). The formula of `forward` is the same function written with two ReLUs, which every verifier reads.
    """

    eta: Tensor
    bends: Tensor
    seen_sum: Tensor
    seen_count: Tensor

    def __init__(self, shape: tuple[int, ...], eta: float = ETA) -> None:
        super().__init__()
        self.bend_point = nn.Parameter(torch.ones(shape))
        self.register_buffer("eta", torch.tensor(0.0))
        self.register_buffer("bends", torch.tensor(False))
        self.register_buffer("seen_sum", torch.zeros(shape))
        self.register_buffer("seen_count", torch.tensor(0))
        self._is_bent, self._is_flat = False, False  # what the buffers say, without waiting for an accelerator
        self._collects = False
        self.register_load_state_dict_post_hook(_read_buffers)  # type: ignore[no-untyped-call]
        self.set_eta(eta)

    @property
    def bent_at(self) -> Tensor:
        """The bend points as they count, differentiable."""
        # clamp(min=...), in operators that the ONNX exporter computes at once, so that none of it is in the file
        is_low = (self.bend_point < LEAST_BEND_POINT).to(self.bend_point.dtype)
        return (1 - is_low) * self.bend_point + is_low * LEAST_BEND_POINT

    @property
    def is_bent(self) -> bool:
        """Whether the right bend has begun."""
        return self._is_bent

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the activations.

        Args:
            inputs: [batch, *shape]. A check of shapes, as other functions have it, would be part of a trace.
        """
        rising = functional.relu(inputs)
        if self._is_bent:
            rising = rising - functional.relu(inputs - self.bent_at)
        # with eta = 0 a file needs no product, behind which a chain of roundings would go on
        outputs = rising if self._is_flat else self.eta * inputs + (1 - self.eta) * rising
        if self._collects:
            self._collect(outputs)
        return outputs

    def train(self, mode: bool = True) -> Self:
        """Change the mode, once the buffers are read, which are all that an average of weights takes."""
        self._read()
        return super().train(mode)

    def set_eta(self, eta: float) -> None:
        """Change the slope of both ends.

        Raises:
            ConfigError: if it is not from 0 to 1.
        """
        if not 0 <= eta <= 1:
            raise ConfigError(f"expected eta from 0 to 1, got {eta}")
        self.eta.fill_(eta)
        self._is_flat = torch.tensor(eta, device="cpu").item() == 0  # in float32, as the buffer has it

    def _read(self) -> None:
        if not self.bends.is_meta:  # whose network computes nothing but shapes
            self._is_bent, self._is_flat = bool(self.bends), bool(self.eta == 0)

    def begin_bend(self) -> None:
        """Let the right bend begin, at the mean of the activations seen of each neuron, negative ones included.

        Raises:
            ConfigError: if nothing was seen.
        """
        if not int(self.seen_count):
            raise ConfigError(
                "expected activations to set the bend points from, got none; run inputs under `collecting`"
            )
        with torch.no_grad():
            self.bend_point.copy_((self.seen_sum / self.seen_count).clamp(min=LEAST_BEND_POINT))
        self.bends.fill_(True)
        self._is_bent = True

    @torch.no_grad()
    def raise_bend_points(self) -> None:
        """Raise bend points that a step took below the least to it: below it they would have no gradient any more."""
        self.bend_point.clamp_(min=LEAST_BEND_POINT)

    @torch.no_grad()
    def _collect(self, outputs: Tensor) -> None:
        self.seen_sum += outputs.sum(dim=0, dtype=self.seen_sum.dtype)
        self.seen_count += len(outputs)


def _read_buffers(layer: nn.Module, incompatible: Any) -> None:
    del incompatible
    assert isinstance(layer, ParamRamp)
    layer._read()


def ramps_of(network: nn.Module) -> list[ParamRamp]:
    """Return the layers of this kind."""
    return [layer for layer in network.modules() if isinstance(layer, ParamRamp)]


@contextmanager
def collecting(network: nn.Module) -> Iterator[None]:
    """Let the ramps of a network add up their activations, for `begin_bend`."""
    ramps = ramps_of(network)
    for layer in ramps:
        layer._collects = True
    try:
        yield
    finally:
        for layer in ramps:
            layer._collects = False
