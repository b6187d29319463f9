"""What runtimes read in different ways, or in another way than a proof might, is refused; what is proven, they compute.

Each refusal below was once a proof of other numbers than onnxruntime's, or than those of onnx's reference.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.proof import Proof
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph

LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Case:
    """A file that takes 4 numbers an image: nodes as (operator, inputs, outputs[, attributes]), constants by name.

    Args:
        refusal: why it has no proof; empty where it has one.
    """

    nodes: tuple[tuple[Any, ...], ...]
    constants: dict[str, Any]
    refusal: str = ""
    opset: int = 13
    batch: int | str = "batch"
    shape: tuple[int, ...] = (4,)
    features: int = 4

    def model(self) -> onnx.ModelProto:
        weight = np.random.default_rng(0).standard_normal((self.features, 2)).astype(np.float32)
        nodes = [
            helper.make_node(node[0], node[1].split(), node[2].split(), node[2], **(node[3] if len(node) > 3 else {}))
            for node in (*self.nodes, ("MatMul", "f weight", "logits"))
        ]
        ends = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, *self.shape]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [self.batch, 2]),
        ]
        tensors = [numpy_helper.from_array(weight, "weight"), *map(tensor, self.constants.items())]
        graph = helper.make_graph(nodes, "meaning", ends[:1], ends[1:], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def tensor(named: tuple[str, Any]) -> onnx.TensorProto:
    name, values = named
    if isinstance(values, str):
        return numpy_helper.from_array(np.array([values], dtype=object), name)
    if isinstance(values, np.ndarray) and values.dtype == np.int64:
        return numpy_helper.from_array(values, name)
    if isinstance(values, int) or (isinstance(values, list) and isinstance(values[0], int)):
        return numpy_helper.from_array(np.asarray(values, np.int64), name)
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def reshaped(first: int, **more: Any) -> Case:
    """Subtract the mean of each row of a reshape that should be an image."""
    nodes = (
        ("Reshape", "x other", "r"),
        ("ReduceMean", "r", "m", {"axes": [1]}),
        ("Sub", "r m", "d"),
        ("Reshape", "d back", "f"),
    )
    return Case(nodes, {"other": [first, -1], "back": [-1, 4]}, **more)


def sliced(start: int, end: int, **more: Any) -> Case:
    """Multiply by the first 4 of what a slice backward leaves of a constant, and others behind it."""
    nodes = (
        ("Slice", "k start end zero less", "s"),
        ("Concat", "s k", "c", {"axis": 0}),
        ("Slice", "c zero four", "v"),
        ("Mul", "x v", "f"),
    )
    constants = {"k": [5.0, -5, 7, -7], "start": [start], "end": [end], "zero": [0], "less": [-1], "four": [4]}
    return Case(nodes, constants, **more)


def cast(kind: int, text: Any, **more: Any) -> Case:
    nodes = (("Cast", "t", "a", {"to": kind}), ("Cast", "a", "k", {"to": TensorProto.FLOAT}), ("Mul", "x k", "f"))
    return Case(nodes, {"t": text}, **more)


def split(outputs: str, **more: Any) -> Case:
    nodes = (("Split", "x", outputs, {"axis": 1, "num_outputs": 2}), ("Concat", f"{outputs} x", "c", {"axis": 1}))
    last = ("Slice", "c zero four one", "f")
    return Case((*nodes, last), {"zero": [0], "four": [4], "one": [1]}, opset=18, **more)


def constant_split(outputs: str, count: int, **more: Any) -> Case:
    nodes = (
        ("Split", "k", outputs, {"axis": 0, "num_outputs": count}),
        ("Concat", "b a k", "c", {"axis": 0}),
        ("Slice", "c zero four", "v"),
        ("Mul", "x v", "f"),
    )
    return Case(nodes, {"k": [5.0, -3, 2, 1], "zero": [0], "four": [4]}, opset=18, **more)


def unsqueezed(*axes: int, **more: Any) -> Case:
    nodes = (
        ("Unsqueeze", "k", "v", {"axes": list(axes)}),
        ("Mul", "x v", "m"),
        ("Flatten", "m", "f"),
    )
    return Case(nodes, {"k": [2.0, -3]}, opset=11, shape=(1, 2, 2), **more)


def pooled(operator: str, **attributes: Any) -> Case:
    refusal = attributes.pop("refusal", "")
    nodes = ((operator, "x", "p", attributes), ("Flatten", "p", "f"))
    return Case(nodes, {}, refusal, shape=(1, 3, 3), features=9)


def normalised(channels: int, refusal: str, **attributes: Any) -> Case:
    nodes = (
        ("BatchNormalization", "x k z z o", "n", attributes),
        ("ReduceMean", "n", "m", {"axes": [1]}),
        ("Flatten", "m", "f"),
    )
    size = (channels,) if "spatial" not in attributes else (1, 2, 2)
    values = {"k": np.arange(float(np.prod(size))).reshape(size), "z": np.zeros(size), "o": np.ones(size)}
    return Case(nodes, values, refusal, opset=8, shape=(1, 2, 2))


def biased(count: int, refusal: str = "") -> Case:
    nodes = (("Conv", "x k b", "c"), ("Flatten", "c", "f"))
    return Case(nodes, {"k": np.ones((4, 1, 2, 2)), "b": np.ones(count)}, refusal, shape=(1, 2, 2))


CASES = {
    "rows of half an image": reshaped(2, refusal="each row alone"),
    "rows of half an image, one image": reshaped(2, batch=1, refusal="each row alone"),
    "two images in a row": reshaped(1, batch=2, refusal="keeps the batch apart"),
    "an image in a row": reshaped(1),
    "an image in a row, by its size": reshaped(0),
    "two images in two rows": reshaped(2, batch=2),
    "a slice backward from the largest number": sliced(1, LARGEST, refusal="slice backward"),
    "a slice backward from before the first": sliced(-9, -10, refusal="slice backward"),
    "a slice backward to the first": sliced(3, -LARGEST - 1),
    "text with an underscore": cast(TensorProto.FLOAT, "1_0", refusal="between numbers"),
    "four bits": cast(TensorProto.INT4, [3.7, 100.3, 0.4, -7.5], refusal="between numbers", opset=21),
    "sixteen bits": cast(TensorProto.FLOAT16, [3.7, 100.3, 0.4, -7.5], refusal="between numbers"),
    "whole numbers": cast(TensorProto.INT32, [3.7, 100.3, 0.4, -7.5]),
    "a part that is not named": split("a", refusal="num_outputs"),
    "parts that are named": split("a b"),
    "a part of a constant that is not named": constant_split("a b", 4, refusal="num_outputs"),
    "parts of a constant": constant_split("a b", 2),
    "axes out of order": unsqueezed(1, 0, refusal="ascending"),
    "axes in order": unsqueezed(0, 1),
    "dilations and SAME": pooled(
        "MaxPool", kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER", refusal="no dilations"
    ),
    "pads and SAME": pooled(
        "MaxPool", kernel_shape=[2, 2], pads=[1, 1, 1, 1], auto_pad="SAME_UPPER", refusal="not both"
    ),
    "SAME": pooled("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
    "constants of more channels": normalised(4, "each of 1 channels"),
    "constants of each entry": normalised(1, "spatial", spatial=0),
    "a bias too few": biased(1, "a bias for each of 4"),
    "biases": biased(4),
    "sizes to before the first": Case(
        (
            ("Shape", "k", "s", {"end": -4}),
            ("ReduceSum", "s zero", "n", {"keepdims": 0}),
            ("Cast", "n", "v", {"to": 1}),
            ("Add", "x v", "f"),
        ),
        {"k": np.zeros((2, 3, 5)), "zero": [0]},
        opset=15,
    ),
    "a cubic of infinity": Case(
        (
            ("Resize", "x none none sizes", "r", {"mode": "cubic", "cubic_coeff_a": float("inf")}),
            ("Flatten", "r", "f"),
        ),
        {"none": np.zeros(0), "sizes": [1, 1, 4, 4]},
        "cubic_coeff_a from -1 to 0",
        shape=(1, 2, 2),
        features=16,
    ),
    "one number an image": Case(
        (("ReduceMean", "x", "m", {"axes": [1], "keepdims": 0}), ("Unsqueeze", "m one", "f")),
        {"one": [1]},
        "another axis behind it",
        features=1,
    ),
    "0 times infinity": Case(
        (("Gemm", "x k c", "f", {"beta": 0.0}),), {"k": np.eye(4), "c": np.full(4, np.inf)}, "infinite or NaN"
    ),
}


def strided(size: int, kernel: int, stride: int, kind: str) -> Case:
    """Return a convolution of rows whose padding the file leaves to the runtime."""
    attributes = {"auto_pad": kind, "strides": [stride], "kernel_shape": [kernel]}
    weight = np.arange(1.0, kernel + 1).reshape(1, 1, kernel)
    nodes = (("Conv", "x w", "c", attributes), ("Flatten", "c", "f"))
    return Case(nodes, {"w": weight}, shape=(1, size), features=-(-size // stride))


def shrunk(size: int, target: int, refusal: str = "") -> Case:
    """Return a row of nearest entries by the tenth set of operators."""
    scales = np.array([1, 1, 1, target / size])
    nodes = (("Resize", "x scales", "r", {"mode": "nearest"}), ("Flatten", "r", "f"))
    return Case(nodes, {"scales": scales}, refusal, opset=10, shape=(1, 1, size), features=target)


def sized(batch: int | str, refusal: str = "") -> Case:
    """Multiply by the second size of a reshape that may merge rows of all images."""
    nodes = (
        ("Reshape", "x two", "r"),
        ("Shape", "r", "s"),
        ("Gather", "s one", "n"),
        ("Cast", "n", "v", {"to": 1}),
        ("Mul", "x v", "f"),
    )
    return Case(nodes, {"two": [-1, 2] if refusal else [1, 4], "one": [1]}, refusal, batch=batch)


def squeezed(axes: list[int], refusal: str = "", of_constant: bool = False) -> Case:
    """Take the softmax of what is squeezed, along the last axis that is left."""
    shape = np.array([2, 1] if of_constant else [-1, 4, 1])
    more = (("Mul", "x m", "g"),) if of_constant else (("Identity", "m", "g"),)
    source = "k" if of_constant else "x"
    nodes = (
        ("Reshape", f"{source} shape", "r"),
        ("Squeeze", "r axes", "q"),
        ("ReduceMax", "q", "t", {"axes": [-1]}),
        ("Reshape", "t row", "m"),
        *more,
        ("Flatten", "g", "f"),
    )
    constants = {"k": [3.0, -5.0], "shape": shape, "axes": np.array(axes, np.int64), "row": np.array([-1, 1])}
    return Case(nodes, constants, refusal, features=4 if of_constant else 1)


def multiplied(first: int, second: int, refusal: str = "") -> Case:
    """Multiply by what is left of a product of whole numbers, divided by 2^59."""
    nodes = (
        ("ReduceProd", "n", "p", {"axes": [0]}),
        ("Sub", "p n", "d"),
        ("Cast", "d", "v", {"to": 1}),
        ("Slice", "v zero one", "w"),
        ("Mul", "x w", "f"),
    )
    return Case(nodes, {"n": [first, second], "zero": [0], "one": [1]}, refusal)


def gated(curve: str, offset: float) -> Case:
    """Multiply by a curve of a product with a constant of which roundings leave little: 1.66 + 2^24 - 2^24 is 2."""
    nodes = (
        ("Add", "far k", "s"),
        ("Sub", "s far", "d"),
        ("Abs", "d", "c"),
        ("Mul", "x c", "t"),
        (curve, "t", "e"),
        ("Add", "e o", "v"),
        ("Mul", "x v", "f"),
    )
    return Case(nodes, {"far": [2.0**24], "k": [1.66], "o": [offset]})


CASES |= {
    "a factor inside Erf that is not known": gated("Erf", 1.0),
    "a factor inside Tanh that is not known": gated("Tanh", 1.0),
    "a factor inside Sigmoid that is not known": gated("Sigmoid", 0.0),
    "the size of rows of all images": sized("batch", "no sizes of rows of all images"),
    "the size of an image": sized(1),
    "no axes": squeezed([], "expected axes"),
    "axes": squeezed([2]),
    "no axes of a constant": squeezed([], "expected axes", of_constant=True),
    "axes of a constant": squeezed([1], of_constant=True),
    "a product beyond float64": multiplied(1564780951, -461487970, "products of whole numbers below 2.53"),
    "a product of whole numbers": multiplied(15647809, -461487),
    "three quarters of the entries": shrunk(8, 6, "which entry is nearest"),
    "half of the entries": shrunk(8, 4),
    "entries and a half": shrunk(8, 12),
}


@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER"])
def test_windows_that_the_runtime_places_are_where_onnxruntime_has_them_or_refused(kind: str) -> None:
    refused = []
    for size, kernel, stride in product(range(1, 10), range(1, 4), range(1, 6)):
        case = strided(size, kernel, stride, kind)
        try:
            check(case)
        except UnsupportedModelError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 40
    assert all("windows begin behind the first values" in words for words in refused)


def test_a_name_that_our_own_names_could_have_is_refused() -> None:
    for place in ("a node's", "a constant's"):
        model = reshaped(0).model()
        named = model.graph.node[0] if place == "a node's" else model.graph.node[-1]
        if place == "a node's":
            model.graph.node[1].input[0] = named.output[0] = "f\0001"
        else:
            model.graph.initializer[0].name = named.input[1] = "w\0"
        with pytest.raises(UnsupportedModelError, match="names without NUL"):
            read_graph(model, Path("meaning.onnx"))


@pytest.mark.parametrize(
    ("domain", "name"), [("", "Relu"), ("ai.onnx", "Relu"), ("ai.onnx.ml", "Scaler"), ("ai", "onnx.ml.Scaler")]
)
def test_a_function_by_the_name_of_an_operator_is_refused(domain: str, name: str) -> None:
    """Else a proof would take it for that; onnxruntime computes what the file defines."""
    model = reshaped(0).model()
    body = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function(domain, name, ["a"], ["b"], body, model.opset_import[:1]))
    with pytest.raises(UnsupportedModelError, match="functions under the names of standard operators"):
        read_graph(model, Path("meaning.onnx"))


@pytest.mark.parametrize("name", CASES)
def test_what_is_proven_is_what_onnxruntime_computes(name: str) -> None:
    check(CASES[name])


def check(case: Case) -> None:
    """Hold a case's proof against onnxruntime, or what it says against its refusal.

    Raises:
        UnsupportedModelError: if it has no proof, and the case says nothing of a refusal.
    """
    model = case.model()
    graph = read_graph(model, Path("meaning.onnx"))
    if case.refusal:
        with pytest.raises(UnsupportedModelError, match=case.refusal):
            Proof(graph, "x", case.shape, 2)
        return
    proof = Proof(graph, "x", case.shape, 2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).standard_normal((6, *case.shape)).astype(np.float32)
    size = case.batch if isinstance(case.batch, int) else 1
    logits = np.concatenate(
        [session.run(None, {"x": images[start : start + size]})[0] for start in range(0, len(images), size)]
    )
    points = torch.from_numpy(images)
    lower, upper = (end.numpy() for end in proof.intervals(points, points)["logits"].computed())
    assert ((lower <= logits) & (logits <= upper)).all()


def test_two_versions_of_onnx_are_refused() -> None:
    model = reshaped(0).model()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 8))
    with pytest.raises(UnsupportedModelError, match="one version"):
        read_graph(model, Path("meaning.onnx"))
