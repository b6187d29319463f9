"""Constants with the roundings of float32: as weights, and what nodes make of constants alone."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic, functions
from abscert_plugin.bounds.proof.activations import RELU, Function, flushed
from abscert_plugin.bounds.proof.affine import Affine, total
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Matrix, Scale, Weights
from abscert_plugin.graph.nodes import Node
from abscert_plugin.graph.walk import CURVES, MOVES, PICKS, evaluate, need

_BITS_OF_DOUBLES: Final = 52.9
_RECIPROCAL: Final = 3  # roundings of a factor that may be a reciprocal and be multiplied later


def point(array: np.ndarray) -> Enclosure:
    """Return a constant of float16, float32 or float64, as an enclosure."""
    need(array.dtype.kind == "f", f"expected a constant of float32 or float64, got {array.dtype}")
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
    is_whole = all(array.dtype.kind in "iub" for array in arrays.values())
    if node.operator == "Div" and is_whole:  # the reference's is in float64
        fits = all(bool(((array < 2**53) & (array > -(2**53))).all()) for array in given)
        need(fits and bool(given[1].all()), "expected whole numbers below 2^53, and divisors other than 0")
    elif node.operator == "Mod":
        need(bool(given[1].all()), "expected divisors other than 0")
    elif node.operator == "Range":
        fits = all(bool((np.rint(array) == array).all() and (np.abs(array) < 2**24).all()) for array in given)
        need(fits, "expected a range of whole numbers")
    elif node.operator == "Cast":
        _need_plain_cast(helper.tensor_dtype_to_np_dtype(node.attributes["to"]), given[0])
    elif node.operator == "Split":
        count = len(node.outputs)
        need(node.attributes.get("num_outputs", count) == count, f"expected num_outputs = {count}")
    elif node.operator == "Squeeze" and len(given) > 1:
        need(given[1].size > 0, "expected axes")  # of none, onnxruntime takes all, and the reference none
    elif node.operator == "ReduceProd":  # onnxruntime's are in float64
        bits = np.log2(np.maximum(np.abs(given[0].astype(np.float64)), 1)).sum()
        need(bits < _BITS_OF_DOUBLES, "expected products of whole numbers below 2^53")
    elif node.operator == "Unsqueeze" and "axes" in node.attributes:  # the reference takes them one after another
        axes = list(node.attributes["axes"])
        need(len(axes) == 1 or axes == sorted(map(abs, axes)), f"expected axes in ascending order, got {axes}")
    elif node.operator == "Slice" and len(given) > 4:
        starts, ends, axes, steps = (array.reshape(-1).tolist() for array in given[1:5])
        for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=False):
            need_plain_slice(given[0].shape[axis], start, end, step)
    need(is_whole or node.operator not in PICKS or all(map(_is_plain, given)), "expected no subnormal numbers")
    need(is_whole or node.attributes.get("reduction", b"none") == b"none", "expected entries to be put, not added")


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


def _is_plain(array: np.ndarray) -> bool:
    """Return whether no entry is subnormal, infinite or NaN, so that every runtime sees the same number."""
    sizes = np.abs(array[array != 0]).astype(np.float64)
    return bool(np.isfinite(sizes).all() and (sizes >= arithmetic.TINY).all())


def exact(node: Node, arrays: Mapping[str, np.ndarray], opset: int) -> dict[str, np.ndarray] | None:
    """Return what a node on exact constants gives, the same with every runtime; None where it may round.

    Args:
        node: a node of `ON_CONSTANTS`.
        arrays: by name, what it reads.
        opset: version of ONNX's operators.
    """
    need_one_meaning(node, arrays)
    is_whole = all(array.dtype.kind in "iub" for array in arrays.values())
    if node.operator in MOVES | PICKS or (is_whole and node.operator not in {*_ROUNDING, *CURVES}):
        return evaluate(node, arrays, opset)
    given = [arrays[name] for name in node.inputs if name]
    if node.operator not in _UNROUNDED or any(array.dtype != np.float32 for array in given):
        return None
    with np.errstate(over="ignore"):
        wide, is_exact = _UNROUNDED[node.operator](*(array.astype(np.float64) for array in given))
        found = wide.astype(np.float32)
    unrounded = bool(np.all(is_exact)) and bool((found == wide).all()) and all(map(_is_plain, [*given, found]))
    return {node.outputs[0]: found} if unrounded else None


def _exact_sum(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a sum, and where float64 did not round it (Knuth's two-sum)."""
    found = first + second
    part = found - first
    return found, (first - (found - part)) + (second - part) == 0


def _exact_quotient(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a quotient, and where the divisor is a power of two, so that its reciprocal is exact as well."""
    mantissa, _ = np.frexp(second)
    return first / np.where(second == 0, 1, second), np.abs(mantissa) == 0.5


_ROUNDING: Final = ("DequantizeLinear", "MatMul", "Reciprocal", "Sqrt")  # of whole numbers too
_UNROUNDED: Final[Mapping[str, Callable[..., tuple[np.ndarray, np.ndarray]]]] = MappingProxyType(
    {
        "Add": _exact_sum,
        "Div": _exact_quotient,
        "Mul": lambda first, second: (first * second, np.array(True)),  # 48 bits fit
        "Neg": lambda value: (-value, np.array(True)),
        "Sub": lambda first, second: _exact_sum(first, -second),
    }
)


def whole(node: Node, value: Enclosure) -> np.ndarray | None:
    """Return what a Cast to whole numbers makes of a constant with roundings; None where these could change it."""
    kind = helper.tensor_dtype_to_np_dtype(node.attributes["to"])
    if kind.kind not in "iu":
        return None
    lower, upper = (end.trunc().numpy() for end in value.computed())
    need(bool((lower == upper).all() and (np.abs(lower) < 2**31).all()), "a rounding may change a whole number")
    need_one_meaning(node, {node.inputs[0]: lower})
    return np.asarray(lower.astype(kind))


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
    if node.operator == "DequantizeLinear":
        return {node.outputs[0]: _dequantised(node, given, others).checked()}
    need(node.operator in _COMPUTED, "expected constants that are not computed")
    need(not others, "expected constants of float32")
    return {node.outputs[0]: _COMPUTED[node.operator](*(given[name] for name in node.inputs if name)).checked()}


def _moved(
    node: Node, given: Mapping[str, Enclosure], others: Mapping[str, np.ndarray], opset: int
) -> dict[str, Enclosure]:
    """Move constants that are not known exactly: each of their ends is moved."""
    if node.operator == "Cast":
        need(node.attributes["to"] in (TensorProto.FLOAT, TensorProto.DOUBLE), "expected a Cast to float32 or float64")
        value = given[node.inputs[0]]
        return {node.outputs[0]: reshaped(_product(value, exactly(1.0)), value.lower.shape)}  # it may round
    need(node.attributes.get("reduction", b"none") == b"none", "expected entries to be put, not added")
    parts = []
    for part in ("lower", "upper", "magnitude"):
        arrays = {name: getattr(value, part).numpy() for name, value in given.items()}
        if node.operator == "Identity":
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


def _dequantised(node: Node, given: Mapping[str, Enclosure], others: Mapping[str, np.ndarray]) -> Enclosure:
    """Return (x - zero) scale of whole numbers; a runtime may multiply before it subtracts."""
    names = [*node.inputs, ""]
    need(names[0] in others and names[1] in given, "expected whole numbers and a scale of float32")
    scale, numbers = given[names[1]], others[names[0]].astype(np.float64)
    zero = others[names[2]].astype(np.float64) if names[2] else np.zeros(())
    need(scale.is_point and bool((scale.lower >= 2 * arithmetic.TINY).all()), "expected scales above 0")
    need(not node.attributes.get("block_size", 0), "expected no block_size")
    need(
        others[names[0]].dtype.itemsize <= 2 or not zero.any(), "expected a zero point of 0"
    )  # differences may overflow
    axis = int(node.attributes.get("axis", 1))
    factor, start = (torch.from_numpy(along_axis(array, axis, numbers.ndim)) for array in (scale.lower.numpy(), zero))
    values = torch.from_numpy(numbers)
    center, magnitude = (values - start) * factor, (values.abs() + start.abs()) * factor * (1 + arithmetic.own_gamma(4))
    margin = arithmetic.own_gamma(2) * magnitude if bool((values.abs() >= 2.0**25).any()) else torch.zeros(())
    tiny = torch.tensor([arithmetic.underflow(8.0)], dtype=torch.float64)
    top = torch.maximum(magnitude.amax(), values.abs().amax() + start.abs().amax()).reshape(1).clamp(min=1.0)
    gain = max(1.0, float(factor.max()))
    return Enclosure(center - margin, center + margin, magnitude, 5, tiny, top, gain)


def along_axis(array: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return one number, or one for each entry of an axis, in a shape that goes with a tensor of this rank."""
    if array.size == 1:
        return array.reshape((1,) * rank)
    need(array.ndim == 1 and -rank <= axis < rank, "expected one number, or one along an axis")
    return array.reshape([-1 if place == axis % rank else 1 for place in range(rank)])


def _product(first: Enclosure, second: Weights) -> Enclosure:
    shape = np.broadcast_shapes(first.lower.shape, second.center.shape)
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


def _inverse(value: Enclosure) -> Enclosure:
    one = torch.ones((1,) * value.lower.ndim, dtype=torch.float64)
    return _divide(held(one, one, is_constant=True), value)


def _matrix_product(first: Enclosure, second: Enclosure) -> Enclosure:
    need(first.lower.ndim >= 2 and second.lower.ndim == 2, "expected a matrix as the second factor")
    found = Affine("", "c", Matrix(weights(second))).forward({"c": reshaped(first, (1, *first.lower.shape))})
    return reshaped(found, (*first.lower.shape[:-1], second.lower.shape[1]))


def _square_root(value: Enclosure) -> Enclosure:
    lower, upper = value.computed()
    need(bool((lower >= 2 * arithmetic.TINY).all()), "expected roots of numbers well above 0")
    share = arithmetic.gamma(2) + arithmetic.own_gamma(8)
    return held(lower.sqrt() * (1 - share), upper.sqrt() * (1 + share), is_constant=True)


def _curve(function: Function) -> Callable[[Enclosure], Enclosure]:
    def computed(value: Enclosure) -> Enclosure:
        lower, upper = function.interval(*flushed(*value.computed()))
        need(bool((lower > -torch.inf).all() and (upper < torch.inf).all()), "its argument lies where nothing is known")
        return held(lower, upper, is_constant=True)

    return computed


def _power(base: Enclosure, exponent: Enclosure) -> Enclosure:
    need(exponent.is_point and exponent.lower.numel() == 1, "expected one number as the exponent")
    number = float(exponent.lower)
    need(0 < abs(number) <= 64, f"expected an exponent from -64 to 64 other than 0, got {number}")
    return _curve(functions.SQRT if number == 0.5 else functions.power(number))(base)


_COMPUTED: Final[Mapping[str, Callable[..., Enclosure]]] = MappingProxyType(
    {
        "Abs": _curve(functions.ABS),
        "Add": total,
        "Div": _divide,
        "Erf": _curve(functions.ERF),
        "Exp": _curve(functions.EXP),
        "Log": _curve(functions.LOG),
        "MatMul": _matrix_product,
        "Mul": _multiply,
        "Neg": Enclosure.negated,
        "Pow": _power,
        "Reciprocal": _inverse,
        "Relu": _curve(RELU),
        "Softplus": _curve(functions.SOFTPLUS),
        "Sqrt": _square_root,
        "Sub": _subtract,
    }
)
