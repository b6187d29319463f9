"""Files that `wrap` has to refuse: by name, a function that makes one in a folder, and what the refusal says."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphs as graphs
from onnx import TensorProto, helper

NAME = "model.onnx"

Maker = Callable[[Path], Path]


def good(folder: Path) -> Path:
    return graphs.save(graphs.linear(), folder, NAME)


def holding(content: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (folder / NAME).write_bytes(content)
        return folder / NAME

    return make


def saved(build: Callable[[], onnx.ModelProto]) -> Maker:
    return lambda folder: graphs.save(build(), folder, NAME)


def cut_short(folder: Path) -> Path:
    content = graphs.linear().SerializeToString()
    return holding(content[: len(content) // 2])(folder)


def with_nodes(*nodes: tuple[str, list[str], list[str], dict[str, Any]], **options: Any) -> Maker:
    """Return a maker of a linear classifier with these nodes between its input `x` and what it reads, `z`."""
    return saved(lambda: graphs.linear(before=nodes, source="z", **options))


def with_input(kind: int, shape: Sequence[int | str]) -> Maker:
    nodes: list[graphs.Node] = [
        ("Cast", ["x"], ["z"], {"to": TensorProto.FLOAT}),
        ("Flatten", ["z"], ["y"], {"axis": 1}),
    ]
    return saved(lambda: graphs.make(nodes, [graphs.value("x", shape, kind)], [graphs.value("y", ["batch", 48])]))


def two_inputs() -> onnx.ModelProto:
    model = graphs.linear(before=[("Add", ["x", "x2"], ["z"], {})], source="z")
    model.graph.input.append(graphs.value("x2", ["batch", *graphs.SHAPE]))
    return model


def no_input() -> onnx.ModelProto:
    model = graphs.linear(constants=[graphs.constant("x", np.ones((1, *graphs.SHAPE), np.float32))])
    del model.graph.input[:]
    return model


def two_labels() -> onnx.ModelProto:
    constants = [graphs.constant("two", np.array([2], np.int64))]
    model = graphs.linear(after=[("TopK", ["y", "two"], ["best", "label"], {"axis": 1})], constants=constants)
    model.graph.output[0].CopyFrom(graphs.value("label", ["batch", 2], TensorProto.INT64))
    return model


def mixing_images(batch: int | str) -> onnx.ModelProto:
    """Return a classifier that subtracts the mean of the batch, as batch norm does before it is set to inference."""
    after = [("ReduceMean", ["y"], ["mean"], {"axes": [0]}), ("Sub", ["y", "mean"], ["centred"], {})]
    return graphs.linear(batch, after=after)


def random_in_a_branch() -> onnx.ModelProto:
    draw = helper.make_node("RandomNormalLike", ["x"], ["drawn"], "inner")
    keep = helper.make_node("Identity", ["x"], ["kept"])
    branches = {
        name: helper.make_graph([node], name, [], [graphs.value(node.output[0], None)])
        for name, node in (("then_branch", keep), ("else_branch", draw))
    }
    constants = [graphs.constant("yes", np.array(True))]
    return graphs.linear(before=[("If", ["yes"], ["z"], branches)], source="z", constants=constants)


def random_in_a_function() -> onnx.ModelProto:
    model = graphs.linear(before=[("Noise", ["x"], ["z"], {"domain": "own"})], source="z", domains={"own": 1})
    draw = helper.make_node("RandomUniformLike", ["a"], ["b"], "inner")
    opsets = [helper.make_opsetid("", 13)]
    model.functions.append(helper.make_function("own", "Noise", ["a"], ["b"], [draw], opsets))
    model.ir_version = 8
    return model


def dropout(training: bool, by_node: bool = False) -> onnx.ModelProto:
    """Return a classifier that drops so few values, in training mode, that two runs of it are most often equal."""
    flag = graphs.constant("training", np.array(training))
    nodes: list[graphs.Node] = [("Constant", [], ["training"], {"value": flag})] if by_node else []
    nodes.append(("Dropout", ["x", "ratio", "training"], ["z"], {}))
    constants = [graphs.constant("ratio", np.float32(1e-4)), *([] if by_node else [flag])]
    return graphs.linear(before=nodes, source="z", constants=constants)


def with_weights_at(location: str, size: int = 4 * 48 * graphs.CLASSES) -> Maker:
    """Return a maker of a classifier in models/ whose weights, of so many bytes, lie at `location` from there."""

    def make(folder: Path) -> Path:
        models = folder / "models"
        (models / "inner").mkdir(parents=True)
        (models / location).resolve().write_bytes(graphs.weights().tobytes()[:size])
        model = graphs.linear()
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return graphs.save(model, models, NAME)

    return make


def weights_lost(folder: Path) -> Path:
    path = with_weights_at("lost.data")(folder)
    (path.parent / "lost.data").unlink()
    return path


def not_convertible() -> onnx.ModelProto:
    """Return a classifier of opset 7 that onnxruntime runs and onnx's converter cannot bring up."""
    constants = [graphs.constant("ones", np.ones(graphs.SHAPE, np.float32))]
    nodes = [("BatchNormalization", ["x", *["ones"] * 4], ["z"], {"spatial": 0})]
    return graphs.linear(before=nodes, source="z", constants=constants, opset=7)


BAD_FILES: Mapping[str, tuple[Maker, str]] = {
    "missing": (lambda folder: folder / NAME, "is not there"),
    "a folder": (lambda folder: folder, "is not a file|one ONNX file in the folder"),
    "empty": (holding(b""), "is empty"),
    "text": (holding(b"import torch\n"), "is not an ONNX model"),
    "png": (holding(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "is not an ONNX model"),
    "zip": (holding(b"PK\x03\x04archive/data.pkl"), "is not an ONNX model"),
    "cut short": (cut_short, "is not an ONNX model, or is cut short"),
    "a tensor": (holding(graphs.constant("w", graphs.weights()).SerializeToString()), "is not an ONNX model"),
    "dangling": (with_nodes(("Relu", ["nowhere"], ["z"], {})), "onnxruntime cannot load .*nowhere"),
    "two inputs": (saved(two_inputs), r"expected one input, an image, got 2: 'x' \(float .*'x2' \(float"),
    "no input": (saved(no_input), "expected one input, an image, got 0: none"),
    "texts": (with_input(TensorProto.STRING, ["batch", 3, 4, 4]), r"input of floats, bytes or other .*'x' \(string"),
    "seven axes": (
        with_input(TensorProto.FLOAT, ["batch", 3, 1, 1, 1, 4, 4]),
        r"of 2 to 6 axes.*'x' \(float \[\?, 3, 1",
    ),
    "unknown operator": (with_nodes(("Frobnicate", ["x"], ["z"], {})), "onnxruntime cannot load .*Frobnicate"),
    "unknown domain": (
        with_nodes(("Relu", ["x"], ["z"], {"domain": "com.example"}), domains={"com.example": 1}),
        r"onnxruntime cannot load .*com\.example",
    ),
    "data behind ..": (with_weights_at("../secret.data"), r"'\.\./secret\.data', outside its own folder"),
    "data behind inner/..": (with_weights_at("inner/../model.data"), "outside its own folder; this is refused"),
    "data lost": (weights_lost, "'lost.data', which is not there; copy it beside the model"),
    "data too short": (with_weights_at("model.data", 100), "cannot (read|load)"),
    "random": (with_nodes(("RandomNormalLike", ["x"], ["z"], {})), r"draws random numbers .*RandomNormalLike"),
    "bernoulli": (with_nodes(("Bernoulli", ["x"], ["z"], {}), opset=15), r"draws random numbers .*Bernoulli"),
    "random in a branch": (saved(random_in_a_branch), r"draws random numbers \(node 'inner', RandomNormalLike\)"),
    "random in a function": (saved(random_in_a_function), r"draws random numbers \(node 'inner', RandomUniformLike"),
    "dropout left on": (saved(lambda: dropout(training=True)), r"draws random numbers .*Dropout\)"),
    "dropout left on by a node": (saved(lambda: dropout(True, by_node=True)), r"draws random numbers .*Dropout\)"),
    "under abstraction": (saved(graphs.deployed), "is under abstraction already"),
    "two labels": (saved(two_labels), r"expected scores of classes, or a label, for each image, got int64 \[1, 2\]"),
    "mixing": (saved(lambda: mixing_images(2)), "other logits for images of a batch than alone, and demands.* of 2"),
    "not convertible": (saved(not_convertible), "has opset 7, and onnx cannot bring it up to 13.*export it again"),
}
