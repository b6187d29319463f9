"""ParamRamp for auto_LiRPA: the lines between which it lies, and the operator that hands them over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.operator import activation_class
from abscert_plugin.networks.param_ramp import LEAST_BEND_POINT, ParamRamp, ramps_of

_OPERATOR: Final = "abscert::ParamRamp"


@final
@dataclass(frozen=True, slots=True)
class Lines:
    """Two lines for each neuron: slope times input plus offset, from below and from above; no slope is below 0."""

    lower_slope: Float[Tensor, "batch *feature"]
    lower_offset: Float[Tensor, "batch *feature"]
    upper_slope: Float[Tensor, "batch *feature"]
    upper_offset: Float[Tensor, "batch *feature"]


def ramp_lines(
    lower: Float[Tensor, "batch *feature"],
    upper: Float[Tensor, "batch *feature"],
    bend_point: Float[Tensor, "*feature"],
    eta: Float[Tensor, ""],
    bends: Bool[Tensor, ""],
) -> Lines:
    """Return lines that enclose a ParamRamp between two ends, differentiable in all but `bends`.

    Where the function is a line between the ends, both are that line. Else each side that has one chord above (or
    below) the function takes it, and the other takes of the two lines that touch it at the bend the one that
    leaves less area: the lower line through 0 with slope 1 where upper > -lower, else eta; the upper through the
    bend point r with slope eta where upper - r > r - lower, else y = x or, below 0, the chord to the bend.

    Soundness: the lines hold for every input from `lower` to `upper`, up to the rounding of the arithmetic.

    Args:
        lower: lower ends.
        upper: upper ends, at least the lower ones.
        bend_point: where the right bend is (r); what is below `LEAST_BEND_POINT` counts as that.
        eta: the slope at both ends, 0 to 1; with eta 0 and no bend these are the adaptive lines of a ReLU.
        bends: whether there is a right bend.

    Source: Lyu et al. 2021, section 5; case by case as their code has them (bound_param_ramp.py, adaptive lower line).
    """
    bend = bend_point.clamp(min=LEAST_BEND_POINT)
    one = torch.ones_like(lower)
    zero = torch.zeros_like(lower)
    bent = bends & (upper > bend)
    beyond = bends & (lower >= bend)
    across_zero = (lower < 0) & (upper > 0)
    across_bend = bent & ~beyond
    at_end = eta * one
    beyond_offset = (1 - eta) * bend

    # the lower line where no right bend is crossed
    low_is_steep = torch.where(across_zero, upper > -lower, upper > 0) & ~beyond
    lower_slope = torch.where(low_is_steep, one, at_end)
    lower_offset = torch.where(beyond, beyond_offset, zero)
    # else the chord from where the function turns up to the upper end
    start = lower.clamp(min=0)
    run = torch.where(across_bend, upper - start, one)
    chord = torch.where(across_bend, bend + eta * (upper - bend) - start, one) / run
    is_chord = across_bend & low_is_steep
    lower_slope = torch.where(is_chord, chord, lower_slope)
    lower_offset = torch.where(is_chord, start - chord * start, lower_offset)

    # the upper line: the chord from the lower end to where the function turns down
    top = torch.where(bent, bend.expand_as(upper), upper)
    run = torch.where(across_zero, top - lower, one)
    chord = torch.where(across_zero, top - eta * lower, one) / run
    upper_slope = torch.where(across_zero, chord, torch.where((upper > 0) & ~beyond, one, at_end))
    upper_offset = torch.where(across_zero, (eta - chord) * lower, zero)
    is_flat = beyond | (across_bend & (upper - bend > bend - lower))
    upper_slope = torch.where(is_flat, at_end, upper_slope)
    upper_offset = torch.where(is_flat, beyond_offset, upper_offset)
    return Lines(lower_slope, lower_offset, upper_slope, upper_offset)


def bounded_with_ramps(network: nn.Module, make: Callable[[], Any]) -> Any:
    """Return the bounded module that `make` traces a network into, its ParamRamp layers each one bounded operator.

    The operators read bend points, eta and whether there is a bend from the layers themselves, at every call, so
    bounds follow them as training goes on.

    Args:
        network: what `make` traces.
        make: returns a `BoundedModule`.

    Raises:
        ConfigError: if auto_LiRPA is not installed.
    """
    ramps = ramps_of(network)
    if not ramps:
        return make()
    _register()
    with _as_operators(ramps):
        bounded = make()
    # auto_LiRPA copies buffers when it traces; parameters it shares
    own = {
        f"{name}.{key}" if name else key: buffer
        for name, layer in network.named_modules()
        if isinstance(layer, ParamRamp)
        for key, buffer in layer.named_buffers()
    }
    for node in bounded._modules.values():
        if "buffer" in node._buffers and node.ori_name in own:
            node.buffer = own[node.ori_name]
            node.from_input = False  # as in 0.7; forward mode of 0.3 takes it for a batch of inputs
    return bounded


@contextmanager
def _as_operators(ramps: list[ParamRamp]) -> Iterator[None]:
    """Let a trace show each of the layers as one node; every other export sees plain operators."""
    for layer in ramps:
        layer.forward = partial(_as_operator, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in ramps:
            del layer.forward


def _as_operator(layer: ParamRamp, inputs: Tensor) -> Tensor:
    return _Traced.apply(inputs, layer.bend_point, layer.eta, layer.bends)  # type: ignore[no-untyped-call]


def _ramp(inputs: Tensor, bend_point: Tensor, eta: Tensor, bends: Tensor) -> Tensor:
    beyond = functional.relu(inputs - bend_point.clamp(min=LEAST_BEND_POINT))
    rising = functional.relu(inputs) - torch.where(bends, beyond, torch.zeros_like(beyond))
    return eta * inputs + (1 - eta) * rising


@final
class _Traced(torch.autograd.Function):
    """ParamRamp as one node of a trace. Only traces run it, so it has no gradient."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, bend_point: Tensor, eta: Tensor, bends: Tensor) -> Tensor:
        """Return the activations."""
        del ctx
        return _ramp(inputs, bend_point, eta, bends)

    @staticmethod
    def symbolic(graph: Any, inputs: Any, *state: Any) -> Any:
        """Return the node."""
        return graph.op(_OPERATOR, inputs, *state).setType(inputs.type())


@cache
def _register() -> None:
    load_lirpa().register_custom_op(_OPERATOR, _bound_class())


def _bound_class() -> Any:
    """Return the class of auto_LiRPA nodes; its inputs besides the layer's are the layer's own state."""
    base: Any = activation_class()

    def forward(self: Any, inputs: Tensor, *state: Tensor) -> Tensor:
        del self
        return _ramp(inputs, *state)

    def interval_propagate(self: Any, *intervals: Any) -> tuple[Tensor, Tensor]:
        del self
        (lower, upper), state = intervals[0], [pair[0] for pair in intervals[1:]]
        return _ramp(lower, *state), _ramp(upper, *state)

    def bound_relax(self: Any, x: Any, init: bool = False) -> None:
        del init
        lines = ramp_lines(x.lower, x.upper, *(node.forward() for node in self.inputs[1:]))
        self.lw, self.lb = lines.lower_slope, lines.lower_offset
        self.uw, self.ub = lines.upper_slope, lines.upper_offset

    def bound_backward(self: Any, last_lower: Any, last_upper: Any, x: Any, *state: Any, **options: Any) -> Any:
        slopes, low, high = base.bound_backward(self, last_lower, last_upper, x, **options)
        return [*slopes, *[(None, None)] * len(state)], low, high

    def bound_forward(self: Any, dim_in: int, x: Any, *state: Any) -> Any:
        del state
        return base.bound_forward(self, dim_in, x)

    members = {
        member.__name__: member for member in (forward, interval_propagate, bound_relax, bound_backward, bound_forward)
    }
    return type("BoundParamRamp", (base,), members)
