"""Constants that a runtime takes for those of a function that it knows, although they are others.

onnxruntime replaces nodes that spell out Gelu, its approximation by tanh, LayerNormalization or attention by one node
of that function, and takes a number for √2, 1, ½, 0.044715 and so on within a hundred-thousandth of it (and more in
float16).
What it then computes is another function than the file's, so that no proof of the file holds of it.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from abscert_plugin.bounds.proof.building import SAME, View
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.walk import need

_MOVING: Final = (*SAME, "Reshape", "Transpose")
_MASKS: Final = ("Equal", "Gather", "Slice")
_GATES: Final = frozenset({"Erf", "Tanh"})
_FACTORS: Final = (
    1.0,
    0.5,
    math.sqrt(2),
    math.sqrt(0.5),
    0.044715,
    math.sqrt(2 / math.pi),
    0.044715 * math.sqrt(2 / math.pi),
)
_EXPONENTS: Final = (2.0, 3.0)
_NEAR: Final = 2e-5  # twice what onnxruntime has
_NEAR_IN_HALF: Final = 1e-2


def has_gates(graph: Graph, source: str) -> bool:
    """Return whether nodes between a tensor and the output may spell out Gelu."""
    return any(node.operator in _GATES for node in graph.between(source))


def need_splits_apart(graph: Graph) -> None:
    """Raise where two Splits make equal parts along the same axis, and one makes more of them.

    If they read the same, onnxruntime leaves the second one out, whatever the number of its outputs, and gives out
    those of the first one.
    """
    counts: dict[int, int] = {}
    for node in graph.nodes:
        if node.operator == "Split" and not node.has(1) and not {"split", "num_outputs"} & set(node.attributes):
            count = counts.setdefault(node.attributes.get("axis", 0), len(node.outputs))
            need(count == len(node.outputs), f"{node}: expected sizes of its parts; onnxruntime joins it with another")


def need_no_lookalike(view: View, has_gates: bool) -> None:
    """Raise where a node's constant is nearly, and not quite, one of those of a function that runtimes recognise."""
    if view.node.operator == "Sqrt":
        _need_normalisation(view)
        return
    if view.node.operator == "Softmax":
        _need_no_mask(view)
        return
    if view.node.operator == "Div":
        _need_root_of_attention(view)
    if view.node.operator == "Pow":
        numbers: Sequence[float] = _EXPONENTS
    elif has_gates and view.node.operator in ("Add", "Div", "Mul"):
        numbers = _FACTORS
    else:
        return
    for place, name in enumerate(view.node.inputs):
        array = view.walk.arrays.get(name)
        if not view.is_constant(place) or (array is not None and array.dtype.kind != "f"):
            continue
        is_half = array is not None and array.dtype == np.float16
        lower, upper = view.constant(place).computed()
        if lower.numel() == 1:
            for number in numbers:
                _need_exact(float(lower), float(upper), number, is_half)


def _need_normalisation(view: View) -> None:
    """Raise where a root is that of a variance plus a constant, but for layer normalisation as it is spelled out.

    onnxruntime takes it for that whatever the power, the epsilon and the order of what is subtracted, added or divided.
    An epsilon is so small that a node which adds it does next to nothing.
    """
    for total in view.givers(view.node.inputs[0], SAME):
        if total.operator == "Add":
            _need_plain(view, total)


def _need_plain(view: View, total: Node) -> None:
    """Raise where a sum is one of a variance, and not as layer normalisation is spelled out."""
    means = [view.giver(name, SAME) for name in total.inputs]
    squares = [view.giver(mean.inputs[0], SAME) for mean in means if mean is not None and mean.operator == "ReduceMean"]
    powers = [node for node in squares if node is not None and node.operator in ("Mul", "Pow")]
    if not powers:
        return
    epsilon, power = view.walk.arrays.get(total.inputs[1]), powers[0]
    is_plain = epsilon is not None and epsilon.size == 1
    exponent = view.walk.arrays.get(power.inputs[1])
    is_plain &= power.operator == "Mul" or (exponent is not None and exponent.size == 1 and bool((exponent == 2).all()))
    differences = [view.giver(power.inputs[0], SAME)]
    for node in view.walk.graph.nodes:
        if node.operator == "Div":
            above, below = (view.giver(name, SAME) for name in node.inputs)
            is_plain &= above is not view.node
            differences += [above] if below is view.node else []
    for difference in differences:
        if difference is not None and difference.operator == "Sub":
            first = view.giver(difference.inputs[0], SAME)
            is_plain &= first is None or first.operator != "ReduceMean"
    need(is_plain, "expected (x - mean) / sqrt(variance + number) in this order; runtimes take all else for it too")


def _need_no_mask(view: View) -> None:
    """Raise where a softmax reads what onnxruntime takes for a mask of attention, and computes in another way."""
    path = view.givers(view.node.inputs[0], _MOVING)
    names = [name for total in path if total.operator == "Add" for name in total.inputs]
    terms = [node for name in names for node in view.givers(name, _MOVING)]
    for node in terms:
        if node.operator == "Mul":
            _need_no_factor_of_mask(view, node)
    for node in (*path, *terms):
        if node.operator == "Where":
            _need_no_choice_by_mask(view, node)


def _need_no_factor_of_mask(view: View, product: Node) -> None:
    """Raise where a product is one of (1 - mask), of a mask that is read, or whose size is: it is no constant then.

    onnxruntime takes attention with such a sum for one node, which reads the mask as whole numbers.
    """
    for difference in (view.giver(name, _MOVING) for name in product.inputs):
        if difference is not None and difference.operator == "Sub" and difference.inputs[0] not in view.walk.values:
            mask = view.giver(difference.inputs[1], _MOVING)
            is_mask = mask is not None and mask.operator == "Unsqueeze" and _is_fed(view, mask.outputs[0])
            need(not is_mask, "expected no mask that is computed; runtimes read it as whole numbers in attention")


def _need_no_choice_by_mask(view: View, choice: Node) -> None:
    """Raise where entries are replaced by a number: by a comparison, or by parts of a mask that is cut to a size.

    onnxruntime takes attention with such a choice for one node, which adds the number or gives no weight instead,
    reads what is compared as whole numbers, and knows no factors of a Gemm before it.
    """
    condition = view.giver(choice.inputs[0], (*_MOVING, "Not"))
    is_mask = condition is not None and condition.operator in _MASKS and _is_fed(view, condition.outputs[0])
    need(not is_mask, "expected no choice by a mask before it; runtimes compute attention with it in another way")


def _is_fed(view: View, name: str) -> bool:
    """Return whether a tensor depends on what is fed, or on its size: runtimes fold all others first."""
    names, seen = [name], set[str]()
    while names:
        name = names.pop()
        node = view.walk.givers.get(name)
        if name not in seen and node is not None:
            names += [*node.inputs, *node.captured]
        seen.add(name)
    return view.walk.graph.input in seen


def _need_root_of_attention(view: View) -> None:
    """Raise where a product of two values is divided by nearly the root of how many entries each sum has."""
    product, values = view.giver(view.node.inputs[0], SAME), view.walk.values
    if product is None or product.operator != "MatMul" or not view.is_constant(1):
        return
    if all(name in values for name in product.inputs) and view.constant(1).lower.numel() == 1:
        lower, upper = view.constant(1).computed()
        _need_exact(float(lower), float(upper), math.sqrt(values[product.inputs[0]].lower.shape[-1]), False)


def _need_exact(lower: float, upper: float, number: float, is_half: bool) -> None:
    room = (_NEAR_IN_HALF if is_half else _NEAR) * number
    is_near = lower <= number + room and upper >= number - room
    same = number if is_half else float(np.float32(number))
    need(
        not is_near or lower <= same <= upper,
        f"{lower:.9g} is nearly {number:.9g}, for which runtimes may take it; write that number itself",
    )
