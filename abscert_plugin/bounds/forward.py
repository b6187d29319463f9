"""LBP and CROWN-LBP: linear bounds carried forward from the input, and a backward pass that starts from them.

LBP keeps, for every neuron z, planes L x + l <= z <= U x + u over the box of inputs x. An affine layer takes the plane
below where its weight is positive and the one above where it is negative, and the other way round; an activation is
enclosed in two lines between the bounds that the planes have over the box. CROWN-LBP is CROWN's backward pass for the
margins, with the lines of LBP. Both serve evaluation: a batch of B needs memory and time of order B * inputs * width.

Source: Lyu et al. 2021, "Towards Evaluating and Training Verifiably Robust Neural Networks", section 3 (LBP, there
"relaxed CROWN") and section 4 (its relation to CROWN and IBP); Zhang et al. 2018, section 3 (CROWN).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

from abscert_plugin.bounds.lines import Lines, ramp_lines
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks.param_ramp import ParamRamp


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """Ends between which the neurons of a layer lie."""

    lower: Float[Tensor, "batch *feature"]
    upper: Float[Tensor, "batch *feature"]


@torch.no_grad()
def lbp_bounds(
    network: nn.Sequential, lower: Float[Tensor, "batch *feature"], upper: Float[Tensor, "batch *feature"]
) -> tuple[Bounds, ...]:
    """Return LBP's bounds before each activation, in order, and of what the network returns.

    Soundness: every input between the ends has neurons between the bounds, up to the rounding of the arithmetic.

    Args:
        network: of Conv2d, Linear, Flatten, ReLU and ParamRamp layers.
        lower: lower ends of the boxes.
        upper: upper ends.

    Raises:
        ConfigError: if the network has another layer.
    """
    planes = _identity(lower)
    found = []
    for layer in network:
        if isinstance(layer, _ACTIVATIONS):
            bounds = _concrete(planes, lower, upper)
            found.append(bounds)
            planes = _through_lines(planes, _lines(layer, bounds))
        else:
            planes = _through_affine(layer, planes)
    return (*found, _concrete(planes, lower, upper))


@torch.no_grad()
def crown_lbp_margins(
    network: nn.Sequential,
    lower: Float[Tensor, "batch *feature"],
    upper: Float[Tensor, "batch *feature"],
    labels: Int64[Tensor, "batch"],
) -> Float[Tensor, "batch classes"]:
    """Return CROWN-LBP's lower bounds of the label's logit minus each logit over the boxes; 0 at the label itself.

    In exact arithmetic every input between the ends has margins at least these.

    Args:
        network: as in `lbp_bounds`; its last layer gives logits.
        lower: lower ends of the boxes.
        upper: upper ends.
        labels: the class whose margins are bounded, for each box.

    Raises:
        ConfigError: if the network has another layer.
    """
    *hidden, logits = lbp_bounds(network, lower, upper)
    batch, classes = logits.lower.shape
    eye = torch.eye(classes, dtype=lower.dtype, device=lower.device)
    slopes = eye[labels][:, None] - eye  # [batch, classes, logits], zero at the label
    offset = lower.new_zeros(batch, classes)
    shapes = _shapes(network, lower)
    for layer, shape in zip(reversed(network), reversed(shapes), strict=True):
        if isinstance(layer, _ACTIVATIONS):
            lines = _lines(layer, hidden.pop())
            above, below = slopes.clamp(min=0), slopes.clamp(max=0)
            offset = offset + _dot(above, lines.lower_offset) + _dot(below, lines.upper_offset)
            slopes = above * lines.lower_slope[:, None] + below * lines.upper_slope[:, None]
        else:
            if getattr(layer, "bias", None) is not None:
                bias = _zero_response(layer, shape, lower)
                offset = offset + _dot(slopes, bias.expand(batch, *bias.shape[1:]))
            slopes = _transposed(layer)(layer, slopes.flatten(0, 1), shape).unflatten(0, (batch, classes))
    bounds = offset + _dot(slopes, (lower + upper) / 2) - _dot(slopes.abs(), (upper - lower) / 2)
    return bounds.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf).scatter(1, labels[:, None], 0.0)


class _Planes(NamedTuple):
    """Planes below and above each neuron: slopes [batch, inputs, *feature] and offsets [batch, *feature]."""

    low: Tensor
    low_offset: Tensor
    high: Tensor
    high_offset: Tensor


def _identity(lower: Tensor) -> _Planes:
    batch, count = len(lower), lower[0].numel()
    eye = torch.eye(count, dtype=lower.dtype, device=lower.device).reshape(count, *lower.shape[1:])
    slopes, offset = eye.expand(batch, *eye.shape), torch.zeros_like(lower)
    return _Planes(slopes, offset, slopes, offset)


def _concrete(planes: _Planes, lower: Tensor, upper: Tensor) -> Bounds:
    """Return the least and largest values of the planes over the boxes."""
    center, radius = ((upper + lower) / 2).flatten(1), ((upper - lower) / 2).flatten(1)

    def over_box(slopes: Tensor, sign: int) -> Tensor:
        return torch.einsum("bi,bi...->b...", center, slopes) + sign * torch.einsum(
            "bi,bi...->b...", radius, slopes.abs()
        )

    low = planes.low_offset + over_box(planes.low, -1)
    return Bounds(low, planes.high_offset + over_box(planes.high, 1))


def _through_lines(planes: _Planes, lines: Lines) -> _Planes:
    """Return the planes after an activation: none of its lines falls, so planes keep their sides."""
    return _Planes(
        planes.low * lines.lower_slope[:, None],
        planes.low_offset * lines.lower_slope + lines.lower_offset,
        planes.high * lines.upper_slope[:, None],
        planes.high_offset * lines.upper_slope + lines.upper_offset,
    )


def _through_affine(layer: nn.Module, planes: _Planes) -> _Planes:
    product = _product(layer)
    batch, inputs = planes.low.shape[:2]

    def slopes(same: Tensor, other: Tensor) -> Tensor:
        return product(layer, same.flatten(0, 1), other.flatten(0, 1)).unflatten(0, (batch, inputs))

    bias = _zero_response(layer, planes.low_offset.shape[1:], planes.low_offset)
    return _Planes(
        slopes(planes.low, planes.high),
        product(layer, planes.low_offset, planes.high_offset) + bias,
        slopes(planes.high, planes.low),
        product(layer, planes.high_offset, planes.low_offset) + bias,
    )


def _shapes(network: nn.Sequential, inputs: Tensor) -> list[tuple[int, ...]]:
    """Return the shape that each layer is fed, without the batch."""
    values, shapes = inputs[:1], []
    for layer in network:
        shapes.append((*values.shape[1:],))
        values = layer(values)
    return shapes


def _zero_response(layer: nn.Module, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return what a layer gives for zeros: its bias, spread over its output, [1, *feature]."""
    return layer(like.new_zeros(1, *shape))


def _dot(slopes: Tensor, values: Tensor) -> Tensor:
    """Return, for each row of slopes [batch, rows, *feature], its product with values [batch, *feature]."""
    return torch.einsum("brf,bf->br", slopes.flatten(2), values.flatten(1))


def _lines(layer: nn.Module, bounds: Bounds) -> Lines:
    if isinstance(layer, ParamRamp):
        return ramp_lines(bounds.lower, bounds.upper, layer.bend_point, layer.eta, layer.bends)
    # a ParamRamp with slope 0 and no bend
    nowhere, flat = bounds.lower.new_zeros(bounds.lower.shape[1:]), bounds.lower.new_zeros(())
    return ramp_lines(bounds.lower, bounds.upper, nowhere, flat, flat.bool())


# What each layer does to slopes: the sum of W+ same + W- other, and the product with the transpose of W.


def _linear(layer: nn.Linear, same: Tensor, other: Tensor) -> Tensor:
    return functional.linear(same, layer.weight.clamp(min=0)) + functional.linear(other, layer.weight.clamp(max=0))


def _convolution(layer: nn.Conv2d, same: Tensor, other: Tensor) -> Tensor:
    def convolved(values: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(values, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)

    return convolved(same, layer.weight.clamp(min=0)) + convolved(other, layer.weight.clamp(max=0))


def _flatten(layer: nn.Flatten, same: Tensor, other: Tensor) -> Tensor:
    del other
    return layer(same)


def _linear_back(layer: nn.Linear, slopes: Tensor, shape: tuple[int, ...]) -> Tensor:
    del shape
    return slopes @ layer.weight


def _convolution_back(layer: nn.Conv2d, slopes: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = (len(slopes), *shape)
    if isinstance(layer.padding, str):
        raise ConfigError(f"expected a padding in pixels, got {layer.padding!r}")
    return conv2d_input(size, layer.weight, slopes, layer.stride, layer.padding, layer.dilation, layer.groups)


def _flatten_back(layer: nn.Flatten, slopes: Tensor, shape: tuple[int, ...]) -> Tensor:
    del layer
    return slopes.reshape(len(slopes), *shape)


_ACTIVATIONS: Final = (nn.ReLU, ParamRamp)
_PRODUCTS: Final[Mapping[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]]] = MappingProxyType(
    {nn.Linear: _linear, nn.Conv2d: _convolution, nn.Flatten: _flatten}
)
_TRANSPOSED: Final[Mapping[type[nn.Module], Callable[[Any, Tensor, tuple[int, ...]], Tensor]]] = MappingProxyType(
    {nn.Linear: _linear_back, nn.Conv2d: _convolution_back, nn.Flatten: _flatten_back}
)


def _product(layer: nn.Module) -> Callable[[Any, Tensor, Tensor], Tensor]:
    if type(layer) not in _PRODUCTS:
        known = ", ".join(kind.__name__ for kind in (*_PRODUCTS, *_ACTIVATIONS))
        raise ConfigError(f"expected a network of the layers {known} for LBP, got {type(layer).__name__}")
    return _PRODUCTS[type(layer)]


def _transposed(layer: nn.Module) -> Callable[[Any, Tensor, tuple[int, ...]], Tensor]:
    return _TRANSPOSED[type(layer)]
