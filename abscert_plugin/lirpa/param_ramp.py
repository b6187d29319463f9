"""ParamRamp for auto_LiRPA: the lines between which it lies, and the operator that hands them over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.lines import ramp_lines
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.operator import activation_class
from abscert_plugin.networks.param_ramp import LEAST_BEND_POINT, ParamRamp, ramps_of

_OPERATOR: Final = "abscert::ParamRamp"


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
