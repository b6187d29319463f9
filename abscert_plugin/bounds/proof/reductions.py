"""From ONNX nodes that make one number of several entries, and softmax among them, to steps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic, functions
from abscert_plugin.bounds.proof.activations import Interval
from abscert_plugin.bounds.proof.blocks import function_of, mean_of, square_of
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.nonlinear import Largest
from abscert_plugin.bounds.proof.pairs import Ranged, corners
from abscert_plugin.bounds.proof.softmax import Softmax, log_softmax, log_sum_exp

_SOFTMAX_PER_AXIS: Final = 13  # before, a softmax goes over all axes from its own on


def _largest(view: View) -> None:
    axes, keeps = view.reduced_axes()
    view.walk.append(Largest(view.output, view.name(), lambda values: values.amax(axes, keepdim=keeps)))


def _ranged(view: View, ends: Callable[[Interval], Interval]) -> None:
    view.walk.append(Ranged(view.output, (view.name(),), ends))


def _least(view: View) -> None:
    axes, keeps = view.reduced_axes()

    def ends(given: Interval) -> Interval:
        return given[0].amin(axes, keepdim=keeps), given[1].amin(axes, keepdim=keeps)

    _ranged(view, ends)


def _product(view: View) -> None:
    axes, keeps = view.reduced_axes()

    def ends(given: Interval) -> Interval:
        flat = [_apart(end, axes) for end in given]
        low, high = flat[0][..., 0], flat[1][..., 0]
        reach = torch.ones_like(low)
        for place in range(1, flat[0].shape[-1]):
            low, high = corners((low, high), (flat[0][..., place], flat[1][..., place]))
        for place in range(flat[0].shape[-1]):
            reach = reach * torch.maximum(flat[0][..., place].abs(), flat[1][..., place].abs()).clamp(min=1)
        count = flat[0].shape[-1]
        share = arithmetic.gamma(count) + arithmetic.own_gamma(count + 8)
        error = share * torch.maximum(low.abs(), high.abs()) + arithmetic.underflow(4.0 * count) * reach
        is_known = reach < arithmetic.LARGEST / 2  # products on the way do not overflow
        found = ((low - error).where(is_known, -torch.inf), (high + error).where(is_known, torch.inf))
        return (_kept(found[0], axes), _kept(found[1], axes)) if keeps else found

    _ranged(view, ends)


def _apart(values: Tensor, axes: list[int]) -> Tensor:
    """Return values with some axes moved behind the others, as one."""
    others = [axis for axis in range(values.ndim) if axis not in axes]
    return values.permute(*others, *axes).flatten(len(others))


def _kept(values: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        values = values.unsqueeze(axis)
    return values


def _sum_of(view: View, kind: str) -> None:
    """Sums of sizes or squares, and the root or logarithm of a sum."""
    axes, keeps = view.reduced_axes()
    source, last = view.name(), view.output
    if kind == "ReduceL1":
        mean_of(view, function_of(view, source, functions.ABS), axes, keeps, True, last)
    elif kind == "ReduceSumSquare":
        mean_of(view, square_of(view, source), axes, keeps, True, last)
    elif kind == "ReduceL2":
        function_of(view, mean_of(view, square_of(view, source), axes, keeps, True), functions.SQRT, last)
    else:
        function_of(view, mean_of(view, source, axes, keeps, True), functions.LOG, last)


def _sum_rule(kind: str) -> Callable[[View], None]:
    return lambda view: _sum_of(view, kind)


def _log_sum_exp(view: View) -> None:
    axes, keeps = view.reduced_axes()
    _ranged(view, log_sum_exp(axes, keeps))


def _shared_axes(view: View) -> list[int]:
    rank, is_new = len(view.shape()) + 1, view.walk.graph.opset >= _SOFTMAX_PER_AXIS
    axis = view.axis(-1 if is_new else 1, rank)
    return [axis] if is_new else list(range(axis, rank))


def _softmax(view: View) -> None:
    view.walk.append(Softmax(view.output, view.name(), tuple(_shared_axes(view))))


def _first_largest(sign: int) -> Callable[[View], None]:
    """Return the rule of the place of the largest entry, or the smallest; of several, a runtime names any."""

    def rule(view: View) -> None:
        axis, keeps = view.axis(0, len(view.shape()) + 1), bool(view.attribute("keepdims", 1))
        view.attribute("select_last_index", 0)  # whichever it is, any is allowed

        def ends(given: Interval) -> Interval:
            lower, upper = given if sign > 0 else (-given[1], -given[0])
            may = upper >= lower.amax(axis, keepdim=True)
            size = lower.shape[axis]
            places = torch.arange(size, dtype=lower.dtype).reshape(-1, *(1 for _ in lower.shape[axis + 1 :]))
            low = torch.where(may, places, float(size)).amin(axis, keepdim=keeps)
            return low, torch.where(may, places, -1.0).amax(axis, keepdim=keeps)

        _ranged(view, ends)

    return rule


REDUCTIONS: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "ArgMax": _first_largest(1),
        "ArgMin": _first_largest(-1),
        "LogSoftmax": lambda view: _ranged(view, log_softmax(_shared_axes(view))),
        **{kind: _sum_rule(kind) for kind in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare")},
        "ReduceLogSumExp": _log_sum_exp,
        "ReduceMax": _largest,
        "ReduceMin": _least,
        "ReduceProd": _product,
        "Softmax": _softmax,
    }
)
