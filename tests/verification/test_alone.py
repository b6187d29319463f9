"""Files that move the axis of the batch: what is proven of an image alone, against onnxruntime in its ball."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.foreign import open_foreign
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.preprocessing import Opening
from abscert_plugin.verification import alone
from abscert_plugin.verification.deployed import Deployed

TOKENS, WIDTH, HEADS, CLASSES = 4, 6, 2, 3
SHAPE = (1, TOKENS, WIDTH)
METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)


class File:
    """A file in the making, whose nodes stand in a row but where they name what they read."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.last = "x"

    def floats(self, *shape: int) -> str:
        return self.constant((self.random.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32))

    def constant(self, values: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values), f"c{len(self.tensors)}"))
        return self.tensors[-1].name

    def add(self, operator: str, *inputs: str, source: str | None = None, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [source or self.last, *inputs], [name], name, **attributes))
        self.last = name
        return name

    def saved(self, folder: Path, batch: int | str = "n") -> Path:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
            for name, shape in (("x", SHAPE), (self.last, (CLASSES,)))
        ]
        graph = helper.make_graph(self.nodes, "moved", ends[:1], ends[1:], self.tensors)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        onnx.save(model, folder / "moved.onnx")
        return folder / "moved.onnx"


def attention(file: File) -> None:
    """Attend as torch does: tokens first, and heads merged with the batch."""
    file.add("Squeeze", file.constant([1]))
    tokens = file.add("Transpose", perm=[1, 0, 2])
    parts = []
    for perm in ([1, 0, 2], [1, 2, 0], [1, 0, 2]):
        file.add("MatMul", file.floats(WIDTH, WIDTH), source=tokens)
        file.add("Reshape", file.constant([TOKENS, -1, WIDTH // HEADS]))
        parts.append(file.add("Transpose", perm=perm))
    file.add("MatMul", parts[1], source=parts[0])
    file.add("Softmax", axis=-1)
    file.add("MatMul", parts[2])
    file.add("Transpose", perm=[1, 0, 2])
    file.add("Reshape", file.constant([-1, WIDTH]))
    file.add("Gemm", file.floats(WIDTH, WIDTH))
    file.add("Reshape", file.constant([TOKENS, -1, WIDTH]))
    file.add("Transpose", perm=[1, 0, 2])
    dense(file)


def picked(file: File) -> None:
    """Pick tokens as torch's exporter does, by moving their axis to the front."""
    file.add("Transpose", perm=[2, 0, 1, 3])
    file.add("GatherND", file.constant([[3], [-4], [1], [1]]))
    file.add("Transpose", perm=[1, 2, 0, 3])
    file.add("Relu")
    dense(file)


def dense(file: File) -> None:
    file.add("Reshape", file.constant([-1, TOKENS * WIDTH]))
    file.add("Gemm", file.floats(TOKENS * WIDTH, CLASSES), file.floats(CLASSES))


def bagged(file: File) -> None:
    """Give the mean of what two classifiers of scikit-learn say, stacked along a new first axis."""
    features = file.add("Flatten", axis=1)
    parts = []
    for _ in range(2):
        coefficients = file.random.standard_normal(TOKENS * WIDTH * CLASSES).astype(np.float32).tolist()
        more = {"coefficients": coefficients, "intercepts": [0.25, 0.0, -0.25], "classlabels_ints": [0, 1, 2]}
        file.add("LinearClassifier", source=features, domain="ai.onnx.ml", post_transform="SOFTMAX", **more)
        file.nodes[-1].output[:] = [f"label {len(file.nodes)}", file.last]
        parts.append(file.add("Reshape", file.constant([1, -1, CLASSES])))
    file.add("Concat", parts[1], source=parts[0], axis=0)
    file.add("ReduceMean", file.constant([0]), keepdims=0)


FILES = {"attention": attention, "bagged": bagged, "picked": picked}


def opened(name: str, folder: Path, seed: int = 0, **more: Any) -> Deployed:
    file = File(seed)
    FILES[name](file)
    return Deployed(open_foreign(file.saved(folder, **more), Provider.CPU, Opening(SHAPE)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(2))
def test_no_image_of_a_ball_has_a_smaller_margin_than_is_proven(name: str, seed: int, tmp_path: Path) -> None:
    deployed = opened(name, tmp_path, seed)
    assert deployed.prover is not None
    session = onnxruntime.InferenceSession(str(tmp_path / "moved.onnx"), providers=["CPUExecutionProvider"])
    random, shown = np.random.default_rng(seed), 0
    for radius in ("0", "0.001", "0.05"):
        image = random.random((1, *SHAPE), dtype=np.float32)
        reach = deployed.front.reach(Ball(Radius.parse(radius)), image)
        label = session.run(None, {"x": image})[0].argmax(axis=1)
        others = [j for j in range(CLASSES) if j != label[0]]
        share = random.random((60, *SHAPE))
        share[::2] = share[::2].round()
        points = (reach.lowest + share * (reach.highest.astype(np.float64) - reach.lowest)).astype(np.float32)
        points = np.clip(points, reach.lowest, reach.highest)
        scores = np.concatenate([session.run(None, {"x": point[None]})[0] for point in points]).astype(np.float64)
        least = (scores[:, label] - scores[:, others]).min()
        for method in METHODS:
            bound = deployed.prover.least_margins(reach.lowest, reach.highest, label, method)[0]
            assert bound <= least
            shown += bound > 0
        margin = deployed.margins(image, label)
        assert deployed.prover.at_points(image, label, margin)[0] <= margin[0]
    assert shown >= 3


def test_a_file_for_one_image_is_proven_too(tmp_path: Path) -> None:
    assert opened("attention", tmp_path, batch=1).prover is not None


def test_a_batch_of_several_images_is_refused(tmp_path: Path) -> None:
    deployed = opened("picked", tmp_path, batch=2)
    assert deployed.prover is None
    assert "expected the batch to stay first" in deployed.note


def test_other_entries_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = alone._gathering

    def wrong(node: Any, tensors: dict[str, Any]) -> Any:
        made = right(node, tensors)
        if made is not node:
            tensors[made.inputs[1]] = numpy_helper.from_array(np.zeros(TOKENS, np.int64), made.inputs[1])
        return made

    monkeypatch.setattr(alone, "_gathering", wrong)
    assert "gives logits here that its graph does not give" in opened("picked", tmp_path).note
