"""From ONNX nodes that are affine entry by entry to steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Join, Shift
from abscert_plugin.bounds.proof.bends import bent_sum
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.constants import reciprocal, reshaped, weights
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import Scale, Weights
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.graph.walk import need

_MOVING: Final = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def _sum(view: View, sign: int) -> None:
    if view.is_constant(1):
        source, bias = _pair(view, 0, 1)
        view.walk.append(Shift(view.output, source, 1, bias.negated() if sign < 0 else bias))
    elif view.is_constant(0):
        source, bias = _pair(view, 1, 0)
        view.walk.append(Shift(view.output, source, sign, bias))
    else:
        shape = np.broadcast_shapes(view.shape(0), view.shape(1))
        need(len(view.shape(0)) == len(view.shape(1)), "expected two values of one rank")
        first, second = (_expanded(view, view.name(place), shape) for place in (0, 1))
        total = Join(view.part(), first, second, sign)
        bent = bent_sum(view.walk.steps, view.output, total)
        view.walk.append(replace(total, output=view.output) if bent is None else total)
        if bent is not None:
            view.walk.append(bent)


def _pair(view: View, place: int, constant_place: int) -> tuple[str, Enclosure]:
    """Return a value and a constant that goes with it entry by entry; the value is repeated where it has to be."""
    constant, shape = view.constant(constant_place), view.shape(place)
    given = tuple(constant.lower.shape)
    need(len(given) <= len(shape) + 1, f"expected a constant that goes with {shape}, got {given}")
    need(len(given) <= len(shape) or given[0] == 1, "expected the same constant for all images")
    full = (1,) * (len(shape) + 1 - len(given)) + given
    joint = np.broadcast_shapes(shape, full[1:])
    return _expanded(view, view.name(place), joint), reshaped(constant, full)


def _expanded(view: View, name: str, shape: Sequence[int]) -> str:
    if tuple(view.walk.values[name].lower.shape[1:]) == tuple(shape):
        return name
    return view.move(name, lambda values: values.expand(len(values), *shape))


def _multiply(view: View) -> None:
    place = 0 if view.is_constant(1) else 1
    need(view.is_constant(1 - place), "expected a constant as one factor")
    source, factor = _pair(view, place, 1 - place)
    view.affine(source, Scale(weights(factor)))


def _divide(view: View) -> None:
    need(view.is_constant(1), "expected a constant divisor")
    source, divisor = _pair(view, 0, 1)
    view.affine(source, Scale(reciprocal(divisor)))


def _negate(view: View) -> None:
    view.walk.append(Shift(view.output, view.name(), -1, None))


def _need_columns_as_channels(view: View, channels: int) -> None:
    """Raise where onnxruntime joins it with a matrix product before it, of which its channels are not the columns.

    It does so across any Reshape and Transpose, wherever there are as many columns as channels (MatmulBNFusion).
    """
    product, walk = view.giver(view.node.inputs[0], _MOVING), view.walk
    if product is None or product.operator != "MatMul" or product.outputs[0] not in walk.values:
        return
    steps, name, moves = {step.output: step for step in walk.steps}, view.name(), list[Move]()
    while name != product.outputs[0]:
        step = steps[name]
        moves += [step] if isinstance(step, Move) else []
        name = step.inputs[0]
    shape = walk.values[name].lower.shape
    if shape[-1] != channels:
        return
    columns = torch.arange(channels, dtype=torch.float64)
    found = columns.expand(shape)
    for move in reversed(moves):
        found = move.move(found)
    wanted = columns.reshape(1, -1, *(1 for _ in found.shape[2:]))
    need(bool((found == wanted).all()), "expected columns of the MatMul before it as channels; onnxruntime joins them")


def _batch_normalisation(view: View) -> None:
    """Scale and shift of each channel; the runtime may compute scale / sqrt(var + eps) first, or last."""
    view.require(training_mode=0, spatial=1)
    need(len(view.node.outputs) == 1, "expected a BatchNormalization of inference")
    need(bool(view.shape()), "expected channels")
    rank, channels = len(view.shape()) - 1, view.shape()[0]
    _need_columns_as_channels(view, channels)
    arrays = [torch.from_numpy(view.array(place).astype("float64")) for place in range(1, 5)]
    for place in range(1, 5):
        given = view.constant(place).lower.shape  # float32 and finite
        need(given == (channels,), f"expected a constant for each of {channels} channels, got {tuple(given)}")
    scale, shift, mean, variance = (array.reshape(1, -1, *(1 for _ in range(rank))) for array in arrays)
    variance = variance + float(view.attribute("epsilon", 1e-5))
    need(bool((variance >= 2.0**-100).all()), "expected variances well above 0")  # so a flushed one changes little
    inverse = variance.rsqrt()
    factor = scale * inverse
    offset = shift - mean * factor
    own = arithmetic.own_gamma(16)
    absolute = factor.abs() * (1 + own)
    size = (shift.abs() + mean.abs() * absolute) * (1 + own)
    gain = max(1.0, float(scale.abs().max())) * max(1.0, float(inverse.max()))
    underflow = arithmetic.underflow(8.0) * gain
    made = Weights(factor, absolute, own * absolute, 6, float(underflow), gain)
    bias = Enclosure(
        offset - own * size,
        offset + own * size,
        size,
        9,
        torch.tensor([underflow * (1 + float(mean.abs().max()))], dtype=torch.float64),
        (1 + mean.abs().max() + shift.abs().max()).reshape(1),
        gain,
    ).checked()
    need(bool(bias.magnitude.isfinite().all()), "its constants overflow")
    # differences from the mean, times one factor
    peak = gain * (1 + float(mean.abs().max())) * 2
    view.affine(view.name(), Scale(made), bias, peak=peak, underflows=8 * gain)


AFFINE_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Add": lambda view: _sum(view, 1),
        "BatchNormalization": _batch_normalisation,
        "Div": _divide,
        "Mul": _multiply,
        "Neg": _negate,
        "Sub": lambda view: _sum(view, -1),
    }
)
