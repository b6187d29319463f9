"""What torch computes for ONNX operators of one entry, or of several values entry by entry, and for products."""

from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from abscert_plugin.graph.walk import need
from abscert_plugin.reading.building import Computed, Function, View

_TINY: Final = 1e-30  # a root or length of 0 has no slope; in place of it, a huge one that is finite


def of_all(function: Function) -> Callable[[View], Computed]:
    """Return the rule of a function of all inputs."""
    made = Computed((function,))
    return lambda _: made


def of_first(function: Function) -> Computed:
    """Return a function of the first input."""
    return Computed((function,), (0,))


# --- of one entry ----------------------------------------------------------------------------------------------------


def _through(round_: Function) -> Function:
    """Return a rounding whose gradient is that of what it rounds: its own is 0, and an attack would stand still."""
    return lambda values: values + (round_(values) - values).detach()


def root(values: Tensor) -> Tensor:
    """Return roots, whose slope at 0 is finite."""
    return values.clamp(min=_TINY).sqrt().where(values >= 0, values.detach().sqrt())


def _celu(view: View) -> Computed:
    alpha = float(view.attribute("alpha", 1.0))
    return Computed((lambda values: functional.celu(values, alpha),))


def _clip(view: View) -> Computed:
    ends: list[float | None] = []
    for place, name in ((1, "min"), (2, "max")):
        found = view.array(place).reshape(-1)[0] if view.has(place) else view.attribute(name, None)
        ends.append(None if found is None else float(found))
    least, most = ends

    def clip(values: Tensor) -> Tensor:
        if least is not None:
            values = (values - least).relu() + least
        return values if most is None else most - (most - values).relu()

    return of_first(clip)


def _elu(view: View) -> Computed:
    alpha = float(view.attribute("alpha", 1.0))
    return Computed((lambda values: functional.elu(values, alpha),))


def _selu(view: View) -> Computed:
    alpha = float(view.attribute("alpha", 1.6732631921768188))
    gamma = float(view.attribute("gamma", 1.0507010221481323))
    return Computed((lambda values: gamma * functional.elu(values, alpha),))


def _gelu(view: View) -> Computed:
    approximate = view.attribute("approximate", b"none").decode()
    return Computed((lambda values: functional.gelu(values, approximate=approximate),))


def _hard_sigmoid(view: View) -> Computed:
    alpha, beta = float(view.attribute("alpha", 0.2)), float(view.attribute("beta", 0.5))
    return Computed((lambda values: 1 - (1 - (alpha * values + beta).relu()).relu(),))


def _leaky_relu(view: View) -> Computed:
    alpha = float(view.attribute("alpha", 0.01))
    return Computed((lambda values: _bent(values, torch.tensor(alpha)),))


def _bent(values: Tensor, slope: Tensor) -> Tensor:
    # of one ReLU: auto_LiRPA 0.3 gives wrong lines where one reads a value and another its negative
    return slope * values + (1 - slope) * values.relu()


def _shrink(view: View) -> Computed:
    limit, bias = float(view.attribute("lambd", 0.5)), float(view.attribute("bias", 0.0))

    def shrink(values: Tensor) -> Tensor:
        above = torch.where(values > limit, values - bias, 0.0)
        return torch.where(values < -limit, values + bias, above)

    return Computed((shrink,))


def _thresholded(view: View) -> Computed:
    alpha = float(view.attribute("alpha", 1.0))
    return Computed((lambda values: torch.where(values > alpha, values, 0.0),))


def _cast(view: View) -> Computed:
    """Truth values are 0 and 1, whole numbers are real ones."""
    kind = view.attribute("to", TensorProto.FLOAT)
    if kind == TensorProto.BOOL:
        return Computed((lambda values: (values != 0).float(),))
    is_real = kind in (TensorProto.FLOAT, TensorProto.DOUBLE)
    return Computed(((lambda values: values) if is_real else _through(torch.trunc),))


def _quantised(view: View) -> Computed:
    zeros = view.array(2) if view.has(2) else np.zeros(1, dtype=np.uint8)
    scale, zero, limits = _by_axis(view, view.array(1)), _by_axis(view, zeros), np.iinfo(zeros.dtype)
    rounded = _through(torch.round)
    return of_first(lambda values: (rounded(values / scale) + zero).clamp(limits.min, limits.max))


def _dequantised(view: View) -> Computed:
    scale, zero = _by_axis(view, view.array(1)), _by_axis(view, view.array(2) if view.has(2) else np.zeros(1))
    return of_first(lambda values: (values - zero) * scale)


def _by_axis(view: View, array: np.ndarray) -> Tensor:
    rank, axis = len(view.shape()) + 1, int(view.attribute("axis", 1))
    sizes = [1] * rank
    sizes[axis] = -1
    return torch.from_numpy(array.astype(np.float32)).reshape(sizes if array.size > 1 else [1] * rank)


# --- of several values -----------------------------------------------------------------------------------------------


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[View], Computed]:
    return of_all(lambda *values: reduce(function, values))


def _mean(*values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


def _true(function: Callable[..., Tensor]) -> Callable[[View], Computed]:
    """Return the rule of a comparison, or of truth values: they are 0 and 1."""
    return of_all(lambda *values: function(*values).float())


def _remainder(view: View) -> Computed:
    return Computed((torch.fmod if view.attribute("fmod", 0) else torch.remainder,))


def _concatenate(view: View) -> Computed:
    rank = 1 + max(len(view.shape(place)) for place in range(len(view.node.inputs)) if not view.is_constant(place))
    axis = view.axis(0, rank)

    def joined(*values: Tensor) -> Tensor:
        count = max(map(len, values))  # a constant is that of each image
        return torch.cat([value.expand(count, *value.shape[1:]) for value in values], axis)

    return Computed((joined,))


def _gemm(view: View) -> Computed:
    turns = view.attribute("transA", 0), view.attribute("transB", 0)
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))

    def product(first: Tensor, second: Tensor, *bias: Tensor) -> Tensor:
        factors = [value.T if turned else value for value, turned in zip((first, second), turns, strict=True)]
        found = alpha * (factors[0] @ factors[1])
        return found + beta * bias[0] if bias else found

    return Computed((product,))


def _einsum(view: View) -> Computed:
    equation = view.attribute("equation", b"").decode()
    return Computed((lambda *values: torch.einsum(equation, *values),))


def _linear_classifier(view: View) -> Computed:
    view.require(post_transform=b"NONE")
    intercepts = torch.tensor(view.attribute("intercepts", []))
    need(len(intercepts) > 2, "expected a row of coefficients for each of more than 2 classes")
    weight = torch.tensor(view.attribute("coefficients", [])).reshape(len(intercepts), -1)

    def scores(values: Tensor) -> Tensor:
        return functional.linear(values, weight, intercepts)

    label = view.node.outputs[0]
    need(all(label not in node.inputs for node in view.walk.graph.nodes), "expected a label that nothing reads")
    return Computed((scores, scores))


def _scaler(view: View) -> Computed:
    offset, scale = (torch.tensor(view.attribute(name, [value])) for name, value in (("offset", 0.0), ("scale", 1.0)))
    return Computed((lambda values: (values - offset) * scale,))


def _swish(view: View) -> Computed:
    alpha = float(view.attribute("alpha", 1.0))
    return Computed((lambda values: values * torch.sigmoid(alpha * values),))


def _normalizer(view: View) -> Computed:
    norms: Mapping[bytes, Function] = {
        b"MAX": lambda values: values.amax(1, keepdim=True),
        b"L1": lambda values: values.abs().sum(1, keepdim=True),
        b"L2": lambda values: torch.linalg.vector_norm(values, dim=1, keepdim=True),
    }
    norm = norms[view.attribute("norm", b"MAX")]
    return Computed((lambda values: values / norm(values),))


FUNCTIONS: Final[Mapping[str, Callable[[View], Computed]]] = MappingProxyType(
    {
        "Abs": of_all(torch.abs),
        "Add": of_all(torch.add),
        "And": _true(lambda first, second: (first != 0) & (second != 0)),
        "Cast": _cast,
        "Ceil": of_all(_through(torch.ceil)),
        "Celu": _celu,
        "Clip": _clip,
        "Concat": _concatenate,
        "Cos": of_all(torch.cos),
        "DequantizeLinear": _dequantised,
        "Div": of_all(torch.div),
        "Einsum": _einsum,
        "Elu": _elu,
        "Equal": _true(torch.eq),
        "Erf": of_all(torch.erf),
        "Exp": of_all(torch.exp),
        "Floor": of_all(_through(torch.floor)),
        "Gelu": _gelu,
        "Gemm": _gemm,
        "Greater": _true(torch.gt),
        "GreaterOrEqual": _true(torch.ge),
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": of_all(lambda values: values * (1 - (1 - (values / 6 + 0.5).relu()).relu())),
        "LeakyRelu": _leaky_relu,
        "Less": _true(torch.lt),
        "LessOrEqual": _true(torch.le),
        "Log": of_all(torch.log),
        "MatMul": of_all(torch.matmul),
        "Max": _folded(lambda first, second: second + (first - second).relu()),
        "Mean": of_all(_mean),
        "Min": _folded(lambda first, second: second - (second - first).relu()),
        "Mish": of_all(functional.mish),
        "Mod": _remainder,
        "Mul": of_all(torch.mul),
        "Neg": of_all(torch.neg),
        "Not": _true(lambda values: values == 0),
        "Or": _true(lambda first, second: (first != 0) | (second != 0)),
        "PRelu": of_all(_bent),
        "Pow": of_all(torch.pow),
        "QuantizeLinear": _quantised,
        "Reciprocal": of_all(torch.reciprocal),
        "Round": of_all(_through(torch.round)),
        "Selu": _selu,
        "Shrink": _shrink,
        "Sign": of_all(torch.sign),
        "Sin": of_all(torch.sin),
        "Softplus": of_all(functional.softplus),
        "Softsign": of_all(functional.softsign),
        "Sqrt": of_all(root),
        "Sub": of_all(torch.sub),
        "Sum": _folded(torch.add),
        "Swish": _swish,
        "Tan": of_all(torch.tan),
        "ThresholdedRelu": _thresholded,
        "Where": of_all(lambda chosen, first, second: torch.where(chosen != 0, first, second)),
        "Xor": _true(lambda first, second: (first != 0) ^ (second != 0)),
        "ai.onnx.ml.LinearClassifier": _linear_classifier,
        "ai.onnx.ml.Normalizer": _normalizer,
        "ai.onnx.ml.Scaler": _scaler,
    }
)
"""From an operator to what its outputs are of its inputs."""
