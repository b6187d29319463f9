"""Small ONNX classifiers, made with onnx.helper alone, and onnxruntime without this project in between."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import IMAGE, INTERVAL, LOGITS, Metadata, write_metadata
from abscert_plugin.artifact.phi import phi_graph, prepend_phi
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid

SHAPE = (3, 4, 4)
CLASSES = 5
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]  # operator, inputs, outputs, attributes


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def weights(inputs: int = 48, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((inputs, classes)).astype(np.float32)


def make(
    nodes: Iterable[Node],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    constants: Iterable[onnx.TensorProto] = (),
    opset: int = 13,
    ir_version: int = 8,
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Return a model; nodes are (operator, inputs, outputs, attributes)."""
    built = [
        helper.make_node(operator, sources, targets, f"{operator}_{index}", **attributes)
        for index, (operator, sources, targets, attributes) in enumerate(nodes)
    ]
    graph = helper.make_graph(built, "third_party", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*item) for item in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def linear(
    batch: int | str = "batch",
    shape: Sequence[int] = SHAPE,
    before: Sequence[Node] = (),
    after: Sequence[Node] = (),
    source: str = "x",
    **options: Any,
) -> onnx.ModelProto:
    """Return a linear classifier of images; `before` and `after` are nodes from `x` to `source` and after `y`."""
    inputs = int(np.prod(shape))
    nodes = [
        *before,
        ("Flatten", [source], ["flat"], {"axis": 1}),
        ("MatMul", ["flat", "w"], ["y"], {}),
        *after,
    ]
    last = after[-1][2][0] if after else "y"
    constants = [constant("w", weights(inputs)), *options.pop("constants", ())]
    return make(nodes, [value("x", [batch, *shape])], [value(last, [batch, CLASSES])], constants, **options)


def save(model: onnx.ModelProto, folder: str | Path, name: str = "model.onnx") -> Path:
    path = Path(folder) / name
    path.write_bytes(model.SerializeToString())
    return path


def run(
    model: onnx.ModelProto | Path, feed: np.ndarray | dict[str, np.ndarray], outputs: list[str] | None = None
) -> list[np.ndarray]:
    """Return what onnxruntime gives; `model` is a ModelProto or a path."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    if isinstance(feed, np.ndarray):
        feed = {session.get_inputs()[0].name: feed}
    return session.run(outputs, feed)


def phi_model(grid: Grid, opset: int = 13) -> onnx.ModelProto:
    """Return a model that gives the interval image itself."""
    phi = phi_graph(grid)
    graph = helper.make_graph(
        list(phi.nodes),
        "phi",
        [value(IMAGE, ["batch", "channels", "height", "width"])],
        [value(INTERVAL, None)],
        list(phi.initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def deployed(cells: int = 5) -> onnx.ModelProto:
    """Return a deployed classifier as `abscert export` writes it."""
    interval_shape = (2 * SHAPE[0], *SHAPE[1:])
    model = make(
        [("Flatten", [INTERVAL], ["flat"], {"axis": 1}), ("MatMul", ["flat", "w"], [LOGITS], {})],
        [value(INTERVAL, ["batch", *interval_shape])],
        [value(LOGITS, ["batch", CLASSES])],
        [constant("w", weights(96))],
    )
    prepend_phi(model.graph, Grid(cells), SHAPE)
    write_metadata(model, Metadata("0.1.0", Cells(Grid(cells)), SHAPE, CLASSES, "linear", "none"))
    return model


def random_images(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)
