"""Classifiers under abstraction whose logits depend on the other images, on how many there are, or on chance."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import INTERVAL, LOGITS, Metadata, write_metadata
from abscert_plugin.artifact.phi import prepend_phi
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid

SHAPE = (1, 2, 2)
CLASSES = 2
GRID = Grid(4)

Nodes = list[onnx.NodeProto]
Change = Callable[[], tuple[Nodes, list[onnx.TensorProto]]]


def node(operator: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], f"{operator}-{output}", **cast(Any, attributes))


def constant(name: str, values: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def saved(change: Change, folder: Path, batch: int | str = "batch", opset: int = 15) -> Path:
    """Write a linear classifier whose logits `change` makes of `y`, into a file of this project."""
    more, constants = change()
    front = [node("Flatten", [INTERVAL], "flat"), node("MatMul", ["flat", "w"], "y")]
    weight = np.random.default_rng(3).standard_normal((8, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [*front, *more],
        "mixing",
        [helper.make_tensor_value_info(INTERVAL, TensorProto.FLOAT, [batch, 2, 2, 2])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [batch, CLASSES])],
        [constant("w", weight), *constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    prepend_phi(model.graph, GRID, SHAPE)
    write_metadata(model, Metadata("0.1.0", Cells(GRID), SHAPE, CLASSES, "mixing", "none"))
    path = folder / "deploy.onnx"
    path.write_bytes(model.SerializeToString())
    return path


SIZE = [node("Shape", ["y"], "shape"), node("Gather", ["shape", "zero"], "size", axis=0)]


def mean_of_the_batch() -> tuple[Nodes, list[onnx.TensorProto]]:
    return [node("ReduceMean", ["y"], "mean", axes=[0]), node("Sub", ["y", "mean"], LOGITS)], []


def negated_at_3() -> tuple[Nodes, list[onnx.TensorProto]]:
    """The logits change sign where the batch holds exactly 3 images."""
    nodes = [
        *SIZE,
        node("Equal", ["size", "three"], "is_three"),
        node("Where", ["is_three", "minus", "plus"], "sign"),
        node("Mul", ["y", "sign"], LOGITS),
    ]
    return nodes, [
        constant("zero", np.int64(0)),
        constant("three", np.int64(3)),
        constant("minus", np.float32(-1)),
        constant("plus", np.float32(1)),
    ]


def branch_on_the_size() -> tuple[Nodes, list[onnx.TensorProto]]:
    branches = {
        f"{kind}_branch": helper.make_graph(
            [node(operator, ["y"], kind)], kind, [], [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)]
        )
        for kind, operator in (("then", "Neg"), ("else", "Identity"))
    }
    nodes = [*SIZE, node("Greater", ["size", "one"], "many"), node("If", ["many"], LOGITS, **branches)]
    return nodes, [constant("zero", np.int64(0)), constant("one", np.int64(1))]


def softmax_over_images() -> tuple[Nodes, list[onnx.TensorProto]]:
    return [node("Softmax", ["y"], LOGITS, axis=0)], []


def mixed_by_reshape() -> tuple[Nodes, list[onnx.TensorProto]]:
    """Numbers of one image in the rows of others, where there are others."""
    nodes = [node("Reshape", ["y", "one_row"], "row"), node("Transpose", ["y"], "turned", perm=[1, 0])]
    nodes += [node("Reshape", ["turned", "rows"], LOGITS)]
    return nodes, [constant("one_row", np.array([1, -1])), constant("rows", np.array([-1, 2]))]


def offsets_by_place() -> tuple[Nodes, list[onnx.TensorProto]]:
    """Image 1 of a batch of 2 gets other logits; a batch of another size but 1 does not run."""
    return [node("Add", ["y", "offsets"], "moved"), node("Slice", ["moved", "from", "to", "axis"], LOGITS)], [
        constant("offsets", np.array([[0, 0], [-9, 9]], dtype=np.float32)),
        constant("from", np.array([0])),
        constant("to", np.array([9])),
        constant("axis", np.array([0])),
    ]


def product_of_images() -> tuple[Nodes, list[onnx.TensorProto]]:
    nodes = [node("Transpose", ["y"], "turned", perm=[1, 0]), node("MatMul", ["y", "turned"], "gram")]
    return [*nodes, node("MatMul", ["gram", "y"], LOGITS)], []


def old_softmax() -> tuple[Nodes, list[onnx.TensorProto]]:
    """Without an axis, before opset 13, the first one behind the leading axis: here that of the batch."""
    scores = [node("Unsqueeze", ["y"], "rows", axes=[0]), node("Softmax", ["rows"], "shares")]
    return [*scores, node("Squeeze", ["shares"], LOGITS, axes=[0])], []


def first_image() -> tuple[Nodes, list[onnx.TensorProto]]:
    return [node("Gather", ["y", "first"], "head", axis=0), node("Sub", ["y", "head"], LOGITS)], [
        constant("first", np.array([0]))
    ]


MIXING: Mapping[str, tuple[Change, str]] = {
    "mean of the batch": (mean_of_the_batch, "ReduceMean"),
    "negated at 3 images": (negated_at_3, "Equal"),
    "branch on the size": (branch_on_the_size, "Greater"),
    "softmax over images": (softmax_over_images, "Softmax"),
    "reshape": (mixed_by_reshape, "Reshape"),
    "offsets by place": (offsets_by_place, "Add"),
    "product of images": (product_of_images, "MatMul"),
    "first image": (first_image, "Gather"),
}


def random_in_a_branch() -> tuple[Nodes, list[onnx.TensorProto]]:
    drawn = [
        helper.make_graph(
            [node("RandomNormalLike", ["y"], f"drawn-{kind}")],
            kind,
            [],
            [helper.make_tensor_value_info(f"drawn-{kind}", TensorProto.FLOAT, None)],
        )
        for kind in ("then", "else")
    ]
    branched = node("If", ["yes"], "noise", then_branch=drawn[0], else_branch=drawn[1])
    return [branched, node("Add", ["y", "noise"], LOGITS)], [constant("yes", np.array(True))]


def random_numbers() -> tuple[Nodes, list[onnx.TensorProto]]:
    return [node("RandomNormalLike", ["y"], "noise"), node("Add", ["y", "noise"], LOGITS)], []


def dropout_left_on() -> tuple[Nodes, list[onnx.TensorProto]]:
    return [node("Dropout", ["y", "ratio", "on"], LOGITS)], [
        constant("ratio", np.float32(0.5)),
        constant("on", np.array(True)),
    ]


def trained_normalisation() -> tuple[Nodes, list[onnx.TensorProto]]:
    outputs = [LOGITS, "mean", "variance"]
    made = helper.make_node("BatchNormalization", ["y", *["ones"] * 4], outputs, "norm", training_mode=1)
    return [made], [constant("ones", np.ones(CLASSES, np.float32))]


CHANCE: Mapping[str, tuple[Change, str]] = {
    "random numbers": (random_numbers, "draws random numbers.*RandomNormalLike"),
    "random numbers in a branch": (random_in_a_branch, "draws random numbers.*RandomNormalLike"),
    "dropout": (dropout_left_on, "draws random numbers.*Dropout"),
    "batch norm in training": (trained_normalisation, "normalises by the batch.*norm.*BatchNormalization"),
}


def untouched() -> tuple[Nodes, list[onnx.TensorProto]]:
    return [node("Identity", ["y"], LOGITS)], []
