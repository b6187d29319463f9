"""From ONNX nodes that read several values, or compare them, to steps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from abscert_plugin.bounds.proof import functions
from abscert_plugin.bounds.proof.activations import Interval
from abscert_plugin.bounds.proof.affine import Join
from abscert_plugin.bounds.proof.affine_rules import AFFINE_RULES
from abscert_plugin.bounds.proof.blocks import as_values, divided_by, function_of, product_of, square_of
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.gates import gate_of
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.pairs import Choice, Product, Ranged, Selection
from abscert_plugin.bounds.proof.product_rules import PRODUCT_RULES
from abscert_plugin.bounds.proof.quantised import QUANTISED_RULES
from abscert_plugin.bounds.proof.smooth_rules import give
from abscert_plugin.graph.walk import need


def _one_is_constant(view: View) -> bool:
    return view.is_constant(0) or view.is_constant(1)


def _multiply(view: View) -> None:
    if _one_is_constant(view):
        AFFINE_RULES["Mul"](view)
    elif view.name(0) == view.name(1):
        square_of(view, view.name(), view.output)
    elif not gate_of(view):
        first, second = as_values(view, (0, 1))
        product_of(view, first, second, view.output)


def _divide(view: View) -> None:
    if view.is_constant(1):
        AFFINE_RULES["Div"](view)
        return
    first, second = as_values(view, (0, 1))
    product_of(view, first, function_of(view, second, functions.RECIPROCAL), view.output)


def _matrix_product(view: View) -> None:
    if _one_is_constant(view):
        PRODUCT_RULES["MatMul"](view)
        return
    shapes = view.shape(0), view.shape(1)
    need(len(shapes[0]) == len(shapes[1]) >= 2, f"expected a matrix of each image, got {shapes[0]} and {shapes[1]}")
    product = Product(view.output, view.name(0), view.name(1), torch.matmul, shapes[0][-1])
    view.walk.append(product)


def _power(view: View) -> None:
    exponents = np.unique(view.array(1))
    need(len(exponents) == 1 and bool(np.isfinite(exponents).all()), "expected one finite exponent")
    exponent = float(exponents[0])
    need(view.array(1).ndim == 0 or view.array(1).size == 1, "expected one number as the exponent")
    need(exponent != 0 and abs(exponent) <= 64, f"expected an exponent from -64 to 64 other than 0, got {exponent}")
    if exponent == 1:
        view.moved(lambda values: values)
    elif exponent == 2:
        square_of(view, view.name(), view.output)
    else:
        give(view, {0.5: functions.SQRT, -1.0: functions.RECIPROCAL}.get(exponent) or functions.power(exponent))


# --- several values --------------------------------------------------------------------------------------------------


def _chosen(view: View, sign: int) -> None:
    values = as_values(view, range(len(view.node.inputs)))
    last = values[0]
    for place, name in enumerate(values[1:], 2):
        last = view.walk.append(Choice(_named(view, place == len(values)), last, name, sign))
    if len(values) == 1:
        view.moved(lambda entries: entries)


def _summed(view: View, is_mean: bool) -> None:
    values = as_values(view, range(len(view.node.inputs)))
    last, count = values[0], len(values)
    for place, name in enumerate(values[1:], 2):
        last = view.walk.append(Join(_named(view, place == count and not is_mean), last, name, 1))
    if count == 1:
        view.moved(lambda entries: entries)
    elif is_mean:
        divided_by(view, last, count, view.output)


def _named(view: View, is_last: bool) -> str:
    return view.output if is_last else view.part()


def _where(view: View) -> None:
    name = view.node.inputs[0]
    is_truth = view.walk.whole.get(name) or (name in view.walk.arrays and view.walk.arrays[name].dtype == np.bool_)
    need(bool(is_truth), "expected truth values to choose by")
    view.walk.append(Selection(view.output, *as_values(view, (0, 1, 2))))


# --- truth values, as 0 and 1 ----------------------------------------------------------------------------------------


def _compared(ends: Callable[[Interval, Interval], tuple[Tensor, Tensor]]) -> Callable[[View], None]:
    """Return the rule of a comparison: `ends` tells where it surely holds, and where it may."""

    def found(first: Interval, second: Interval) -> Interval:
        surely, perhaps = ends(first, second)
        return surely.double(), perhaps.double()

    return lambda view: _ranged(view, found)


def _ranged(view: View, ends: Callable[..., Interval]) -> None:
    view.walk.append(Ranged(view.output, tuple(as_values(view, (0, 1))), ends))


def _less(first: Interval, second: Interval) -> tuple[Tensor, Tensor]:
    return first[1] < second[0], first[0] < second[1]


def _at_most(first: Interval, second: Interval) -> tuple[Tensor, Tensor]:
    return first[1] <= second[0], first[0] <= second[1]


def _equal(first: Interval, second: Interval) -> tuple[Tensor, Tensor]:
    meet = (first[0] <= second[1]) & (second[0] <= first[1])
    return (first[0] == first[1]) & (second[0] == second[1]) & meet, meet


def _logical(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[View], None]:
    def ends(first: Interval, second: Interval) -> Interval:
        return combine(first[0], second[0]), combine(first[1], second[1])

    return lambda view: _ranged(view, ends)


def _either(first: Interval, second: Interval) -> Interval:
    decided = (first[0] == first[1]) & (second[0] == second[1])
    differs = (first[0] != second[0]).double()
    return torch.where(decided, differs, 0.0), torch.where(decided, differs, 1.0)


def _remainder(view: View) -> None:
    need(view.attribute("fmod", 0) == 1, "expected fmod = 1, as numbers that are not whole ask for")
    divisors = np.unique(np.abs(view.array(1)))
    need(view.array(1).dtype == np.float32 and len(divisors) == 1, "expected one divisor")
    period = float(divisors[0])
    need(np.isfinite(period) and period >= 2.0**-60, "expected a divisor well away from 0")

    def ends(value: Interval) -> Interval:
        lower, upper = value
        turn = (lower / period).abs().clamp(min=1) * 2.0**-50
        cells = (lower / period - turn).floor(), (upper / period + turn).floor()
        # within one period, and of one sign, it is the argument less a constant
        is_one = (cells[0] == cells[1]) & (lower * upper > 0) & (upper - lower < period / 2)
        low = torch.where(lower >= 0, 0.0, torch.maximum(lower, torch.full_like(lower, -period)))
        high = torch.where(upper <= 0, 0.0, upper.clamp(max=period))
        return torch.where(is_one, torch.fmod(lower, period), low), torch.where(is_one, torch.fmod(upper, period), high)

    view.walk.append(Ranged(view.output, (view.name(),), ends))


def _not(view: View) -> None:
    view.walk.append(Activation(view.output, view.name(), functions.NOT))


def _cast(view: View) -> None:
    """Truth values stay what they are, or become numbers."""
    if view.walk.whole.get(view.name()) and view.attribute("to", 0) == TensorProto.BOOL:
        view.moved(lambda values: values)
    else:
        QUANTISED_RULES["Cast"](view)


PAIR_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "And": _logical(torch.minimum),
        "Cast": _cast,
        "Div": _divide,
        "Equal": _compared(_equal),
        "Greater": _compared(lambda first, second: _less(second, first)),
        "GreaterOrEqual": _compared(lambda first, second: _at_most(second, first)),
        "Less": _compared(_less),
        "LessOrEqual": _compared(_at_most),
        "MatMul": _matrix_product,
        "Max": lambda view: _chosen(view, 1),
        "Mean": lambda view: _summed(view, True),
        "Min": lambda view: _chosen(view, -1),
        "Mod": _remainder,
        "Mul": _multiply,
        "Not": _not,
        "Or": _logical(torch.maximum),
        "Pow": _power,
        "Sum": lambda view: _summed(view, False),
        "Where": _where,
        "Xor": lambda view: _ranged(view, _either),
    }
)
