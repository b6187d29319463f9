"""With a part of a nonlinear rule left out, the comparison with onnxruntime or with float32 sees it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import operator_graphs as graphs
import pytest
import torch
from nonlinear_graphs import OPERATORS, OPSET, number
from operator_graphs import Build
from test_proof_operators import excess

from abscert_plugin.artifact.metadata import SCALED
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof, arithmetic, blocks, gates, pair_rules, pairs, softmax
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.constants import exactly
from abscert_plugin.bounds.proof.descent import Descent
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.maps import Scale
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.verification.proving import Prover

Patch = Callable[[pytest.MonkeyPatch], None]


def half_the_corners(first: Any, second: Any) -> Any:
    lower, upper = pairs.corners(first, second)
    return lower * 0.75 + upper * 0.25, lower * 0.25 + upper * 0.75


def without_a_radius(ends: Any) -> Any:
    return ends[0] / 2 + ends[1] / 2, (ends[1] - ends[0]) / 8


def _decided(self: Any, values: Mapping[str, Enclosure]) -> Any:
    is_first = values[self.condition].upper > 0
    return is_first, ~is_first


def unheld(lower: Any, upper: Any) -> Enclosure:
    middle = (lower + upper) / 2
    return held(middle + (lower - middle) / 2, middle + (upper - middle) / 2)


def chosen(build: Build) -> None:
    """Append a choice between a value and a number that the value itself makes."""
    graphs.planes(build, channels=2)
    source = build.last
    build.add("Less", number(build, 0.1))
    build.add("Where", reads=(build.last, source, number(build, 0.5)))


ALL = {**OPERATORS, "choice": chosen}
PARTS: dict[str, tuple[str, Patch]] = {
    "corners of a product": ("Mul", lambda patch: patch.setattr(blocks, "corners", half_the_corners)),
    "radii of factors": ("MatMul", lambda patch: patch.setattr(pairs, "_balls", without_a_radius)),
    "the open cases of a choice": ("choice", lambda patch: patch.setattr(pairs.Selection, "_decided", _decided)),
    "what is off a tangent": (
        "Softmax",
        lambda patch: patch.setattr(softmax.Softmax, "_off", lambda self, most, *_: torch.zeros_like(most)),
    ),
    "the error of a gate": (
        "Mul, Swish",
        lambda patch: patch.setattr(gates.Gate, "_error", lambda self, values: values[self.source].lower * 0),
    ),
    "the range of a largest value": ("Max", lambda patch: patch.setattr(pairs, "held", unheld)),
    "what is taken off lines": ("Mul, squares", lambda patch: patch.setattr(Descent, "lose", lambda *_: None)),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_rule_without_a_part_is_seen(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, patch = PARTS[part]
    paths = []
    for seed in range(3):
        (tmp_path / str(seed)).mkdir()
        paths.append(graphs.classifier(ALL[name], seed, tmp_path / str(seed), OPSET))
    patch(monkeypatch)
    assert max(excess(path, seed) for seed, path in enumerate(paths)) > 0


# --- softmax at points -----------------------------------------------------------------------------------------------

SHARES: dict[str, Callable[[], Callable[..., Any]]] = {
    "Softmax": lambda: softmax.softmax([1]),
    "LogSoftmax": lambda: softmax.log_softmax([1]),
    "ReduceLogSumExp": lambda: softmax.log_sum_exp([1], True),
}


def escape_of_shares(operator: str) -> float:
    """Return by how much computed values leave the ends at points, and those at corners the ends between them."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y")]
    attributes: dict[str, Any] = {"axes": [1]} if operator == "ReduceLogSumExp" else {"axis": 1}
    node = onnx.helper.make_node(operator, ["x"], ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "one", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    chance, worst = np.random.default_rng(0), 0.0
    for size, width, count in ((0.1, 0.0, 3), (3, 0.0, 7), (20, 0.0, 40), (3, 1.0, 3), (10, 0.3, 5)):
        low = (chance.standard_normal((300, count)) * size).astype(np.float32)
        high = low + np.float32(width)
        given = tuple(torch.from_numpy(end).double() for end in (low, high))
        least, most = (end.numpy() for end in SHARES[operator]()(given))
        for _ in range(1 if not width else 40):
            points = np.where(chance.random(low.shape) < 0.5, low, high)
            found = session.run(None, {"x": points})[0].astype(np.float64)
            worst = max(worst, float((least - found).max()), float((found - most).max()))
    return worst


@pytest.mark.parametrize("operator", SHARES)
def test_ends_of_softmax_hold_what_is_computed(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert escape_of_shares(operator) <= 0
    with monkeypatch.context() as patch:
        patch.setattr(softmax, "_others", lambda lower, upper, axes, most: OTHERS(upper, lower, axes, most))
        patch.setattr(torch.Tensor, "logsumexp", lambda values, *_, **__: values[:, :1])
        assert escape_of_shares(operator) > 0
    monkeypatch.setattr(softmax, "_error", lambda lower, *_: torch.full_like(lower[:, :1], -(2.0**-23)))
    monkeypatch.setattr(softmax, "LOG_ERROR", 0.0)
    monkeypatch.setattr(arithmetic, "UNIT", 0.0)
    assert escape_of_shares(operator) > 0


OTHERS = softmax._others


# --- a variance from the mean of squares ------------------------------------------------------------------------------


def far_from_0(mean: float) -> graphs.Operator:
    def added(build: Build) -> None:
        build.add("Flatten")
        build.add("Mul", number(build, 3.0))
        build.add("Add", number(build, mean))
        features = build.shape[-1]
        build.add("LayerNormalization", build.floats(features), build.floats(features), epsilon=0.1)

    return added


def one_pass(values: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the normalised values in float32 as kernels find them that go over the values once."""
    mean = values.mean(1, keepdims=True, dtype=np.float32)
    # each addition of the sum of squares may round the same way, by up to 2^-24: here by half as much
    squares = np.square(values.astype(np.float64)).mean(1, keepdims=True) * (1 + values.shape[1] * 2.0**-25)
    root = np.sqrt(squares.astype(np.float32) - mean * mean + np.float32(0.1))
    found: np.ndarray = (values - mean) / root * scale + bias
    return found


def escape_of_one_pass(folder: Path) -> float:
    """Return by how much such values leave their enclosures, at points."""
    worst = 0.0
    for seed in range(6):
        path = graphs.classifier(far_from_0(100.0), seed, folder, OPSET)
        model = onnx.load(path)
        graph = read_graph(model, path)
        assert graph.input_shape is not None
        shape = tuple(size for size in graph.input_shape[1:] if size)
        node = next(node for node in graph.nodes if node.operator == "LayerNormalization")
        point = np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32)
        values = point.reshape(1, -1) * np.float32(3) + np.float32(100)
        found = one_pass(values, *(graph.array(name) for name in node.inputs[1:])).astype(np.float64)
        box = torch.from_numpy(point)
        value = Proof(graph, SCALED, shape, graphs.CLASSES).intervals(box, box)[node.outputs[0]]
        lower, upper = (end.numpy() for end in value.computed())
        assert np.isfinite(lower).all()
        worst = max(worst, float((lower - found).max()), float((found - upper).max()))
    return worst


def test_a_variance_may_be_found_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert escape_of_one_pass(tmp_path) <= 0
    monkeypatch.setattr(blocks, "_difference_from_mean", lambda *_: None)
    assert escape_of_one_pass(tmp_path) > 0


# --- products in any order --------------------------------------------------------------------------------------------


def escape_of_orders() -> float:
    """Return by how much 0.4 a b leaves its enclosures, in any order, with the factor taken in early or late."""
    chance, worst, share = np.random.default_rng(0), 0.0, np.float32(0.4)
    for size in (1.0, 1e15, 1e-21):
        first = (chance.standard_normal((1, 3, 12)) * size).astype(np.float32)
        second = (chance.standard_normal((1, 12, 4)) * 10 ** chance.uniform(-2, 2, (1, 12, 4))).astype(np.float32)
        wide = [torch.from_numpy(array).double() for array in (first, second)]
        values = {name: held(array, array) for name, array in zip("ab", wide, strict=True)}
        values["p"] = pairs.Product("p", "a", "b", torch.matmul, 12).forward(values)
        values["s"] = Affine("s", "p", Scale(exactly(float(share)))).forward(values)
        lower, upper = (end.numpy() for end in values["s"].computed())
        for _ in range(300):
            early = bool(chance.integers(2))
            left = first * share if early else first
            total = np.zeros((1, 3, 4), np.float32)
            for place in chance.permutation(12):
                total = total + left[:, :, place, None] * second[:, None, place]
            found = (total if early else total * share).astype(np.float64)
            worst = max(worst, float(((lower - found) / size).max()), float(((found - upper) / size).max()))
    return worst


def test_a_product_holds_for_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert escape_of_orders() <= 0
    monkeypatch.setattr(arithmetic, "gamma", lambda _: 0.0)
    assert escape_of_orders() > 0


# --- what is no number ------------------------------------------------------------------------------------------------


def places_divided(build: Build) -> None:
    graphs.planes(build, channels=2)
    source = build.last
    first = build.add("ArgMax", axis=2)
    build.add("ArgMin", reads=(source,), axis=2)
    build.add("Div", reads=(first, build.last))
    build.add("Cast", to=1)


def number_as_a_condition(build: Build) -> None:
    graphs.planes(build, channels=2)
    place = build.add("ArgMax", axis=2)
    build.add("Cast", reads=(place,), to=9)
    build.add("Cast", to=1)


@pytest.mark.parametrize(
    ("operator", "reason"),
    [(places_divided, "truth values or whole ones"), (number_as_a_condition, "expected a Cast to numbers, got bool")],
)
def test_whole_numbers_are_not_taken_for_real_ones(operator: graphs.Operator, reason: str, tmp_path: Path) -> None:
    path = graphs.classifier(operator, 0, tmp_path, OPSET)
    graph = read_graph(onnx.load(path), path)
    assert graph.input_shape is not None
    shape = tuple(size for size in graph.input_shape[1:] if size)
    with pytest.raises(UnsupportedModelError, match=reason):
        Proof(graph, SCALED, shape, graphs.CLASSES)


# --- linear bounds ----------------------------------------------------------------------------------------------------


def least_margin(operator: graphs.Operator, folder: Path, method: str) -> float:
    """Return the mean of lower bounds of margins over small boxes."""

    found = []
    for seed in range(4):
        path = graphs.classifier(operator, seed, folder, OPSET)
        graph = read_graph(onnx.load(path), path)
        assert graph.input_shape is not None
        shape = tuple(size for size in graph.input_shape[1:] if size)
        low = torch.rand((1, *shape), generator=torch.Generator().manual_seed(seed)) - 0.5
        bounds = Proof(graph, SCALED, shape, graphs.CLASSES).margins(
            low, low + 0.05, torch.tensor([0]), BoundMethod(method)
        )
        found.append(float(bounds.mean()))
    return float(np.mean(found))


@pytest.mark.parametrize("name", ["Gelu", "Mul", "MatMul", "Max", "Mul, Swish", "Softmax", "Softplus"])
def test_linear_bounds_are_tighter_than_intervals(name: str, tmp_path: Path) -> None:
    loose, tight = (least_margin(OPERATORS[name], tmp_path, method) for method in ("ibp", "crown"))
    assert tight > loose + 1e-3


def test_a_gate_is_tighter_than_a_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Mul, Swish", "Mul, Gelu of primitives"):
        as_gate = least_margin(OPERATORS[name], tmp_path, "ibp")
        with monkeypatch.context() as patch:
            patch.setattr(pair_rules, "gate_of", lambda _: False)
            assert least_margin(OPERATORS[name], tmp_path, "ibp") < as_gate


# --- a transformer ----------------------------------------------------------------------------------------------------


def weights(build: Build, inputs: int, outputs: int) -> str:
    return build.floats(inputs, outputs, scale=inputs**-0.5)


def attended(build: Build) -> None:
    """Append a block of a transformer: normalisation and attention, normalisation and two dense layers."""
    source, width = build.last, build.shape[-1]
    normalised = build.add("LayerNormalization", build.floats(width), build.floats(width))
    queries, keys, values = (build.add("MatMul", reads=(normalised, weights(build, width, width))) for _ in range(3))
    build.add("Transpose", reads=(keys,), perm=[0, 1, 3, 2])
    build.add("MatMul", reads=(queries, build.last))
    build.add("Mul", number(build, width**-0.5))
    build.add("Softmax", axis=-1)
    build.add("MatMul", values)
    source = build.add("Add", reads=(source, build.last))
    build.add("LayerNormalization", build.floats(width), build.floats(width))
    build.add("MatMul", weights(build, width, 2 * width))
    build.add("Gelu")
    build.add("MatMul", weights(build, 2 * width, width))
    build.add("Add", reads=(source, build.last))


def transformer(build: Build) -> None:
    graphs.planes(build, channels=1)
    attended(build)
    attended(build)


def test_margins_of_a_transformer_are_close_at_points(tmp_path: Path) -> None:
    path = graphs.classifier(transformer, 0, tmp_path, OPSET)
    artifact = Artifact.open(path, Provider.CPU)
    prover = Prover(artifact)
    image = np.random.default_rng(0).random((1, *artifact.metadata.image_shape), dtype=np.float32)
    logits = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"image": image})[0].astype(np.float64)
    label = logits.argmax(1)
    margin = float(np.diff(np.sort(logits[0]))[-1])
    found = float(prover.at_points(image, label, np.full(1, margin, dtype=np.float32))[0])
    assert 0 < found <= margin
    assert found > 0.9 * margin
