"""How a node is read: by layers that auto_LiRPA bounds, else by a function of torch, which has gradients.

What auto_LiRPA 0.3 makes of each function was found by trying: `tests/bounds/proof/test_reading_operators.py`.
"""

from typing import Final

import numpy as np

from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.reading.axes import AXES
from abscert_plugin.reading.building import LayerOutput, Value, View
from abscert_plugin.reading.functions import FUNCTIONS
from abscert_plugin.reading.layers import Applied
from abscert_plugin.reading.moves import MOVES
from abscert_plugin.reading.rules import RULES
from abscert_plugin.reading.windows import WINDOWS

COMPUTED: Final = {**AXES, **FUNCTIONS, **MOVES, **WINDOWS}
KNOWN: Final = frozenset({*RULES, *COMPUTED})
"""Operators that can be read."""

_AFFINE: Final = frozenset(
    {
        *("Add", "Concat", "Div", "Mean", "Mul", "Neg", "Sub", "Sum", "Where"),
        *("BatchNormalization", "CumSum", "DequantizeLinear", "Einsum", "Gemm", "MatMul", "ReduceMean", "ReduceSum"),
        *("AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool"),
        *("ai.onnx.ml.LinearClassifier", "ai.onnx.ml.Scaler"),
        *MOVES,
    }
)
"""Operators that are affine in one input where the others are constants."""

_ENTRYWISE: Final = frozenset({"Add", "Max", "Mean", "Min", "Mul", "Sub", "Sum"})
"""Of several values entry by entry, bounded where these have one shape: then none has to be repeated."""

BOUNDED: Final = _ENTRYWISE | {
    *("Abs", "Clip", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "MatMul", "PRelu"),
    *("ReduceL1", "ReduceLogSum", "ReduceSumSquare"),
}
"""Operators whose functions auto_LiRPA 0.3 bounds as they are.

Of the others it refuses most; it computes something else for LayerNormalization and InstanceNormalization, has
intervals alone for Softmax, Softplus, Mish, ReduceMax and Gelu by tanh, and bounds that samples exceed for Div and Pow.
"""


def read_node(view: View) -> Value | list[Value]:
    """Return what the outputs of a node are; nodes that have gradients alone are named in the view's walk.

    Raises:
        UnsupportedNodeError: if no layer and no function stands for it.
    """
    rule, function = RULES.get(view.node.operator), COMPUTED.get(view.node.operator)
    reason = "no bounds of it"
    if rule is not None:
        try:
            return rule(view)
        except UnsupportedNodeError as error:
            reason = str(error)
            if function is None:
                raise
    assert function is not None  # else the walk had refused the operator
    return [_layer(view, reason, layer, read) for layer, read in view.computed(function(view))]


def _layer(view: View, reason: str, layer: Applied, read: list[LayerOutput]) -> Value:
    operator = view.node.operator
    is_affine = operator in _AFFINE and len(read) == 1 and (operator != "Div" or not view.is_constant(0))
    made = view.walk.append_dense(layer, read[0]) if is_affine else None
    if made is not None:
        return made
    if operator not in BOUNDED:
        view.walk.unbounded.append(f"{view.node}: {reason}")
    elif operator in _ENTRYWISE:
        read = [_expanded(view, one, np.broadcast_shapes(*(other.shape for other in read))) for one in read]
    return view.walk.append(layer, *read)


def _expanded(view: View, value: LayerOutput, shape: tuple[int, ...]) -> LayerOutput:
    """Return a value repeated along axes of one entry."""
    if value.shape == shape:
        return value
    layer = Applied(lambda values: values.expand(len(values), *shape))
    found = view.walk.append_dense(layer, value)
    if found is None:
        view.walk.unbounded.append(f"{view.node}: expected values of one shape, got {value.shape} and {shape}")
    return value if found is None else found
