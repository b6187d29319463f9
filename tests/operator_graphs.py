"""Random ONNX classifiers of plain images around one operator, for comparing bounds with what onnxruntime computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import LOGITS, SCALED, Metadata, write_metadata
from abscert_plugin.artifact.scaling import prepend_scaling
from abscert_plugin.front import Pixels

CLASSES = 3
OPSET = 13


@dataclass
class Build:
    """A graph that grows node by node; `last` is what the next node reads, of the shape `shape` without the batch."""

    random: np.random.Generator
    shape: tuple[int, ...]
    last: str = SCALED
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: tuple[int, ...] = ()
    opset: int = OPSET
    infos: list[onnx.ValueInfoProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs = self.shape

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((scale * self.random.standard_normal(shape)).astype(np.float32))

    def add(self, operator: str, *others: str, reads: tuple[str, ...] | None = None, **attributes: Any) -> str:
        """Append a node of one output, by default one that reads `last` and the others, and return its output."""
        name = f"{operator}_{len(self.nodes)}"
        inputs = reads if reads is not None else (self.last, *others)
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        self.last, self.shape = name, self._shape_of(name)
        return name

    def _shape_of(self, name: str) -> tuple[int, ...]:
        graph = self._graph(onnx.ValueInfoProto(name=name), 1)
        inferred = onnx.shape_inference.infer_shapes(self._model(graph), strict_mode=True, data_prop=True)
        return tuple(size.dim_value for size in inferred.graph.output[0].type.tensor_type.shape.dim[1:])

    def _graph(self, output: onnx.ValueInfoProto, batch: int | str) -> onnx.GraphProto:
        source = helper.make_tensor_value_info(SCALED, TensorProto.FLOAT, [batch, *self.inputs])
        return helper.make_graph(self.nodes, "operator", [source], [output], self.constants, value_info=self.infos)

    def _model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def dense(self, outputs: int) -> None:
        """Flatten what there is, and append a dense layer of weights that keep the size of activations."""
        if len(self.shape) != 1:
            self.add("Flatten")
        (features,) = self.shape
        self.add("Gemm", self.floats(features, outputs, scale=features**-0.5), self.floats(outputs))

    def saved(self, folder: Path) -> Path:
        """Write the file of a classifier of plain images whose logits are `last`."""
        self.nodes[-1].output[0] = LOGITS
        model = self._model(
            self._graph(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", CLASSES]), "batch")
        )
        channels, height, width = self.inputs
        shape = (channels, height, width)
        prepend_scaling(model.graph, shape)
        write_metadata(model, Metadata("0.1.0", Pixels(), shape, CLASSES, "operator", "none"))
        onnx.checker.check_model(model, full_check=True)
        path = folder / "deploy.onnx"
        path.write_bytes(model.SerializeToString())
        return path


Operator = Callable[[Build], object]


def planes(build: Build, channels: int | None = None, size: int | None = None, signed: bool = True) -> None:
    """Begin with a convolution to images of some channels, behind a ReLU unless values of both signs are wanted."""
    random = build.random
    channels = channels or int(random.integers(1, 4))
    kernel = build.inputs[1] + 1 - size if size else 2
    shape = (channels, build.inputs[0], kernel, kernel)
    build.add("Conv", build.floats(*shape, scale=np.prod(shape[1:]) ** -0.5), build.floats(channels))
    if not signed:
        build.add("Relu")


def features(build: Build) -> None:
    build.dense(int(build.random.integers(4, 8)))


def pair(random: np.random.Generator, low: int, high: int) -> list[int]:
    return random.integers(low, high + 1, 2).tolist()


def convolution(build: Build) -> None:
    random = build.random
    groups = int(random.integers(1, 4))
    planes(build, channels=groups * int(random.integers(1, 3)), signed=False)
    kernel, pads = pair(random, 1, 3), pair(random, 0, 2)
    outputs = groups * int(random.integers(1, 3))
    weight = build.floats(outputs, build.shape[0] // groups, *kernel, scale=0.5)
    bias = [build.floats(outputs)] if random.random() < 0.7 else []
    dilations = [1, 1] if random.random() < 0.5 else pair(random, 1, 2)
    build.add("Conv", weight, *bias, strides=pair(random, 1, 3), pads=pads * 2, dilations=dilations, group=groups)


def lopsided(build: Build) -> None:
    """Append a convolution that is padded by more on one side."""
    planes(build, channels=2, size=5, signed=False)
    kind = int(build.random.integers(3))
    if kind == 0:
        build.add("Conv", build.floats(3, 2, 3, 2, scale=0.4), pads=build.random.integers(0, 3, 4).tolist())
    elif kind == 1:
        build.add("Conv", build.floats(3, 2, 2, 3, scale=0.4), auto_pad="SAME_UPPER", strides=[2, 2])
    else:
        build.add("Conv", build.floats(2, 1, 2, 2, scale=0.4), pads=[0, 1, 2, 1], dilations=[2, 1], group=2)


def line_convolution(build: Build) -> None:
    planes(build, channels=2, size=4, signed=False)
    build.add("Reshape", build.constant(np.array([0, 2, -1])))
    pads, strides = build.random.integers(0, 3, 2).tolist(), [int(build.random.integers(1, 4))]
    build.add("Conv", build.floats(3, 2, 4, scale=0.4), build.floats(3), pads=pads, strides=strides)


def padded(build: Build) -> None:
    planes(build, channels=2)
    pads = build.random.integers(0, 3, 4).tolist()
    build.add("Pad", build.constant(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]])))


def concatenated(build: Build) -> None:
    planes(build, channels=2)
    first = build.last
    build.add("Relu")
    build.add("Concat", reads=(first, build.last, first), axis=int(build.random.choice([1, -3])))


def average_pool(build: Build) -> None:
    random = build.random
    planes(build, signed=False)
    kernel = pair(random, 1, 4)
    pads = [int(random.integers(0, size)) for size in kernel]
    counted = int(random.random() < 0.5)
    build.add("AveragePool", kernel_shape=kernel, strides=pair(random, 1, 3), pads=pads * 2, count_include_pad=counted)


def average_pool_same(build: Build) -> None:
    planes(build, signed=False, size=5)
    build.add("AveragePool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1)


def max_pool(build: Build) -> None:
    planes(build)
    kernel = pair(build.random, 1, 3)
    build.add("MaxPool", kernel_shape=kernel, strides=kernel)


def overlapping_max_pool(build: Build) -> None:
    planes(build)
    kernel = [3, 3]
    pads = [int(build.random.integers(0, size)) for size in kernel]
    build.add("MaxPool", kernel_shape=kernel, strides=pair(build.random, 1, 2), pads=pads * 2)


def global_pool(build: Build) -> None:
    planes(build, signed=False)
    build.add("GlobalAveragePool")


def reduced_mean(build: Build) -> None:
    planes(build, signed=False)
    build.add(
        "ReduceMean", axes=[[2, 3], [-1, -2]][int(build.random.integers(2))], keepdims=int(build.random.integers(2))
    )


def normalisation(build: Build) -> None:
    [planes, features][int(build.random.integers(2))](build)
    channels, random = build.shape[0], build.random
    variance = build.constant(random.uniform(0.01, 4, channels).astype(np.float32))
    build.add(
        "BatchNormalization",
        *(build.floats(channels) for _ in range(3)),
        variance,
        epsilon=float(random.choice([1e-5, 0.1])),
    )


def activation(operator: str, **attributes: Any) -> Operator:
    def added(build: Build) -> None:
        [planes, features][int(build.random.integers(2))](build)
        # wide and far from 0 as well
        build.add("Mul", build.constant(np.float32(10 ** build.random.uniform(-1, 3))))
        build.add("Add", build.constant(np.float32(build.random.standard_normal())))
        build.add(operator, **attributes)

    return added


def leaky(build: Build) -> None:
    activation("LeakyRelu", alpha=float(build.random.choice([0.0, 0.01, 0.3, 0.99, 1.0])))(build)


def per_channel(build: Build) -> None:
    [planes, features][int(build.random.integers(2))](build)
    random, rank = build.random, len(build.shape)
    for operator in random.permutation(["Add", "Sub", "Mul", "Div"]):
        shape = (build.shape[0] if random.random() < 0.5 else 1, *(1 for _ in build.shape[1:]))
        constant = build.constant((random.standard_normal(shape) + 2).astype(np.float32))
        constant_first = operator != "Div" and random.random() < 0.5
        build.add(operator, reads=(constant, build.last) if constant_first else (build.last, constant))
    assert len(build.shape) == rank


def joined(operator: str) -> Operator:
    def added(build: Build) -> None:
        planes(build, channels=2, signed=False)
        first = build.last
        build.add("Conv", build.floats(2, 2, 3, 3, scale=0.3), pads=[1, 1, 1, 1])
        if build.random.random() < 0.5:
            build.add("Relu")
        reads = (first, build.last) if build.random.random() < 0.5 else (build.last, first)
        build.add(operator, reads=reads)

    return added


def split(build: Build) -> None:
    planes(build, channels=4, signed=False)
    parts = [f"part{place}" for place in range(2)]
    sizes = build.constant(np.array([2, 2]))
    node = helper.make_node("Split", [build.last, sizes], parts, "Split", axis=int(build.random.choice([1, -3])))
    build.nodes.append(node)
    build.add(str(build.random.choice(["Add", "Sub"])), reads=tuple(build.random.permutation(parts).tolist()))


def gemm(build: Build) -> None:
    features(build)
    build.add("Relu")
    (inputs,), random = build.shape, build.random
    by_rows = int(random.integers(2))
    shape = (5, inputs) if by_rows else (inputs, 5)
    bias = build.floats(*[(5,), (1, 5), (1,)][int(random.integers(3))])
    alpha, beta = map(float, random.standard_normal(2))
    build.add("Gemm", build.floats(*shape), bias, transB=by_rows, alpha=alpha, beta=beta)


def matrix_product(build: Build) -> None:
    features(build)
    build.add("Relu")
    build.add("MatMul", build.floats(build.shape[0], 5))


def reshape(build: Build) -> None:
    planes(build, channels=4, size=4, signed=False)
    targets = ([-1, 2, 8, 4], [0, 8, -1, 4], [0, -1, 8, 2], [-1, 16, 2, 2], [-1, 1, 8, 8])
    build.add("Reshape", build.constant(np.array(targets[int(build.random.integers(len(targets)))])))
    build.add("Conv", build.floats(2, build.shape[0], 2, 2, scale=0.3))


def transpose(build: Build) -> None:
    planes(build, channels=3, signed=False)
    build.add("Transpose", perm=[0, *(1 + build.random.permutation(3)).tolist()])
    if build.random.random() < 0.5:
        build.add("Conv", build.floats(2, build.shape[0], 2, 2, scale=0.3))


def flatten(build: Build) -> None:
    planes(build, signed=False)
    build.add("Flatten", axis=int(build.random.choice([1, -3])))


def squeezed(build: Build) -> None:
    planes(build, channels=1, signed=False)
    build.add("Squeeze", build.constant(np.array([int(build.random.choice([1, -3]))])))
    if build.random.random() < 0.5:
        build.add("Relu")
    build.add("Unsqueeze", build.constant(np.array([int(build.random.choice([1, 2, 3, -1]))])))


def inert(operator: str, **attributes: Any) -> Operator:
    def added(build: Build) -> None:
        planes(build, signed=False)
        build.add(operator, **attributes)

    return added


OPERATORS: Mapping[str, Operator] = {
    "Add": joined("Add"),
    "AveragePool": average_pool,
    "AveragePool, same": average_pool_same,
    "BatchNormalization": normalisation,
    "Cast": inert("Cast", to=TensorProto.FLOAT),
    "Concat": concatenated,
    "Conv": convolution,
    "Conv, line": line_convolution,
    "Conv, lopsided": lopsided,
    "Div, Mul, constants": per_channel,
    "Dropout": inert("Dropout"),
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool,
    "Identity": inert("Identity"),
    "LeakyRelu": leaky,
    "MatMul": matrix_product,
    "MaxPool": max_pool,
    "MaxPool, overlapping": overlapping_max_pool,
    "Pad": padded,
    "ReduceMean": reduced_mean,
    "Relu": activation("Relu"),
    "Reshape": reshape,
    "Sigmoid": activation("Sigmoid"),
    "Split": split,
    "Squeeze, Unsqueeze": squeezed,
    "Sub": joined("Sub"),
    "Tanh": activation("Tanh"),
    "Transpose": transpose,
}
"""From a name to what puts one operator, with random attributes, behind a random layer."""


def classifier(operator: Operator, seed: int, folder: Path, opset: int = OPSET) -> Path:
    """Write a random classifier that has the operator between two layers, and return its path."""
    random = np.random.default_rng(seed)
    build = Build(random, (int(random.integers(1, 3)), 6, 6), opset=opset)
    operator(build)
    build.dense(5)
    build.add("Relu")
    build.dense(CLASSES)
    return build.saved(folder)
