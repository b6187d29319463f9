"""The ImageNet-sized graphs that the onnx package ships, with weights that let the image be seen in the logits.

As they are shipped, every weight is 0.02, so all classes get one logit whatever the image. Only weights are changed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
from onnx import TensorProto, helper, numpy_helper

LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
SHAPE = (3, 224, 224)
CLASSES = 1000
NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "zfnet512",
)
OF_THE_SAME_OPERATORS = {"vgg19": "bvlc_alexnet"}
"""Graphs that are left out, since another one has all of their operators: VGG19 takes longer than all the others."""
_FULL_RANK = 500_000  # entries; larger matrices are of rank 1, which costs less than a sine of each entry


def shipped(name: str) -> Path:
    """Return the file as the onnx package has it."""
    return LIGHT / f"light_{name}.onnx"


def save_with_weights(name: str, folder: Path) -> Path:
    """Save the graph with random weights, each computed in the file from two short vectors, so that it stays small."""
    model = onnx.load_model(str(shipped(name)))
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = {source: (node, place) for node in graph.node for place, source in enumerate(node.input)}
    random = np.random.default_rng(0)
    # where branches are added up, smaller factors keep the last softmax away from 0 and 1
    level = 0.6 if any(node.op_type == "Sum" for node in graph.node) else 1.0
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = tuple(shapes[node.input[0]].tolist())
        if len(shape) > 1:
            nodes += _weights(graph, node.output[0], shape, random)
        elif _is_factor(readers, node.output[0]):
            _store(graph, node.output[0], level * random.uniform(0.5, 1.5, shape))
        else:
            _store(graph, node.output[0], 0.1 * random.standard_normal(shape))
    del graph.node[:]
    graph.node.extend(nodes)
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _is_factor(readers: Mapping[str, tuple[onnx.NodeProto, int]], name: str) -> bool:
    """Return whether it is a scale or a variance, so has to be positive; else it is added to something."""
    node, place = readers[name]
    if node.op_type == "Unsqueeze":
        return _is_factor(readers, node.output[0])
    return (node.op_type, place) in (("Mul", 1), ("BatchNormalization", 1), ("BatchNormalization", 4))


def _weights(
    graph: onnx.GraphProto, name: str, shape: tuple[int, ...], random: np.random.Generator
) -> Iterator[onnx.NodeProto]:
    """Return nodes for weights that keep the size of activations (He et al. 2015): sin(a b), or a b where large."""
    axis = next(axis for axis, size in enumerate(shape) if size > 1) + 1
    rest = len(shape) - axis
    inputs = int(np.prod(shape[axis:]))
    column = random.standard_normal((*shape[:axis], *[1] * rest))
    row = random.standard_normal((*[1] * axis, *shape[axis:]))
    _store(graph, f"{name}/row", row)
    if np.prod(shape) > _FULL_RANK:
        _store(graph, f"{name}/column", column * np.sqrt(2 / inputs))
        yield helper.make_node("Mul", [f"{name}/column", f"{name}/row"], [name])
        return
    _store(graph, f"{name}/column", 30 * column)
    _store(graph, f"{name}/size", np.array(2 / np.sqrt(inputs)))
    yield helper.make_node("Mul", [f"{name}/column", f"{name}/row"], [f"{name}/angle"])
    yield helper.make_node("Sin", [f"{name}/angle"], [f"{name}/sine"])
    yield helper.make_node("Mul", [f"{name}/sine", f"{name}/size"], [name])


def _store(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    # files of this age name their initializers among the inputs as well
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
