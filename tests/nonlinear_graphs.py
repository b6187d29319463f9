"""Graphs that hold one nonlinear operator, with attributes and shapes drawn by chance."""

from typing import Any

import numpy as np
import operator_graphs as graphs
from onnx import TensorProto, helper
from operator_graphs import Build

OPSET = 21


def start(build: Build) -> None:
    """Begin with images or features."""
    [graphs.planes, graphs.features][int(build.random.integers(2))](build)


def number(build: Build, value: float) -> str:
    return build.constant(np.float32(value))


def spread(build: Build, least: float = -1.0, most: float = 1.5) -> None:
    """Make values small or large, and move them away from 0."""
    build.add("Mul", number(build, 10 ** build.random.uniform(least, most)))
    build.add("Add", number(build, build.random.standard_normal()))


def positive(build: Build) -> None:
    build.add("Abs")
    build.add("Add", number(build, build.random.uniform(0.05, 2)))


def entrywise(operator: str, least: float = -1.0, most: float = 1.5, **choices: tuple[Any, ...]) -> graphs.Operator:
    """Return what puts a function of each entry, with attributes of some choices, behind values of many sizes."""

    def added(build: Build) -> None:
        start(build)
        spread(build, least, most)
        build.add(
            operator, **{name: values[int(build.random.integers(len(values)))] for name, values in choices.items()}
        )

    return added


def of_positive(operator: str) -> graphs.Operator:
    def added(build: Build) -> None:
        start(build)
        spread(build)
        positive(build)
        build.add(operator)

    return added


def power(build: Build) -> None:
    start(build)
    exponent = float(build.random.choice([1, 2, 3, 4, -1, -2, 0.5, 1.5, -0.5]))
    if exponent < 0 or exponent != int(exponent):
        positive(build)
    build.add("Pow", number(build, exponent))


def two(build: Build) -> tuple[str, str]:
    """Begin with two values of which one may have single entries along some axes."""
    graphs.planes(build, channels=2)
    first = build.last
    build.add("Conv", build.floats(2, 2, 3, 3, scale=0.3), pads=[1, 1, 1, 1])
    if build.random.random() < 0.3:
        axes = [[1], [2, 3], [3]][int(build.random.integers(3))]
        build.add("ReduceMean", build.constant(np.array(axes)))
    return first, build.last


def paired(operator: str, constant: bool = True) -> graphs.Operator:
    def added(build: Build) -> None:
        first, second = two(build)
        if constant and build.random.random() < 0.4:
            shape = ((2, 1, 1), (), (1, 2, 5, 5))[int(build.random.integers(3))]
            second = build.floats(*shape)
        build.add(operator, reads=(first, second) if build.random.random() < 0.5 else (second, first))

    return added


def several(operator: str) -> graphs.Operator:
    def added(build: Build) -> None:
        first, second = two(build)
        choices = [first, second, build.floats(2, 1, 1), build.floats(1)]
        count = int(build.random.integers(1, 5))
        build.add(operator, reads=(first, *(choices[place] for place in build.random.integers(0, 4, count - 1))))

    return added


def division(build: Build) -> None:
    first, second = two(build)
    build.last = second
    positive(build)
    if build.random.random() < 0.5:
        build.add("Neg")
    reads = (build.floats(2, 1, 1), build.last) if build.random.random() < 0.3 else (first, build.last)
    build.add("Div", reads=reads)


def square(build: Build) -> None:
    start(build)
    build.add("Mul", reads=(build.last, build.last))


def comparison(build: Build) -> None:
    """Choose between two values by comparing two, and by truth values that are put together."""
    first, second = two(build)
    kinds = ["Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"]
    one, other = (str(build.random.choice(kinds)) for _ in range(2))
    build.add(one, reads=(first, second))
    truth = build.add("Not") if build.random.random() < 0.5 else build.last
    build.add(other, reads=(number(build, 0.1), first))
    build.add(str(build.random.choice(["And", "Or", "Xor"])), reads=(truth, build.last))
    condition = build.last
    if build.random.random() < 0.5:
        build.add("Cast", to=1)
    else:
        build.add("Where", reads=(condition, first, number(build, 0.5)))


def fixed_choice(build: Build) -> None:
    first, second = two(build)
    build.add("Where", reads=(build.constant(build.random.random((2, 5, 5)) < 0.5), first, second))


def remainder(build: Build) -> None:
    start(build)
    spread(build)
    build.add("Mod", number(build, build.random.choice([1.0, -0.7, 3.0])), fmod=1)


def attention(build: Build) -> None:
    """Multiply two matrices of each image."""
    graphs.planes(build, channels=2)
    first = build.last
    build.add("Transpose", perm=[0, 1, 3, 2])
    build.add("MatMul", reads=(first, build.last))
    build.add("Mul", number(build, 0.4))


def reduced(operator: str, only_positive: bool = False) -> graphs.Operator:
    def added(build: Build) -> None:
        graphs.planes(build, channels=3)
        spread(build, -1, 0.5)
        if only_positive:
            positive(build)
        axes = [[2, 3], [-1], [1]][int(build.random.integers(3))]
        build.add(operator, build.constant(np.array(axes)), keepdims=int(build.random.integers(2)))

    return added


def arg_extreme(operator: str) -> graphs.Operator:
    def added(build: Build) -> None:
        graphs.planes(build, channels=3)
        build.add(operator, axis=int(build.random.integers(1, 4)), keepdims=int(build.random.integers(2)))
        build.add("Cast", to=1)

    return added


def along_axis(operator: str, most: float = 1.5, **attributes: Any) -> graphs.Operator:
    def added(build: Build) -> None:
        start(build)
        spread(build, -1, most)
        build.add(operator, axis=int(build.random.choice([1, -1])), **attributes)

    return added


def layer_norm(build: Build) -> None:
    graphs.planes(build, channels=2)
    spread(build, -1, 0.5)
    axis = int(build.random.choice([-1, 1, 2]))
    shape = build.shape[axis - 1 if axis > 0 else axis :]
    constants = [build.floats(*shape) for _ in range(int(build.random.integers(1, 3)))]
    build.add("LayerNormalization", *constants, axis=axis, epsilon=float(build.random.choice([1e-2, 0.1])))


def layer_norm_of_primitives(build: Build) -> None:
    """Append what torch's exporter makes of a layer's normalisation before opset 17; onnxruntime fuses it."""
    graphs.planes(build, channels=2)
    spread(build, -1, 0.5)
    source, axes = build.last, build.constant(np.array([-1]))
    mean = build.add("ReduceMean", axes)
    difference = build.add("Sub", reads=(source, mean))
    build.add("Pow", number(build, 2.0))
    build.add("ReduceMean", axes)
    build.add("Add", number(build, 1e-2))
    build.add("Div", reads=(difference, build.add("Sqrt")))
    build.add("Mul", build.floats(build.shape[-1]))
    build.add("Add", build.floats(build.shape[-1]))


def root_mean_square_norm(build: Build) -> None:
    graphs.planes(build, channels=2)
    spread(build, -1, 0.5)
    axis = int(build.random.choice([-1, 1, 2]))
    shape = build.shape[axis - 1 if axis > 0 else axis :]
    build.add("RMSNormalization", build.floats(*shape), axis=axis, epsilon=float(build.random.choice([1e-2, 0.1])))


def instance_norm(build: Build) -> None:
    graphs.planes(build, channels=3)
    spread(build, -1, 0.5)
    build.add("InstanceNormalization", build.floats(3), build.floats(3), epsilon=1e-2)


def group_norm(build: Build) -> None:
    graphs.planes(build, channels=4)
    groups = int(build.random.choice([1, 2, 4]))
    given = f"GroupNormalization_{len(build.nodes)}"  # onnx 1.23 does not infer its type
    build.infos.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, [None, *build.shape]))
    build.add("GroupNormalization", build.floats(4), build.floats(4), num_groups=groups, epsilon=1e-2)


def local_response(build: Build) -> None:
    graphs.planes(build, channels=4)
    spread(build, 0, 1)
    build.add("LRN", size=int(build.random.choice([1, 3, 5])), alpha=0.3, beta=0.75, bias=1.0)


def unit_length(build: Build) -> None:
    graphs.planes(build, channels=3)
    build.add("Add", number(build, 6.0))
    build.add("LpNormalization", p=int(build.random.integers(1, 3)), axis=int(build.random.choice([1, -1])))


def swish(build: Build) -> None:
    start(build)
    spread(build)
    source = build.last
    if build.random.random() < 0.5:
        build.add("Mul", number(build, 1.702))
    build.add("Sigmoid")
    build.add("Mul", reads=(source, build.last) if build.random.random() < 0.5 else (build.last, source))


def gelu_of_primitives(build: Build) -> None:
    """Append what torch's exporter makes of a Gelu before opset 20; onnxruntime fuses it."""
    start(build)
    spread(build)
    source = build.last
    build.add("Div", number(build, 2**0.5))
    build.add("Erf")
    build.add("Add", number(build, 1.0))
    build.add("Mul", reads=(source, build.last))
    build.add("Mul", number(build, 0.5))


def tanh_gate(build: Build) -> None:
    start(build)
    spread(build)
    source = build.add("Mul", number(build, 0.5))
    build.add("Tanh")
    build.add("Add", number(build, 1.0))
    build.add("Mul", reads=(build.last, source))


def tangent(build: Build) -> None:
    start(build)
    build.add("Softsign")
    build.add("Mul", number(build, 0.25))  # what is known of many points at once is wide, and no tangent beyond 1.5 is
    build.add("Tan")


def computed_constants(build: Build) -> None:
    """Scale by what functions make of constants."""
    start(build)
    last = build.last
    inner = build.add(str(build.random.choice(["Exp", "Softplus", "Erf", "Reciprocal"])), reads=(build.floats(1),))
    build.add("Abs", reads=(inner,))
    root = build.add(str(build.random.choice(["Sqrt", "Log"])))
    build.last = last
    build.shape = build._shape_of(last)
    build.add("Mul", inner)
    build.add("Add", root)


def rectified_constants(build: Build) -> None:
    """Shift by ReLUs of constants: of one that is rounded and near 0, and of one that is known exactly."""
    start(build)
    last = build.last
    build.add("Exp", reads=(build.floats(1),))
    build.add("Sub", number(build, 1.0))
    rounded = build.add("Relu")
    known = build.add("Relu", reads=(build.floats(1),))
    build.last = last
    build.shape = build._shape_of(last)
    build.add("Add", rounded)
    build.add("Sub", known)


def mean_variance(build: Build) -> None:
    graphs.planes(build, channels=3)
    spread(build, 0, 1)
    build.add("MeanVarianceNormalization", axes=[[1, 2, 3], [2, 3], [-3]][int(build.random.integers(3))])


OPERATORS: dict[str, graphs.Operator] = {
    "Abs": entrywise("Abs"),
    "Ceil": entrywise("Ceil"),
    "Celu": entrywise("Celu", alpha=(0.3, 1.0, 2.0)),
    "Cos": entrywise("Cos"),
    "Elu": entrywise("Elu", alpha=(0.3, 1.0, -0.5, 2.0)),
    "Erf": entrywise("Erf"),
    "Exp": entrywise("Exp", most=0.5),
    "Floor": entrywise("Floor"),
    "Gelu": entrywise("Gelu", approximate=("none", "tanh")),
    "HardSigmoid": entrywise("HardSigmoid", alpha=(0.2, -0.5), beta=(0.5, 1.5)),
    "HardSwish": entrywise("HardSwish"),
    "Log": of_positive("Log"),
    "Mish": entrywise("Mish"),
    "Reciprocal": of_positive("Reciprocal"),
    "Round": entrywise("Round"),
    "Selu": entrywise("Selu", alpha=(1.67326, 0.5), gamma=(1.0507, 2.0)),
    "Shrink": entrywise("Shrink", lambd=(0.5, 0.0), bias=(0.0, 0.3)),
    "Sign": entrywise("Sign"),
    "Sin": entrywise("Sin"),
    "Softplus": entrywise("Softplus", most=1),
    "Softsign": entrywise("Softsign"),
    "Sqrt": of_positive("Sqrt"),
    "Tan": tangent,
    "ThresholdedRelu": entrywise("ThresholdedRelu", alpha=(0.0, 1.0, -0.5)),
    "Add": paired("Add"),
    "Div": division,
    "Max": several("Max"),
    "Mean": several("Mean"),
    "Min": several("Min"),
    "Mod": remainder,
    "Mul": paired("Mul"),
    "Mul, squares": square,
    "Mul, Gelu of primitives": gelu_of_primitives,
    "Mul, Swish": swish,
    "Mul, tanh": tanh_gate,
    "Pow": power,
    "Sub": paired("Sub"),
    "Sum": several("Sum"),
    "Comparisons": comparison,
    "Constants": computed_constants,
    "Constants, rectified": rectified_constants,
    "Where": fixed_choice,
    "MatMul": attention,
    "ArgMax": arg_extreme("ArgMax"),
    "ArgMin": arg_extreme("ArgMin"),
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LRN": local_response,
    "LayerNormalization": layer_norm,
    "LayerNormalization, primitives": layer_norm_of_primitives,
    "LogSoftmax": along_axis("LogSoftmax"),
    "LpNormalization": unit_length,
    "ReduceL1": reduced("ReduceL1"),
    "ReduceL2": reduced("ReduceL2", only_positive=True),
    "ReduceLogSum": reduced("ReduceLogSum", only_positive=True),
    "ReduceLogSumExp": reduced("ReduceLogSumExp"),
    "ReduceMax": reduced("ReduceMax"),
    "ReduceMin": reduced("ReduceMin"),
    "ReduceProd": reduced("ReduceProd"),
    "ReduceSumSquare": reduced("ReduceSumSquare"),
    "Softmax": along_axis("Softmax"),
}
"""From a name to what puts one operator, with random attributes, behind a random layer."""

LATER: dict[str, tuple[int, graphs.Operator]] = {
    "RMSNormalization": (23, root_mean_square_norm),
    "Swish": (24, entrywise("Swish", alpha=(1.0, 1.7, -0.6))),
}
"""The same of operators that came later, with the version that brought them."""
