"""Which uses of an operator keep the images of a batch apart, told from the graph, and held against runs."""

from pathlib import Path

import mixing_files as mixing
import numpy as np
import onnx
import pytest
from mixing_files import constant, node
from tiny_networks import run_onnx

from abscert_plugin.artifact.metadata import LOGITS
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph


def cut(start: int, end: int) -> mixing.Change:
    names = [("start", start), ("end", end), ("axis", 0)]
    return lambda: (
        [node("Slice", ["y", "start", "end", "axis"], LOGITS)],
        [constant(name, np.array([number])) for name, number in names],
    )


def summed(axis: int) -> mixing.Change:
    return lambda: ([node("CumSum", ["y", "axis"], LOGITS)], [constant("axis", np.array(axis))])


def contracted(equation: str) -> mixing.Change:
    weight = constant("m", np.random.default_rng(0).standard_normal((2, 2)).astype(np.float32))
    return lambda: ([node("Einsum", ["y", "m"], LOGITS, equation=equation)], [weight])


def triangle(apart: bool) -> mixing.Change:
    def change() -> tuple[mixing.Nodes, list[onnx.TensorProto]]:
        if not apart:
            return [node("Trilu", ["y"], LOGITS)], []
        nodes = [node("Unsqueeze", ["y", "axis"], "matrix"), node("Trilu", ["matrix"], "half")]
        return [*nodes, node("Squeeze", ["half", "axis"], LOGITS)], [constant("axis", np.array([1]))]

    return change


def flattened(axis: int, place: int) -> mixing.Change:
    nodes = [node("Unsqueeze", ["y", "place"], "longer"), node("Flatten", ["longer"], LOGITS, axis=axis)]
    return lambda: (nodes, [constant("place", np.array([place]))])


def picked_by_size(number: int) -> mixing.Change:
    """Return a reshape by sizes that a comparison with a number chooses."""
    nodes = [
        node("Shape", ["y"], "shape"),
        node("Equal", ["shape", "number"], "same"),
        node("Where", ["same", "ones", "shape"], "sizes"),
        node("Reshape", ["y", "sizes"], LOGITS),
    ]
    return lambda: (nodes, [constant("number", np.array([number])), constant("ones", np.array([-1, -1]))])


APART = {
    "all of a batch": cut(0, 2**63 - 1),
    "cumsum of features": summed(1),
    "cumsum from the end": summed(-1),
    "einsum of features": contracted("ab,bc->ac"),
    "triangles of images": triangle(True),
    "flat behind an axis of one": flattened(2, 1),
    "sizes compared with -1": picked_by_size(-1),
}
MIXED = {
    "the first images": cut(0, 9),
    "from the second image": cut(-2, 2**63 - 1),
    "cumsum of images": summed(0),
    "triangle of the batch": triangle(False),
    "sizes compared with 2": picked_by_size(2),
}


def obstacle(path: Path) -> str | None:
    model = read_model(path)
    return batch_obstacle(read_graph(model, path), model)


@pytest.mark.parametrize("name", APART)
def test_a_batch_that_is_kept_apart_is_seen_and_is(name: str, tmp_path: Path) -> None:
    path = mixing.saved(APART[name], tmp_path)
    assert obstacle(path) is None
    images = np.random.default_rng(1).random((5, *mixing.SHAPE), dtype=np.float32)
    alone = np.concatenate([run_onnx(path, image[None])[0] for image in images])
    np.testing.assert_allclose(run_onnx(path, images)[0], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_a_batch_that_may_mix_is_seen(name: str, tmp_path: Path) -> None:
    assert obstacle(mixing.saved(MIXED[name], tmp_path)) is not None
