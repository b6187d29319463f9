"""Nodes that onnxruntime joins to one that does not do what they do: normalisations of sums, and Splits."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fused_files import POINT, is_covered, known, model, operators, run
from onnx import numpy_helper

from abscert_plugin.errors import UnsupportedModelError


def normalised_sum(axis: int, between: str = "Identity") -> onnx.ModelProto:
    """Return a LayerNormalization, from an axis on, of the sum of two values of 2 x 4 entries an image."""
    nodes = (
        ("MatMul", "x first", "a"),
        ("Reshape", "a image", "b"),
        ("MatMul", "x second", "c"),
        ("Reshape", "c image", "d"),
        ("Add", "b d", "s"),
        (between, "s", "t"),
        ("LayerNormalization", "t scale shift", "n", {"axis": axis}),
        ("Reshape", "n row", "f"),
        ("MatMul", "f last", "logits"),
    )
    numbers = np.arange(8.0)
    weights: dict[str, Any] = {"first": np.eye(4, 8), "second": np.outer([1, -1, 2, 0.5], np.cos(numbers))}
    vectors: dict[str, Any] = {
        "scale": np.arange(1, 5),
        "shift": np.ones(4),
        "last": np.stack([np.sin(numbers), numbers / 8], 1),
    }
    return model(nodes, image=[0, 2, 4], row=[0, 8], **weights, **vectors)


@pytest.mark.parametrize("between", ["Identity", "Dropout"])
@pytest.mark.parametrize("axis", [1, -2])
def test_a_sum_is_normalised_along_its_last_axis_whatever_the_file_says(
    axis: int, between: str, tmp_path: Path
) -> None:
    file = normalised_sum(axis, between)
    assert "SkipLayerNormalization" in operators(file, tmp_path)
    assert not np.allclose(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False), rtol=0.01)
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(file)


def test_a_sum_with_small_numbers_is_a_sum() -> None:
    file = normalised_sum(1)
    total = next(node for node in file.graph.node if node.op_type == "Add")
    total.input[1] = "small"
    file.graph.initializer.append(numpy_helper.from_array(np.full((1, 2, 4), 5e-5, np.float32), "small"))
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(file)


def test_normalisations_along_the_last_axis_and_of_no_sums_are_covered() -> None:
    for file in (normalised_sum(2), normalised_sum(-1), normalised_sum(1, "Relu")):
        assert is_covered(file, is_fused=True)
        assert is_covered(file, is_fused=False)


def split_twice(reads: str, first: int, second: int, sizes: bool = False) -> onnx.ModelProto:
    """Return the least entry of the first of so many equal parts, and the same of another number of parts."""
    nodes: tuple[tuple[Any, ...], ...] = (
        ("Split", f"{reads} {'many' if sizes else ''}", "a0", {"axis": 0 if reads == "constant" else 1}),
        ("Split", reads, "b0", {"axis": 0 if reads == "constant" else 1}),
        *(("ReduceMin", f"{part}0", part, {"axes": [0 if reads == "constant" else 1]}) for part in "ab"),
        ("Concat", "a b", "c", {"axis": 0 if reads == "constant" else 1}),
        *([("Slice", "x begin end along", "d"), ("Add", "c d", "logits")] if reads == "constant" else []),
    )
    constants: dict[str, Any] = {"constant": np.array([2, 1, 4, 3]), "begin": [0], "end": [2], "along": [1]}
    constants |= {"many": [4 // first] * first}
    given = " ".join(node[1] for node in nodes).split()
    nodes = nodes if reads == "constant" else (*nodes, ("Identity", "c", "logits"))
    file = model(nodes, 13, **{name: value for name, value in constants.items() if name in given})
    for node, count in zip(file.graph.node, (first, second), strict=False):
        node.output.extend(f"{node.output[0]}_{place}" for place in range(1, count))
        node.input[:] = [name for name in node.input if name]
    return file


@pytest.mark.parametrize("reads", ["x", "constant"])
@pytest.mark.parametrize("counts", [(2, 4), (4, 2)])
def test_splits_that_are_taken_for_one_have_no_proof(counts: tuple[int, int], reads: str) -> None:
    file = split_twice(reads, *counts)
    assert not np.allclose(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False), rtol=0.01)
    with pytest.raises(UnsupportedModelError, match="joins it with another"):
        known(file)
    for plain in (split_twice(reads, *counts, sizes=True), split_twice(reads, 4, 4)):
        assert is_covered(plain, is_fused=True)
        assert is_covered(plain, is_fused=False)
