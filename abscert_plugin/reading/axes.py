"""What torch computes for ONNX operators along axes: reductions, softmax and normalisations."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from abscert_plugin.graph.walk import need
from abscert_plugin.reading.building import Computed, View
from abscert_plugin.reading.functions import of_first, root

_SOFTMAX_PER_AXIS: Final = 13  # before, a softmax goes over all axes from its own on
_GROUP_BY_CHANNEL: Final = 21  # before, a group has one scale


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[View], Computed]:
    def rule(view: View) -> Computed:
        if view.reduces_nothing():
            return of_first(lambda values: values)
        axes, keeps = view.reduced_axes()
        return of_first(lambda values: function(values, axes, keeps))

    return rule


def _product(values: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in reversed(axes):
        values = values.prod(axis, keepdim=keeps)
    return values


def _length(values: Tensor, axes: list[int], keeps: bool) -> Tensor:
    return root(values.square().sum(axes, keepdim=keeps))


def _arg_extreme(sign: int) -> Callable[[View], Computed]:
    def rule(view: View) -> Computed:
        view.require(select_last_index=0)
        axis, keeps = view.axis(0, len(view.shape()) + 1), bool(view.attribute("keepdims", 1))
        return Computed((lambda values: (sign * values).argmax(axis, keepdim=keeps).float(),))

    return rule


def _shared(function: Callable[[Tensor, int], Tensor]) -> Callable[[View], Computed]:
    def rule(view: View) -> Computed:
        shape, is_new = view.shape(), view.walk.graph.opset >= _SOFTMAX_PER_AXIS
        axis = view.axis(-1 if is_new else 1, len(shape) + 1)
        if is_new:
            return Computed((lambda values: function(values, axis),))
        return Computed((lambda values: function(values.flatten(axis), axis).reshape(len(values), *shape),))

    return rule


def _running_sum(view: View) -> Computed:
    axis = int(view.array(1).reshape(-1)[0]) % (len(view.shape()) + 1)
    is_exclusive, is_reverse = view.attribute("exclusive", 0), view.attribute("reverse", 0)

    def summed(values: Tensor) -> Tensor:
        turned = values.flip(axis) if is_reverse else values
        sums = turned.cumsum(axis) - (turned if is_exclusive else 0)
        return sums.flip(axis) if is_reverse else sums

    return of_first(summed)


def _unit_length(view: View) -> Computed:
    order, axis = int(view.attribute("p", 2)), view.axis(-1, len(view.shape()) + 1)
    return Computed((lambda values: functional.normalize(values, order, axis),))


# --- normalisations --------------------------------------------------------------------------------------------------


def _standardised(values: Tensor, axes: list[int], epsilon: float, is_centred: bool = True) -> Tensor:
    apart = values - values.mean(axes, keepdim=True) if is_centred else values
    return apart / (apart.square().mean(axes, keepdim=True) + epsilon).sqrt()


def _layer_norm(view: View, is_centred: bool = True) -> Computed:
    rank, epsilon = len(view.shape()) + 1, float(view.attribute("epsilon", 1e-5))
    axes = list(range(view.axis(-1, rank), rank))

    def normalised(values: Tensor, scale: Tensor, *bias: Tensor) -> Tensor:
        return sum(bias, _standardised(values, axes, epsilon, is_centred) * scale)

    return Computed((normalised,))


def _instance_norm(view: View) -> Computed:
    axes, epsilon = list(range(2, len(view.shape()) + 1)), float(view.attribute("epsilon", 1e-5))

    def normalised(values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        by_channel = (-1, *(1 for _ in axes))
        return _standardised(values, axes, epsilon) * scale.reshape(by_channel) + bias.reshape(by_channel)

    return Computed((normalised,))


def _group_norm(view: View) -> Computed:
    groups, channels = int(view.attribute("num_groups", 1)), view.shape()[0]
    epsilon = float(view.attribute("epsilon", 1e-5))
    each = 1 if view.walk.graph.opset >= _GROUP_BY_CHANNEL else channels // groups

    def normalised(values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        own = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return functional.group_norm(values, groups, *own, epsilon)

    return Computed((normalised,))


def _mean_variance(view: View) -> Computed:
    axes = [axis % (len(view.shape()) + 1) for axis in view.attribute("axes", [0, 2, 3])]
    need(0 not in axes, "expected the images of a batch to stay apart")
    return Computed((lambda values: _standardised(values, axes, 1e-18),))


def _local_response(view: View) -> Computed:
    size, alpha = int(view.attribute("size", 1)), float(view.attribute("alpha", 1e-4))
    beta, bias, channels = float(view.attribute("beta", 0.75)), float(view.attribute("bias", 1.0)), view.shape()[0]

    def normalised(values: Tensor) -> Tensor:
        squares = functional.pad(values.flatten(2).square(), (0, 0, (size - 1) // 2, size // 2))
        total = torch.stack([squares[:, start : start + channels] for start in range(size)]).sum(0)
        return values / (bias + alpha / size * total.reshape(values.shape)) ** beta

    return Computed((normalised,))


def _batch_norm(view: View) -> Computed:
    view.require(training_mode=0)
    epsilon = float(view.attribute("epsilon", 1e-5))

    def normalised(values: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(values, mean, variance, scale, shift, eps=epsilon)

    return Computed((normalised,))


AXES: Final[Mapping[str, Callable[[View], Computed]]] = MappingProxyType(
    {
        "ArgMax": _arg_extreme(1),
        "ArgMin": _arg_extreme(-1),
        "BatchNormalization": _batch_norm,
        "CumSum": _running_sum,
        "GroupNormalization": _group_norm,
        "InstanceNormalization": _instance_norm,
        "LRN": _local_response,
        "LayerNormalization": _layer_norm,
        "LogSoftmax": _shared(torch.log_softmax),
        "LpNormalization": _unit_length,
        "MeanVarianceNormalization": _mean_variance,
        "RMSNormalization": lambda view: _layer_norm(view, False),
        "ReduceL1": _reduced(lambda values, axes, keeps: values.abs().sum(axes, keepdim=keeps)),
        "ReduceL2": _reduced(_length),
        "ReduceLogSum": _reduced(lambda values, axes, keeps: values.sum(axes, keepdim=keeps).log()),
        "ReduceLogSumExp": _reduced(lambda values, axes, keeps: values.logsumexp(axes, keepdim=keeps)),
        "ReduceMax": _reduced(lambda values, axes, keeps: values.amax(axes, keepdim=keeps)),
        "ReduceMean": _reduced(lambda values, axes, keeps: values.mean(axes, keepdim=keeps)),
        "ReduceMin": _reduced(lambda values, axes, keeps: values.amin(axes, keepdim=keeps)),
        "ReduceProd": _reduced(_product),
        "ReduceSum": _reduced(lambda values, axes, keeps: values.sum(axes, keepdim=keeps)),
        "ReduceSumSquare": _reduced(lambda values, axes, keeps: values.square().sum(axes, keepdim=keeps)),
        "Softmax": _shared(torch.softmax),
    }
)
"""From an operator along axes to what its output is of its inputs."""
