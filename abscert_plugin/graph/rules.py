"""What each ONNX operator does with the batch: the table that `batch_obstacle` goes by.

A rule returns what the outputs of a node are, or raises where the images of a batch might meet. An operator without a
rule counts as one that mixes them: write one where a file that is safe is run image by image.
"""

from collections.abc import Mapping
from math import prod
from types import MappingProxyType
from typing import Final

from abscert_plugin.graph.carried import BATCH, Carried, Fixed, NotShownError, Rule, Scope, Sizes, Value

_ALL: Final = ((0, 2**31 - 1, 1), (0, 2**63 - 1, 1))  # starts, ends and steps of slices that take everything
_CROP: Final = b"tf_crop_and_resize"


def _need(holds: bool) -> None:
    if not holds:
        raise NotShownError


def _each_entry(scope: Scope) -> list[Value]:
    axis = scope.carried()
    _need(all(_is_one(scope, place, axis - scope.rank()) for place in range(1, len(scope.node.inputs))))
    return [Carried(axis) for _ in scope.node.outputs]


def _each_image(scope: Scope) -> list[Value]:
    _need(scope.carried() == 0 and scope.rank() >= 2)
    scope.fixed_from(1)
    return [Carried(0)]


def _each_row(scope: Scope) -> list[Value]:
    _need(scope.carried() == 0 and scope.rank() == 2)
    return [Carried(0) for _ in scope.node.outputs]


def _broadcast(scope: Scope) -> list[Value]:
    places = range(len(scope.node.inputs))
    rank = max(map(scope.rank, places))
    # counted from the end, the batch lies on one axis
    (from_end,) = {scope.carried(place) - scope.rank(place) for place in places if scope.is_carried(place)}
    _need(all(scope.is_carried(place) or _is_one(scope, place, from_end) for place in places))
    return [Carried(rank + from_end)]


def _is_one(scope: Scope, place: int, from_end: int) -> bool:
    """Return whether an input is fixed, or left out, and the same along an axis, counted from the end."""
    if not scope.node.has(place):
        return True
    value = scope.value(place)
    if isinstance(value, Carried) or (isinstance(value, Sizes) and value.with_batch):
        return False
    shape = scope.shape(place)
    return len(shape) < -from_end or shape[from_end] == 1


def _along_another_axis(default: int) -> Rule:
    def rule(scope: Scope) -> list[Value]:
        axis = scope.carried()
        # Softmax before opset 13, and LayerNormalization, go over all axes from theirs on
        _need(axis < scope.axis(default, scope.rank()))
        _need(all(_is_one(scope, place, axis - scope.rank()) for place in range(1, len(scope.node.inputs))))
        return [Carried(axis) for _ in scope.node.outputs]

    return rule


def _reduce(scope: Scope) -> list[Value]:
    scope.fixed_from(1)
    axes = scope.integers("axes", 1)
    if not axes:
        _need(bool(scope.node.attributes.get("noop_with_empty_axes", 0)))
        return [Carried(scope.carried())]
    return _without(scope, axes)


def _mean_variance(scope: Scope) -> list[Value]:
    axis, axes = scope.carried(), scope.node.attributes.get("axes", [0, 2, 3])
    _need(axis not in {place % scope.rank() for place in axes})
    return [Carried(axis)]


def _arg_extreme(scope: Scope) -> list[Value]:
    return _without(scope, [int(scope.node.attributes.get("axis", 0))])


def _without(scope: Scope, axes: list[int]) -> list[Value]:
    """Return what is left when axes are reduced."""
    axis, places = scope.carried(), {place % scope.rank() for place in axes}
    _need(axis not in places)
    kept = bool(scope.node.attributes.get("keepdims", 1))
    return [Carried(axis if kept else axis - sum(place < axis for place in places))]


def _matrix_product(scope: Scope) -> list[Value]:
    ranks = scope.rank(0), scope.rank(1)
    rank = max(ranks)
    _need(min(ranks) >= 2)
    ends = [scope.carried(place) - ranks[place] if scope.is_carried(place) else None for place in (0, 1)]
    first, second = ends
    if first is not None and second is not None:
        _need(first == second and first <= -3)
        return [Carried(rank + first)]
    own, place = (first, 1) if first is not None else (second, 0)
    assert own is not None
    _need(own != (-1 if place else -2))  # the axis that is summed over
    _need(own >= -2 or _is_one(scope, place, own))
    return [Carried(rank + own)]


def _gemm(scope: Scope) -> list[Value]:
    _need(scope.carried() == 0 and not scope.node.attributes.get("transA", 0))
    if scope.is_carried(2):
        _need(scope.carried(2) == 0 and scope.rank(2) == 2 and not scope.is_carried(1))
    else:
        scope.fixed_from(1)
        _need(not scope.node.has(2) or _is_one(scope, 2, -2))
    return [Carried(0)]


def _flatten(scope: Scope) -> list[Value]:
    place, rank = int(scope.node.attributes.get("axis", 1)), scope.rank()
    place = place + rank if place < 0 else place
    _need(scope.carried() == 0 and place >= 1 and all(size == 1 for size in scope.shape()[1:place]))
    return [Carried(0)]


def _reshape(scope: Scope) -> list[Value]:
    shape, (first, *rest) = scope.shape(), scope.entries(1)
    _need(scope.carried() == 0 and not (scope.node.attributes.get("allowzero", 0) and 0 in (first, *rest)))
    _need(BATCH not in rest)
    if first not in (BATCH, 0) and (scope.batch is None or first != scope.batch):
        # -1 is the batch where the other sizes make up an image; a -1 among them would make it any number
        sizes = [shape[place] if size == 0 else size for place, size in enumerate(rest, 1)]
        numbers = [size for size in (*shape[1:], *sizes) if isinstance(size, int) and size > 0]
        _need(first == -1 and len(numbers) == len(shape) - 1 + len(rest))
        _need(prod(numbers[: len(shape) - 1]) == prod(numbers[len(shape) - 1 :]))
    return [Carried(0)]


def _squeeze(scope: Scope) -> list[Value]:
    axis, axes = scope.carried(), scope.integers("axes", 1)
    _need(bool(axes))
    places = {place % scope.rank() for place in axes or ()}
    _need(axis not in places)
    return [Carried(axis - sum(place < axis for place in places))]


def _unsqueeze(scope: Scope) -> list[Value]:
    axis, axes = scope.carried(), scope.integers("axes", 1) or []
    rank = scope.rank() + len(axes)
    places = {place % rank for place in axes}
    kept = [place for place in range(rank) if place not in places]
    return [Carried(kept[axis])]


def _transpose(scope: Scope) -> list[Value]:
    rank = scope.rank()
    order = list(scope.node.attributes.get("perm", reversed(range(rank))))
    return [Carried(order.index(scope.carried()))]


def _concatenate(scope: Scope) -> list[Value]:
    axes = {scope.carried(place) for place in range(len(scope.node.inputs))}
    _need(len(axes) == 1 and scope.axis(0, scope.rank()) not in axes)
    return [Carried(axes.pop())]


def _split(scope: Scope) -> list[Value]:
    axis = scope.carried()
    scope.fixed_from(1)
    _need(scope.axis(0, scope.rank()) != axis)
    return [Carried(axis) for _ in scope.node.outputs]


def _slice(scope: Scope) -> list[Value]:
    axis = scope.carried()
    scope.fixed_from(1)
    axes = scope.integers("axes", 3)
    if axes is None:
        axes = list(range(len(scope.integers("starts", 1) or range(scope.rank()))))
    if axis in {place % scope.rank() for place in axes}:
        starts, ends = scope.integers("starts", 1) or [], scope.integers("ends", 2) or []
        steps = scope.integers("steps", 4) or [1] * len(starts)
        along = zip(axes, starts, ends, steps, strict=True)
        # from the first image to behind every batch
        _need(all(one[1:] in _ALL for one in along if one[0] % scope.rank() == axis))
    return [Carried(axis)]


def _gather(scope: Scope) -> list[Value]:
    along = scope.axis(0, scope.rank(0))
    if scope.is_carried(1):
        _need(not scope.is_carried(0))
        scope.fixed_from(2)
        _need(isinstance(scope.value(0), Fixed))
        return [Carried(along + scope.carried(1))]
    axis = scope.carried()
    _need(along != axis)
    return [Carried(axis if axis < along else axis - 1 + scope.rank(1))]


def _pad(scope: Scope) -> list[Value]:
    axis, rank = scope.carried(), scope.rank()
    scope.fixed_from(1)
    pads, axes = scope.integers("pads", 1) or [], scope.integers("axes", 3)
    places = list(range(rank)) if axes is None else [place % rank for place in axes]
    _need(len(pads) == 2 * len(places))
    _need(not any(pads[k] or pads[k + len(places)] for k, place in enumerate(places) if place == axis))
    return [Carried(axis)]


def _expand(scope: Scope) -> list[Value]:
    sizes = scope.entries(1)
    rank = max(len(sizes), scope.rank())
    if scope.is_carried(0):
        from_end = scope.carried() - scope.rank()
        at_batch = sizes[from_end] if len(sizes) >= -from_end else 1
        _need(at_batch in (1, BATCH) and sizes.count(BATCH) == (at_batch == BATCH))
    else:
        _need(sizes.count(BATCH) == 1)
        from_end = sizes.index(BATCH) - len(sizes)
        _need(_is_one(scope, 0, from_end))
    return [Carried(rank + from_end)]


def _filled(scope: Scope) -> list[Value]:
    sizes = scope.entries(0)
    _need(sizes.count(BATCH) == 1)
    return [Carried(sizes.index(BATCH))]


def _tile(scope: Scope) -> list[Value]:
    axis, repeats = scope.carried(), scope.integers("repeats", 1) or []
    _need(len(repeats) == scope.rank() and repeats[axis] == 1)
    return [Carried(axis)]


def _resize(scope: Scope) -> list[Value]:
    axis = scope.carried()
    scope.fixed_from(1)
    attributes = scope.node.attributes
    _need(attributes.get("coordinate_transformation_mode") != _CROP)
    axes = [place % scope.rank() for place in attributes.get("axes", range(scope.rank()))]
    if axis in axes:
        scales = scope.value(2 if len(scope.node.inputs) > 2 else 1)
        _need(isinstance(scales, Fixed) and scales.values is not None and scales.values[axes.index(axis)] == 1)
    return [Carried(axis)]


def _triangle(scope: Scope) -> list[Value]:
    axis = scope.carried()
    scope.fixed_from(1)
    _need(axis < scope.rank() - 2)
    return [Carried(axis)]


def _running_sum(scope: Scope) -> list[Value]:
    axis, along = scope.carried(), scope.integers("", 1) or []
    _need(len(along) == 1 and along[0] % scope.rank() != axis)
    return [Carried(axis)]


def _einsum(scope: Scope) -> list[Value]:
    equation = scope.node.attributes["equation"].decode().replace(" ", "")
    left, output = equation.split("->")
    operands = left.split(",")
    _need("." not in equation and all(len(set(one)) == len(one) for one in [*operands, output]))
    batches = {one[scope.carried(place)] for place, one in enumerate(operands) if scope.is_carried(place)}
    _need(len(batches) == 1)
    (batch,) = batches
    fixed = [one for place, one in enumerate(operands) if not scope.is_carried(place)]
    _need(all(batch not in one for one in fixed) and batch in output)
    return [Carried(output.index(batch))]


def _quantise(scope: Scope) -> list[Value]:
    axis = scope.carried()
    scope.fixed_from(1)
    _need(scope.rank(1) == 0 or (scope.rank(1) == 1 and scope.axis(1, scope.rank()) != axis))
    return [Carried(axis)]


def _shape(scope: Scope) -> list[Value]:
    sizes: list[int | str | None] = list(scope.shape())
    sizes[scope.carried()] = BATCH
    return [Sizes(tuple(sizes[scope.node.attributes.get("start", 0) : scope.node.attributes.get("end")]))]


# --- all the rules ---------------------------------------------------------------------------------------------------

_ENTRYWISE: Final = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
)
ENTRYWISE: Final = frozenset(_ENTRYWISE.split())
"""Operators that make of each entry an entry."""
_BROADCASTING: Final = (
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu Sub Sum Where Xor"
)
_IMAGEWISE: Final = (
    "AveragePool BatchNormalization Conv ConvInteger ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool "
    "GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool QLinearConv SpaceToDepth"
)
_REDUCTIONS: Final = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_ROWWISE: Final = (  # of ai.onnx.ml
    "LinearClassifier LinearRegressor Normalizer SVMClassifier SVMRegressor Scaler TreeEnsemble "
    "TreeEnsembleClassifier TreeEnsembleRegressor"
)

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys(ENTRYWISE, _each_entry),
        **dict.fromkeys(_BROADCASTING.split(), _broadcast),
        **dict.fromkeys(_IMAGEWISE.split(), _each_image),
        **dict.fromkeys(_REDUCTIONS.split(), _reduce),
        **dict.fromkeys((f"ai.onnx.ml.{operator}" for operator in _ROWWISE.split()), _each_row),
        "ArgMax": _arg_extreme,
        "ArgMin": _arg_extreme,
        "Concat": _concatenate,
        "ConstantOfShape": _filled,
        "CumSum": _running_sum,
        "DequantizeLinear": _quantise,
        "Einsum": _einsum,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Gemm": _gemm,
        "Hardmax": _along_another_axis(1),  # the default before opset 13, where all axes behind it were one
        "LayerNormalization": _along_another_axis(-1),
        "LogSoftmax": _along_another_axis(1),
        "LpNormalization": _along_another_axis(-1),
        "MatMul": _matrix_product,
        "MeanVarianceNormalization": _mean_variance,
        "Pad": _pad,
        "QuantizeLinear": _quantise,
        "RMSNormalization": _along_another_axis(-1),
        "Reshape": _reshape,
        "Resize": _resize,
        "Shape": _shape,
        "Slice": _slice,
        "Softmax": _along_another_axis(1),
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "TopK": _along_another_axis(-1),
        "Transpose": _transpose,
        "Trilu": _triangle,
        "Unsqueeze": _unsqueeze,
        "Upsample": _resize,
    }
)
"""From an operator to what it does with a batch."""
