"""Steps in fewer bits than float32: which there are, and what a step has to know of them."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from onnx import TensorProto, helper

from abscert_plugin.bounds.proof.activations import RELU, Function, Piecewise
from abscert_plugin.bounds.proof.affine import Affine, Join, Shift
from abscert_plugin.bounds.proof.arithmetic import BRAIN, HALF, Format
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.moves import Concatenation, Move
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.s_shaped import SIGMOID, TANH, SShaped
from abscert_plugin.graph.walk import need

_KINDS: Final = {TensorProto.FLOAT16: HALF, TensorProto.BFLOAT16: BRAIN}
_TYPES: Final = {np.dtype(helper.tensor_dtype_to_np_dtype(number)): kind for number, kind in _KINDS.items()}
NARROW: Final[Mapping[np.dtype, Format]] = MappingProxyType(
    {given: kind for given, kind in _TYPES.items() if given != np.float32}  # which stands for bfloat16 in older onnx
)
"""Types of fewer bits that a proof knows. Of bfloat16 it knows moves and casts, all that onnxruntime's CPU runs."""

_HALF_SIGMOID_ERROR: Final = 2 * 2.44166e-04
_HALF_TANH_ERROR: Final = 2 * 2.44057e-04
"""Assumed largest errors of float16: twice what benchmarks/activation_error.py saw over all its arguments."""


def in_format(step: Step, kind: Format, values: Mapping[str, Enclosure]) -> Step:
    """Return a step that is computed in a format of fewer bits.

    Args:
        step: the step.
        kind: the format.
        values: what is known of what it reads.

    Raises:
        UnsupportedNodeError: if nothing is known of it there.
    """
    if isinstance(step, Move | Concatenation):
        return step
    if isinstance(step, Affine):
        return replace(step, kind=kind, subnormal=_subnormal(step, kind, values[step.input]))
    if isinstance(step, Shift | Join | Largest):
        return replace(step, kind=kind)
    need(isinstance(step, Activation), f"no bounds of it in {kind.name}")
    assert isinstance(step, Activation)
    return replace(step, kind=kind, function=_in_format(step.function, kind))


def _subnormal(step: Affine, kind: Format, value: Enclosure) -> float:
    absolute = step.map.weights.absolute
    flushable = absolute.where(absolute < kind.tiny, 0.0)
    return float(step.map.apply(flushable, torch.ones_like(value.lower)).max()) if bool(flushable.any()) else 0.0


def _in_format(function: Function, kind: Format) -> Function:
    if isinstance(function, SShaped) and kind.name == HALF.name:
        errors = {SIGMOID.shift: _HALF_SIGMOID_ERROR, TANH.shift: _HALF_TANH_ERROR}
        return replace(function, error=errors[function.shift])
    is_clip = isinstance(function, Piecewise) and not function.roundings and kind.name == HALF.name
    if isinstance(function, Piecewise) and is_clip:
        need(all(float(np.float16(kink)) == kink for kink in function.kinks), "expected ends that are float16")
    need(function is RELU or is_clip, f"no bounds of it in {kind.name}")
    return function
