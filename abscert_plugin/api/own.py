"""A caller's own network and own loss, as what the training loop knows: a builder and a method."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from abscert_plugin.abstraction import LevelAbstraction
from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.networks.shape import InputShape
from abscert_plugin.training.objective import Moment, Objective
from abscert_plugin.wording import one_line

Network: TypeAlias = str | nn.Module | Callable[[int], nn.Module]
"""The name of a network of ours, a torch module, or a function of the number of input channels that returns one.

On cells a network reads interval images: 2C channels for images of C, first the lower ends of all cells, then the upper
ones. Without cells it reads the images themselves. Both are on the training scale [-1, 1], and the exported files take
pixels in [0, 1] all the same."""

Loss: TypeAlias = Callable[..., Tensor]
"""Called with (network, images, labels), and with `radius=` where it has a parameter of that name; returns the loss."""

_TRIED: Final = 2  # images that a network is tried on


def network_name(network: nn.Module | Callable[[int], nn.Module]) -> str:
    """Return what records call a caller's network: its class, or the function that builds it."""
    if isinstance(network, nn.Module):
        return type(network).__name__
    return str(getattr(network, "__name__", type(network).__name__)).strip("<>")


def builder(
    network: nn.Module | Callable[[int], nn.Module], channels: int, classes: int, takes_intervals: bool
) -> Callable[[InputShape], nn.Module]:
    """Return what builds a caller's network for the shape of its input, tried on two black images.

    A module is copied, so that the caller's stays as it is; its weights are where the training begins.

    Args:
        network: a module, or a function of the number of channels.
        channels: of an image.
        classes: how many logits it has to give.
        takes_intervals: whether it reads interval images.
    """

    def build(shape: InputShape) -> nn.Module:
        try:
            made = copy.deepcopy(network) if isinstance(network, nn.Module) else network(shape[0])
        except Exception as error:  # whatever the caller's code raises
            raise ConfigError(f"{network_name(network)} cannot be built: {one_line(error)}") from error
        if not isinstance(made, nn.Module):
            raise ConfigError(f"expected {network_name(network)} to return a torch module, got {type(made).__name__}")
        _try(made, network_name(network), shape, channels, classes, takes_intervals)
        if any(one.dtype != torch.float32 for one in made.parameters()) or not any(True for _ in made.parameters()):
            raise ConfigError(f"expected {network_name(network)} to have parameters, all of float32")
        return made

    return build


def _try(made: nn.Module, name: str, shape: InputShape, channels: int, classes: int, takes_intervals: bool) -> None:
    """Run a network on black images.

    Raises:
        ConfigError: if it does not take them, or gives no logits.
    """
    was_training = made.training
    try:
        with torch.no_grad():
            found = made.eval()(torch.full((_TRIED, *shape), -1.0))
    except Exception as error:  # whatever the caller's code raises
        why = (
            f"; on cells a network reads 2 x {channels} channels, the lower and the upper end of each pixel's cell: "
            f"build it for {shape[0]}, or pass a function of the number of channels"
            if takes_intervals
            else ""
        )
        raise ConfigError(f"{name} does not take images of shape {shape}: {one_line(error)}{why}") from error
    finally:
        made.train(was_training)
    if not isinstance(found, Tensor) or tuple(found.shape) != (_TRIED, classes):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"expected {name} to return logits of shape {(_TRIED, classes)} for {_TRIED} images, got {got}"
        )


@final
@dataclass(frozen=True)
class OwnLoss:
    """A method of training whose loss is a caller's function; its epoch is chosen by plain errors.

    Args:
        function: the loss.
        takes_intervals: whether the network reads interval images.
        radius: the ball that the function is told of, if it has a parameter `radius`.
    """

    function: Loss
    takes_intervals: bool
    radius: Radius | None = None

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__name__", type(self.function).__name__)).strip("<>")

    @property
    def claim(self) -> str:
        """What its validation error is of: `cell` on cells, else `clean`, which claims nothing."""
        return "cell" if self.takes_intervals else "clean"

    @property
    def told(self) -> Mapping[str, Any]:
        """What the function is told besides network, images and labels."""
        has_radius = "radius" in inspect.signature(self.function).parameters
        if not has_radius:
            return {}
        if self.radius is None:
            raise ConfigError(f"expected a --radius: {self.name} has a parameter of that name")
        return {"radius": 2 * self.radius.outward}

    def prepare(self, network: nn.Module) -> None:
        """Leave the network."""

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective."""
        encode = None if grid is None else LevelAbstraction(grid, levels).to(device)
        return _OwnObjective(self, encode, levels)

    def describe(self) -> Mapping[str, Any]:
        """Return the function's name, and the radius that it is told."""
        radius = self.radius.as_options() if self.told and self.radius is not None else {}
        return {"loss": self.name, **radius}


@final
class _OwnObjective:
    def __init__(self, method: OwnLoss, abstraction: nn.Module | None, levels: int) -> None:
        self.name = method.name
        self.claim = method.claim
        self._function = method.function
        self._told = method.told
        self._abstraction = abstraction
        self._levels = levels

    def encode(self, images: UInt8[Tensor, "batch channels height width"]) -> Shaped[Tensor, "batch *feature"]:
        """Return the images, or their interval images, on the training scale."""
        if self._abstraction is None:
            return 2 * (images.float() / self._levels) - 1
        found: Tensor = self._abstraction(images)
        return found

    def loss(
        self,
        network: nn.Module,
        inputs: Shaped[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        moment: Moment,  # noqa: ARG002 - the function is not told
    ) -> Float[Tensor, ""]:
        """Return what the caller's function gives.

        Raises:
            ConfigError: if that is no loss.
        """
        found = self._function(network, inputs, labels, **self._told)
        if not isinstance(found, Tensor) or found.ndim != 0 or not found.requires_grad:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"expected the loss {self.name} to return one number with a gradient, got {got}")
        return found.float()

    def margins(
        self, network: nn.Module, inputs: Shaped[Tensor, "batch *feature"], labels: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        """Return the margins on the images, or on their cells."""
        return logit_margins(network(inputs).float(), labels)
