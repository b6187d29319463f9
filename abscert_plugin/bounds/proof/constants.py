"""Constants with the roundings of float32: as weights, and what nodes make of constants alone."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Affine, total
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Scale, Weights
from abscert_plugin.graph.nodes import Node
from abscert_plugin.graph.walk import MOVES, evaluate, need

_RECIPROCAL: Final = 3  # roundings of a factor that may be a reciprocal and be multiplied later


def point(array: np.ndarray) -> Enclosure:
    """Return a float32 constant as an enclosure."""
    need(array.dtype == np.float32, f"expected a constant of float32, got {array.dtype}")
    need(bool(np.isfinite(array).all()), "a constant is infinite or NaN")
    values = torch.from_numpy(array.astype(np.float64))
    return held(values, values, is_constant=True)


def reshaped(constant: Enclosure, shape: Sequence[int]) -> Enclosure:
    """Return a constant in another shape."""
    return constant.moved(lambda values: values.reshape(tuple(shape)))


def weights(constant: Enclosure, change: Callable[[Tensor], Tensor] = lambda values: values) -> Weights:
    """Return a constant as weights, none of which may have overflowed."""
    made = Weights.of(constant, change)
    need(bool(made.absolute.isfinite().all()), "a computed constant is infinite or NaN")
    return made


def exactly(number: float) -> Weights:
    """Return an exact number as weights."""
    values = torch.full((1,), number, dtype=torch.float64)
    return weights(held(values, values, is_constant=True))


def scaled(constant: Enclosure, factor: float) -> Enclosure:
    """Return a constant times an exact number."""
    return Affine("", "c", Scale(exactly(factor))).forward({"c": constant})


def reciprocal(divisor: Enclosure) -> Weights:
    """Return 1 / c as weights, which a runtime may compute and multiply by, or divide by c."""
    lower, upper = divisor.computed()
    least = torch.minimum(lower.abs(), upper.abs())
    need(bool(((lower * upper > 0) & (least >= 2 * arithmetic.TINY)).all()), "expected divisors well away from 0")
    ends = 1 / upper, 1 / lower
    center = ends[0] / 2 + ends[1] / 2
    absolute = (1 / least) * (1 + arithmetic.own_gamma(4))
    radius = (ends[1] - ends[0]).abs() / 2 + arithmetic.own_gamma(8) * absolute
    gain = max(1.0, float(absolute.max()))
    return Weights(center, absolute, radius, _RECIPROCAL, arithmetic.underflow(2.0), gain)


# --- nodes on constants ----------------------------------------------------------------------------------------------


def need_one_meaning(node: Node, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise where runtimes, or onnx's reference, may make different numbers of constants.

    Args:
        node: a node of `ON_CONSTANTS`.
        arrays: what it reads, by name; of what is not known exactly, only the shape counts.
    """
    given = [arrays.get(name, np.zeros(0)) for name in node.inputs]
    if node.operator == "Div" and all(array.dtype.kind in "iub" for array in given):  # the reference's is in float64
        fits = all(bool(((array < 2**53) & (array > -(2**53))).all()) for array in given)
        need(fits and bool(given[1].all()), "expected whole numbers below 2^53, and divisors other than 0")
    elif node.operator == "Cast":
        _need_plain_cast(helper.tensor_dtype_to_np_dtype(node.attributes["to"]), given[0])
    elif node.operator == "Split":
        count = len(node.outputs)
        need(node.attributes.get("num_outputs", count) == count, f"expected num_outputs = {count}")
    elif node.operator == "Unsqueeze" and "axes" in node.attributes:  # the reference takes them one after another
        axes = list(node.attributes["axes"])
        need(len(axes) == 1 or axes == sorted(map(abs, axes)), f"expected axes in ascending order, got {axes}")
    elif node.operator == "Slice" and len(given) > 4:
        starts, ends, axes, steps = (array.reshape(-1).tolist() for array in given[1:5])
        for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=False):
            need_plain_slice(given[0].shape[axis], start, end, step)


def need_plain_slice(size: int, start: int, end: int, step: int) -> None:
    """Raise where a slice backward begins or ends beyond the entries of an axis: runtimes and the reference differ."""
    is_plain = step > 0 or (start >= -size and end < size)
    need(is_plain, f"expected a slice backward within {size} entries, got one from {start} to {end}")


def _need_plain_cast(kind: np.dtype, given: np.ndarray) -> None:
    """Raise unless all runtimes read a number in the same way: text is not, and numbers of few bits are rounded."""
    is_plain = {kind.kind, given.dtype.kind} <= set("fiub") and kind != np.float16
    need(is_plain, f"expected a Cast between numbers, not to float16, got one from {given.dtype} to {kind}")
    if kind.kind in "iu" and kind != given.dtype:
        ends = np.iinfo(kind)
        fits = bool(((given >= max(ends.min, -(2**31))) & (given <= min(ends.max, 2**31 - 1))).all())
        need(fits, f"expected numbers that fit {kind}, and 32 bits")


def rounded(
    node: Node, given: Mapping[str, Enclosure], others: Mapping[str, np.ndarray], opset: int
) -> dict[str, Enclosure]:
    """Return what a node on constants gives.

    Args:
        node: a node of `ON_CONSTANTS`.
        given: the float constants that it reads.
        others: those of other types, such as shapes.
        opset: version of ONNX's operators.
    """
    if node.operator in MOVES:
        return _moved(node, given, others, opset)
    need(not others, "expected constants of float32")
    return {node.outputs[0]: _COMPUTED[node.operator](*(given[name] for name in node.inputs if name)).checked()}


def _moved(
    node: Node, given: Mapping[str, Enclosure], others: Mapping[str, np.ndarray], opset: int
) -> dict[str, Enclosure]:
    """Move constants that are not known exactly: each of their ends is moved."""
    need(node.operator != "Cast" or node.attributes["to"] == TensorProto.FLOAT, "expected a Cast to float32")
    parts = []
    for part in ("lower", "upper", "magnitude"):
        arrays = {name: getattr(value, part).numpy() for name, value in given.items()}
        if node.operator in ("Cast", "Identity"):
            parts.append({node.outputs[0]: arrays[node.inputs[0]]})
        else:
            parts.append(evaluate(node, {**arrays, **others}, opset))
    some = list(given.values())
    lower, upper, magnitude = (
        {name: torch.from_numpy(np.array(array, dtype=np.float64)) for name, array in part.items()} for part in parts
    )
    return {
        name: Enclosure(
            lower[name],
            upper[name],
            magnitude[name],
            max(one.roundings for one in some),
            torch.stack([one.underflow for one in some]).amax(0),
            torch.stack([one.reach for one in some]).amax(0),
            max(one.gain for one in some),
        )
        for name in lower
    }


def _product(first: Enclosure, second: Weights) -> Enclosure:
    shape = torch.broadcast_shapes(first.lower.shape, second.center.shape)
    given = reshaped(first, (1,) * (1 + len(shape) - first.lower.ndim) + tuple(first.lower.shape))
    grown = given.moved(lambda values: values.expand(1, *shape))
    found = Affine("", "c", Scale(second)).forward({"c": grown})
    return reshaped(found, shape)


def _multiply(first: Enclosure, second: Enclosure) -> Enclosure:
    return _product(first, weights(second))


def _divide(first: Enclosure, second: Enclosure) -> Enclosure:
    return _product(first, reciprocal(second))


def _subtract(first: Enclosure, second: Enclosure) -> Enclosure:
    return total(first, second.negated())


def _square_root(value: Enclosure) -> Enclosure:
    lower, upper = value.computed()
    need(bool((lower >= 2 * arithmetic.TINY).all()), "expected roots of numbers well above 0")
    share = arithmetic.gamma(2) + arithmetic.own_gamma(8)
    return held(lower.sqrt() * (1 - share), upper.sqrt() * (1 + share), is_constant=True)


_COMPUTED: Final[Mapping[str, Callable[..., Enclosure]]] = MappingProxyType(
    {
        "Add": total,
        "Div": _divide,
        "Mul": _multiply,
        "Neg": Enclosure.negated,
        "Sqrt": _square_root,
        "Sub": _subtract,
    }
)
