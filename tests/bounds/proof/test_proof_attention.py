"""Attention that onnxruntime takes for one node, which reads its mask in a way of its own."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from fused_files import HEADS, NORMALISED, PERMS, POINT, Nodes, is_covered, known, model, operators, run
from onnx import numpy_helper

from abscert_plugin.errors import UnsupportedModelError

OPSET: Final = 12
LAST: Final = 2**31 - 1
PROJECTED: Final = (
    ("MatMul", "j weight_q", "y0"),
    ("Add", "y0 shift", "y1"),
    ("Add", "y1 l", "y2"),
    ("ReduceSum", "y2", "y3", {"axes": [1], "keepdims": 0}),
    ("MatMul", "y3 last", "logits"),
)


def network(nodes: Nodes, numbers: dict[str, float], **more: Any) -> onnx.ModelProto:
    """Return a file whose input is a sequence of any length, of words of 4 entries that are made of a number each."""
    given = " ".join(node[1] for node in nodes).split()
    constants: dict[str, Any] = {"two": 2.0, "eps": 0.1, "root": 2**0.5, **numbers}
    constants |= {"spread": np.array([[1, 2, 3, -1.5]]), "scale": np.arange(1, 5), "shift": np.ones(4)}
    constants |= {"last": np.arange(8).reshape(4, 2) / 10}
    constants |= {f"weight_{letter}": np.eye(4, k=place) - 0.5 for place, letter in enumerate(PERMS)}
    constants |= {"first": [0], "second": [1], "third": [2], "fourth": [3], "once": [1], "four": [4], "rest": [-1]}
    constants |= {"before": [-2], "end": [LAST], "as_rows": [0, 0, -1], **more}
    file = model(nodes, OPSET, **{name: value for name, value in constants.items() if name in given})
    for name, place in (("nought", 0), ("one_more", 1)):
        if name in given:
            file.graph.initializer.append(numpy_helper.from_array(np.array(place), name))
    file.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "words"
    return file


def words(gives: str, by: str = "Sin", place: str = "") -> Nodes:
    return (
        ("Unsqueeze", "x", f"u{place}", {"axes": [2]}),
        ("MatMul", f"u{place} spread", f"o{place}"),
        (by, f"o{place}", gives),
    )


def chosen_by(comparison: str = "Equal", number: float = -1.0) -> onnx.ModelProto:
    """Return attention where entries are a number instead whose word is 0, or is less than that."""
    choice = (
        ("Div", "q3 root", "q4"),
        ("MatMul", "q4 k3", "p"),
        ("Shape", "l", "sizes"),
        ("Gather", "sizes nought", "g0", {"axis": 0}),
        ("Gather", "sizes one_more", "g1", {"axis": 0}),
        ("Unsqueeze", "g0", "images", {"axes": [0]}),
        ("Unsqueeze", "g1", "length", {"axes": [0]}),
        ("Concat", "images once second length", "shape", {"axis": 0}),
        ("Tile", "x ones", "mask"),
        (comparison, "mask zero", "c"),
        ("Reshape", "c shape", "m"),
        ("Shape", "p", "all"),
        ("Expand", "m all", "z"),
        ("Where", "z number p", "a"),
        ("Softmax", "a", "f", {"axis": 3}),
        ("MatMul", "f t3", "g"),
        ("Transpose", "g", "i", {"perm": [0, 2, 1, 3]}),
        ("Concat", "images rest four", "rows", {"axis": 0}),
        ("Reshape", "i rows", "j"),
    )
    nodes = (*words("e"), *NORMALISED, *HEADS, *choice, *PROJECTED)
    return network(nodes, {"zero": 0.0, "number": number}, ones=[1, 1], heads=[0, -1, 2, 2])


def counted(step: float = 0.25) -> onnx.ModelProto:
    """Return attention with a mask that counts the words in steps, whatever the words are."""
    sums = (
        ("MatMul", "q3 k3", "p"),
        ("Div", "p root", "b"),
        ("Shape", "x", "sizes"),
        ("Gather", "sizes one_more", "length", {"axis": 0}),
        ("Range", "nought length one_more", "places"),
        ("Cast", "places", "numbers", {"to": 1}),
        ("Mul", "numbers step", "mask"),
        ("Unsqueeze", "mask", "m0", {"axes": [0]}),
        ("Unsqueeze", "m0", "m1", {"axes": [1]}),
        ("Unsqueeze", "m1", "m2", {"axes": [2]}),
        ("Sub", "one m2", "m3"),
        ("Mul", "m3 large", "m4"),
        ("Add", "b m4", "a"),
        ("Softmax", "a", "f", {"axis": 3}),
        ("MatMul", "f t3", "g"),
        ("Transpose", "g", "i", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "i as_rows", "j"),
    )
    nodes = (*words("e"), *NORMALISED, *HEADS, *sums, *PROJECTED)
    return network(nodes, {"step": step, "one": 1.0, "large": -10000.0}, heads=[0, 0, 2, 2])


def dense(part: str, read: str, gives: str, size: str, **options: Any) -> Nodes:
    """Return a Gemm of all words of all images, as GPT's exporter writes it."""
    return (
        ("Shape", read, f"{part}s"),
        ("Slice", f"{part}s rest end first", f"{part}a"),
        ("Squeeze", f"{part}a", f"{part}b", {"axes": [0]}),
        ("Unsqueeze", f"{part}b", f"{part}c", {"axes": [0]}),
        ("Concat", f"rest {part}c", f"{part}d", {"axis": 0}),
        ("Reshape", f"{read} {part}d", f"{part}e"),
        ("Gemm", f"{part}e {part}_weight {part}_bias", f"{part}f", options),
        ("Gather", f"{part}s nought", f"{part}g", {"axis": 0}),
        ("Gather", f"{part}s one_more", f"{part}h", {"axis": 0}),
        ("Unsqueeze", f"{part}g", f"{part}i", {"axes": [0]}),
        ("Unsqueeze", f"{part}h", f"{part}j", {"axes": [0]}),
        ("Concat", f"{part}i {part}j {size}", f"{part}k", {"axis": 0}),
        ("Reshape", f"{part}f {part}k", gives),
    )


def causal(size: float = 1.0, alpha: float = 1.0, fill: float = -10000.0, root: float = 2**0.5) -> onnx.ModelProto:
    """Return GPT's attention, where no word sees those behind it: they are a number instead."""
    read = (("Reshape", "a0 as_rows", "a1"), ("Reshape", "c0 as_rows", "c1"), ("Add", "a1 c1", "e"))
    shaped = (
        ("Split", "qkv", "q0", {"axis": 2, "split": [4, 4, 4]}),
        *(("Reshape", f"{letter}0 heads", f"{letter}2") for letter in PERMS),
        *(("Transpose", f"{letter}2", f"{letter}3", {"perm": perm}) for letter, perm in PERMS.items()),
    )
    cut = (
        ("MatMul", "q3 k3", "p"),
        ("Div", "p root", "b"),
        ("Shape", "b", "sizes"),
        ("Slice", "sizes rest end first", "s1"),
        ("Squeeze", "s1", "s2", {"axes": [0]}),
        ("Slice", "sizes before rest first", "s3"),
        ("Squeeze", "s3", "s4", {"axes": [0]}),
        ("Sub", "s2 s4", "s5"),
        ("Unsqueeze", "s5", "s6", {"axes": [0]}),
        ("Unsqueeze", "s2", "s7", {"axes": [0]}),
        ("Slice", "triangle s6 s7 third second", "m0"),
        ("Slice", "m0 first s7 fourth second", "m1"),
        ("Cast", "m1", "m2", {"to": onnx.TensorProto.BOOL}),
        ("Where", "m2 b fill", "a"),
        ("Softmax", "a", "f", {"axis": 3}),
        ("MatMul", "f t3", "g"),
        ("Transpose", "g", "i", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "i as_rows", "j"),
    )
    end = (("Add", "e y", "y2"), *PROJECTED[3:])
    first, second = dense("A", "l", "qkv", "twelve", alpha=alpha), dense("B", "j", "y", "four")
    nodes = (*words("a0"), *words("c0", "Cos", "2"), *read, *NORMALISED, *first, *shaped, *cut, *second, *end)
    weights: dict[str, Any] = {"A_weight": size * np.cos(np.arange(48.0).reshape(4, 12)), "B_weight": np.eye(4) + 0.3}
    weights |= {"A_bias": np.arange(12) / 10, "B_bias": np.ones(4), "triangle": np.tril(np.ones((1, 1, 8, 8)))}
    file = network(nodes, {"fill": fill, "root": root}, heads=[0, 0, 2, -1], twelve=[12], **weights)
    next(node for node in file.graph.node if node.op_type == "Split").output.extend(["k0", "t0"])
    return file


WRONG: Final = {
    "words that are compared": (chosen_by(), "choice by a mask"),
    "a mask of sizes alone": (counted(), "no mask that is computed"),
    "large products behind a mask that is cut": (causal(size=60.0), "choice by a mask"),
    "a factor of the Gemm before": (causal(alpha=2.0), "choice by a mask"),
}


@pytest.mark.parametrize("name", WRONG)
def test_attention_with_a_mask_has_no_proof_where_it_is_computed_in_another_way(name: str, tmp_path: Path) -> None:
    file, why = WRONG[name]
    assert "Attention" in operators(file, tmp_path)
    assert not np.allclose(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False), rtol=0.01)
    with pytest.raises(UnsupportedModelError, match=why):
        known(file)


def test_attention_with_another_choice_is_covered(tmp_path: Path) -> None:
    file = chosen_by("Less")
    assert "Attention" not in operators(file, tmp_path)
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)
