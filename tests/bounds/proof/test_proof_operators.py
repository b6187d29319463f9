"""Enclosures operator by operator, against onnxruntime with and without optimisations and a reference in float64."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import operator_graphs as graphs
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from operator_graphs import Build

from abscert_plugin.artifact.export import export
from abscert_plugin.artifact.metadata import SCALED
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof, unsupported
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.graph.nodes import Graph, read_graph
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.networks.param_ramp import collecting, ramps_of

pytestmark = pytest.mark.slow  # the file as a whole

METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
WIDTHS = (0.0, 1e-2, 0.5)
POINTS = 60
# onnx 1.23's reference takes the batch's own mean, has other windows where strides differ, or fails in float64
NO_REFERENCE = {"BatchNormalization", "LRN", "MaxPool", "MeanVarianceNormalization"}
EXACT_SHARE = 1e-12  # what float64 of the reference may be off, of the largest value


# --- operators that only proofs know ---------------------------------------------------------------------------------


def _same_lower(build: Build) -> None:
    graphs.planes(build, channels=2, size=5)
    build.add("Conv", build.floats(3, 2, 3, 2), auto_pad="SAME_LOWER", strides=[2, 1])


def _slice(build: Build) -> None:
    graphs.planes(build, channels=3, size=5)
    numbers = [[0, -1], [2, -(2**31)], [1, 3], [1, -2]] if build.random.random() < 0.5 else [[1], [3], [-1], [1]]
    build.add("Slice", *(build.constant(np.array(values)) for values in numbers))


def _gather(build: Build) -> None:
    graphs.planes(build, channels=3)
    build.add("Gather", build.constant(np.array([[2, -3], [1, 1]])), axis=int(build.random.integers(1, 4)))


def _clip(build: Build) -> None:
    kind = int(build.random.integers(3))
    low, high = build.constant(np.float32(-0.3)), build.constant(np.float32(0.7))
    graphs.activation("Identity")(build)
    build.add("Clip", *([low, high], [low], ["", high])[kind])


def _p_relu(build: Build) -> None:
    graphs.planes(build, channels=3)
    build.add("PRelu", build.floats(3, 1, 1))


def _steep_relu(build: Build) -> None:
    graphs.activation("LeakyRelu", alpha=float(build.random.choice([3.0, -1.5, 1e-20])))(build)


def _negate(build: Build) -> None:
    graphs.planes(build)
    build.add("Neg")


def _reduce_mean(build: Build) -> None:
    graphs.planes(build, channels=3)
    build.add(
        "ReduceMean", axes=[[2, 3], [-1], [1]][int(build.random.integers(3))], keepdims=int(build.random.integers(2))
    )


def _reduce_sum(build: Build) -> None:
    graphs.planes(build, channels=3)
    build.add("ReduceSum", build.constant(np.array([-1, 1])), keepdims=int(build.random.integers(2)))


def _computed_constants(build: Build) -> None:
    """Append a normalisation whose constants are computed in the file, and a product with computed weights."""
    graphs.planes(build, channels=3)
    variance = build.constant(build.random.uniform(0.1, 3, (3, 1, 1)).astype(np.float32))
    last = build.last
    root = build.add("Sqrt", reads=(build.add("Add", reads=(variance, build.constant(np.float32(1e-5)))),))
    factor = build.add("Div", reads=(build.floats(3, 1, 1), root))
    weight = build.add("Mul", reads=(build.floats(4, 3, 2, 2), build.constant(np.float32(0.37))))
    turned = build.add("Transpose", reads=(weight,), perm=[0, 1, 3, 2])
    build.last = last
    build.add("Mul", factor)
    build.add("Div", root)
    build.add("Conv", turned)


def _repeated(build: Build) -> None:
    graphs.planes(build, channels=1, size=3)
    build.add("Add", build.floats(4, 3, 3))


OPERATORS = {
    **graphs.OPERATORS,
    "Clip": _clip,
    "Conv, same lower": _same_lower,
    "Gather": _gather,
    "LeakyRelu, steep": _steep_relu,
    "Neg": _negate,
    "PRelu": _p_relu,
    "ReduceMean, one": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Slice": _slice,
    "Sqrt, constants": _computed_constants,
    "Add, repeated": _repeated,
}


# --- the comparison --------------------------------------------------------------------------------------------------


def runs(model: onnx.ModelProto, images: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return values by name: without optimisations (all), with them (logits alone), and in float64 (all)."""
    name = model.graph.input[0].name
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    given = {value.name for value in model.graph.output}
    names = [output for node in model.graph.node for output in node.output if output]
    open_model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in names if output not in given)
    found = []
    for one, level in ((open_model, "ORT_DISABLE_ALL"), (model, "ORT_ENABLE_ALL")):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.append(dict(zip([o.name for o in session.get_outputs()], session.run(None, {name: images}), strict=True)))
    if not NO_REFERENCE & {node.op_type for node in model.graph.node}:
        found.append(in_float64(open_model, found[0][SCALED]))
    return found


def in_float64(model: onnx.ModelProto, scaled: np.ndarray) -> dict[str, np.ndarray]:
    """Return all values behind the scaled image in float64, by onnx's reference."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    kept = [node for node in wide.graph.node if SCALED not in node.output and not node.name.startswith("scaling/")]
    for node in kept:
        if node.op_type == "Cast":
            node.attribute[0].i = onnx.TensorProto.DOUBLE
    names = [output for node in kept for output in node.output if output]
    del wide.graph.node[:], wide.graph.input[:], wide.graph.output[:], wide.graph.value_info[:]
    wide.graph.node.extend(kept)
    wide.graph.input.append(onnx.helper.make_tensor_value_info(SCALED, onnx.TensorProto.DOUBLE, None))
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    results = ReferenceEvaluator(wide).run(None, {SCALED: scaled.astype(np.float64)})
    return dict(zip(names, results, strict=True))


def excess(path: Path, seed: int, widths: Sequence[float] = WIDTHS) -> float:
    """Return by how much values leave their enclosures, or bounds exceed margins, at most."""
    model = onnx.load(path)
    graph = read_graph(model, path)
    assert graph.input_shape is not None
    shape = tuple(size for size in graph.input_shape[1:] if size)
    proof, chance, worst = Proof(graph, SCALED, shape, graphs.CLASSES), np.random.default_rng(seed), -math.inf
    quick = Proof(graph, SCALED, shape, graphs.CLASSES, torch.float32)
    passes = [*((proof, method) for method in METHODS), (quick, BoundMethod.IBP)]
    for width in widths:
        center = chance.random((1, *shape), dtype=np.float32)
        share = chance.random((POINTS, *shape), dtype=np.float32)
        share[::2] = share[::2].round()
        images = np.clip(center + np.float32(width) * (share - np.float32(0.5)), 0, 1).astype(np.float32)
        found = runs(model, images)
        scaled = found[0][SCALED]
        box = torch.from_numpy(scaled.min(0, keepdims=True)), torch.from_numpy(scaled.max(0, keepdims=True))
        for refined in (False, True):
            for name, value in proof.intervals(*box, refined=refined).items():
                lower, upper = (end.numpy() for end in value.computed())
                for place, values in enumerate(found):
                    if name in values and value.lower.shape[0] == 1:
                        slack = EXACT_SHARE * float(value.magnitude.max()) if place == 2 else 0
                        seen = values[name].astype(np.float64)
                        worst = max(worst, float((lower - seen).max()) - slack, float((seen - upper).max()) - slack)
        best = int(found[0]["logits"][0].argmax())
        for label, (one, method) in product((best, (best + 1) % graphs.CLASSES), passes):
            others = [j for j in range(graphs.CLASSES) if j != label]
            bound = one.margins(*box, torch.tensor([label]), method)[0].numpy()
            assert np.isfinite(bound).all()
            for place, values in enumerate(found):
                logits = values["logits"].astype(np.float64)
                slack = EXACT_SHARE * max(1.0, np.abs(logits).max()) if place == 2 else 0
                worst = max(worst, float((bound - (logits[:, [label]] - logits[:, others])).max()) - slack)
        worst = max(worst, *(_excess_at_points(one, torch.from_numpy(scaled), found, label) for one in (proof, quick)))
    return worst


def _excess_at_points(proof: Proof, points: torch.Tensor, found: list[dict[str, np.ndarray]], label: int) -> float:
    """Return by how much bounds at points exceed margins, or two runs are further apart than any two may be."""
    others = [j for j in range(graphs.CLASSES) if j != label]
    what = points, torch.full((len(points),), label)
    few = points[:3], what[1][:3]  # each takes a pass for each hidden value
    bounds = [proof.margins_at(*what), proof.margins_by_length(*what), proof.linear_margins_at(*what)]
    bounds.append(proof.linear_margins_at(*few, narrow=2**62))
    apart = proof.apart(points.amin(0, keepdim=True), points.amax(0, keepdim=True))
    assert bool(bounds[0].isfinite().all())
    logits = [values["logits"].astype(np.float64) for values in found]
    margins = np.stack([one[:, [label]] - one[:, others] for one in logits])
    slack = EXACT_SHARE * max(1.0, np.abs(logits[0]).max()) * (len(found) == 3)
    above = max(float((bound.numpy() - margins[:, : len(bound)]).max()) for bound in bounds)
    return max(above, float(np.ptp(margins, axis=0).max()) - apart, _too_far(proof, points, found)) - slack


def _too_far(proof: Proof, points: torch.Tensor, found: list[dict[str, np.ndarray]]) -> float:
    """Return by how much values are further from where they should lie than they may be, by entry or by length."""
    worst = -math.inf
    for name, near in proof._lengths.run(points).items():
        for values in found:
            if name in values and name != SCALED:
                apart = np.abs(values[name].astype(np.float64) - near.middle.double().numpy())
                length = np.sqrt((apart.reshape(len(apart), -1) ** 2).sum(1))
                worst = max(worst, float((apart - near.room.double().numpy()).max()))
                worst = max(worst, float((length - near.length.numpy()).max()))
    return worst


@pytest.mark.parametrize("name", OPERATORS)
def test_no_runtime_leaves_the_enclosures(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        assert excess(graphs.classifier(OPERATORS[name], seed, tmp_path), seed) <= 0


def test_a_parametrised_ramp_is_enclosed_operator_by_operator(tmp_path: Path) -> None:
    config = NetworkConfig("fc-3-code", Activation.PARAM_RAMP, (1, 4, 4), 3)
    network = config.build(0)
    with torch.no_grad(), collecting(network):
        network(torch.rand(8, *config.shape if hasattr(config, "shape") else (2, 4, 4)))
    for ramp in ramps_of(network):
        ramp.begin_bend()
    probes = np.random.default_rng(0).random((2, 1, 4, 4), dtype=np.float32)
    path = export(network.eval(), config, Grid(5), "none", probes, tmp_path).abstract
    assert path is not None
    model = onnx.load(path)
    proof = Proof(read_graph(model, path), "interval", (2, 4, 4), 3)
    low = np.random.default_rng(1).uniform(-1, 0.5, (1, 2, 4, 4)).astype(np.float32)
    points = (low + np.random.default_rng(2).random((50, *low.shape[1:]), dtype=np.float32) / 2).astype(np.float32)
    box = torch.from_numpy(points.min(0, keepdims=True)), torch.from_numpy(points.max(0, keepdims=True))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"interval": points})[0].astype(np.float64)
    for method in METHODS:
        bound = proof.margins(*box, torch.tensor([0]), method)[0].numpy()
        assert (logits[:, [0]] - logits[:, 1:] >= bound).all()
        assert np.isfinite(bound).all()


# --- what has no proof -----------------------------------------------------------------------------------------------


def with_nodes(folder: Path, *operators: tuple[str, dict[str, Any]]) -> tuple[Graph, tuple[int, ...]]:
    def added(build: Build) -> None:
        graphs.planes(build, channels=2)
        for operator, attributes in operators:
            build.add(operator, **attributes)

    path = graphs.classifier(added, 0, folder)
    graph = read_graph(onnx.load(path), path)
    assert graph.input_shape is not None
    return graph, tuple(size for size in graph.input_shape[1:] if size)


def test_all_operators_without_a_rule_are_named_at_once(tmp_path: Path) -> None:
    graph, shape = with_nodes(tmp_path, ("Det", {}), ("Relu", {}), ("Hardmax", {}))
    lines = unsupported(graph, SCALED)
    assert [line.split("of ")[1] for line in lines] == ["Det", "Hardmax"]
    with pytest.raises(UnsupportedModelError, match=r"Det.*Hardmax"):
        Proof(graph, SCALED, shape, graphs.CLASSES)


def test_a_use_without_a_rule_says_at_which_node(tmp_path: Path) -> None:
    attributes = {"kernel_shape": [2, 2], "ceil_mode": 1, "strides": [2, 2], "count_include_pad": 1}
    graph, shape = with_nodes(tmp_path, ("AveragePool", attributes))
    with pytest.raises(UnsupportedModelError, match=r"AveragePool.*ceil_mode"):
        Proof(graph, SCALED, shape, graphs.CLASSES)


def test_boxes_and_labels_that_are_none_are_refused(tmp_path: Path) -> None:
    graph, shape = with_nodes(tmp_path, ("Relu", {}))
    proof, zero = Proof(graph, SCALED, shape, graphs.CLASSES), torch.zeros(1, *shape)
    with pytest.raises(VerifierError, match="lower <= upper"):
        proof.margins(zero, zero - 1, torch.tensor([0]), BoundMethod.IBP)
    with pytest.raises(VerifierError, match="lower <= upper"):
        proof.margins(zero * math.nan, zero, torch.tensor([0]), BoundMethod.IBP)
    with pytest.raises(VerifierError, match="label"):
        proof.margins(zero, zero, torch.tensor([graphs.CLASSES]), BoundMethod.IBP)
    with pytest.raises(VerifierError, match="proof by"):
        proof.margins(zero, zero, torch.tensor([0]), BoundMethod.OPTIMISED)
    quick = Proof(graph, SCALED, shape, graphs.CLASSES, torch.float32)
    with pytest.raises(VerifierError, match="float32"):
        quick.margins(zero.double() + 0.1, zero.double() + 0.1, torch.tensor([0]), BoundMethod.IBP)
    assert proof.margins(zero[:0], zero[:0], torch.tensor([], dtype=torch.int64), BoundMethod.IBP).shape == (0, 2)


def test_a_wrong_weight_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = Affine.forward

    def wrong(self: Affine, values: Any) -> Any:
        found = right(self, values)
        return type(found)(
            found.lower * 1.0001,
            found.upper * 1.0001,
            found.magnitude,
            found.roundings,
            found.underflow,
            found.reach,
            1.0,
        )

    path = graphs.classifier(graphs.OPERATORS["Conv"], 0, tmp_path)
    assert excess(path, 0) <= 0
    monkeypatch.setattr(Affine, "forward", wrong)
    assert excess(path, 0) > 0
