"""Small graphs of any opset, and their enclosures and margins held against onnxruntime at points of boxes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph

CLASSES = 3
SOURCE = "x"
METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
WIDTHS = (0.0, 1e-3, 0.3)
POINTS = 8


@dataclass
class Net:
    """A graph that grows node by node; `last` is what was given last.

    Args:
        random: where choices come from.
        shape: of the input, without the batch.
        opset: version of ONNX's operators.
        batch: size of the batch, or its name.
    """

    random: np.random.Generator
    shape: tuple[int, ...]
    opset: int = 18
    batch: int | str = "batch"
    kind: int = TensorProto.FLOAT
    last: str = SOURCE
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, values: Any, kind: Any = None) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype=kind), name))
        return name

    def floats(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape), np.float32)

    def whole(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def add(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Append a node, by default one that reads `last`, and return its first output."""
        names = [f"v{len(self.nodes)}_{place}" for place in range(outputs)]
        reads = inputs or (self.last,)
        self.nodes.append(
            helper.make_node(operator, reads, names, f"{operator}_{len(self.nodes)}", domain=domain, **attributes)
        )
        self.last = names[0]
        return self.last

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def integers(self, count: int, low: int, high: int) -> list[int]:
        return [self.integer(low, high) for _ in range(count)]

    def model(self, output: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        source = value(SOURCE, self.kind, [self.batch, *self.shape])
        graph = helper.make_graph(self.nodes, "net", [source], [value(output, kind, None)], self.tensors)
        opsets = {"": self.opset} | {node.domain: 1 for node in self.nodes if node.domain}
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)

    def logits(self) -> onnx.ModelProto:
        """Return the model with a dense layer behind what there is."""
        shape = shapes_of(self.model(self.last), self.one((1, *self.shape)))[self.last]
        features = int(np.prod(shape[1:]))
        self.add("Reshape", self.last, self.whole(-1, features))
        weight = self.random.standard_normal((features, CLASSES)) * features**-0.5
        self.add("Gemm", self.last, self.constant(weight, np.float32), self.floats(CLASSES))
        model = self.model(self.last)
        onnx.checker.check_model(model, full_check=True)
        return model

    def one(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.random.random(shape).astype(helper.tensor_dtype_to_np_dtype(self.kind))


def with_all_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    found.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return found


def session(model: onnx.ModelProto, optimises: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    level = "ORT_ENABLE_ALL" if optimises else "ORT_DISABLE_ALL"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as `BlackBox` opens files
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def values_of(running: onnxruntime.InferenceSession, points: np.ndarray) -> dict[str, np.ndarray]:
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(None, {running.get_inputs()[0].name: points}), strict=True))


def shapes_of(model: onnx.ModelProto, points: np.ndarray) -> dict[str, tuple[int, ...]]:
    found = values_of(session(with_all_outputs(model), False), points)
    return {name: array.shape for name, array in found.items()}


@dataclass(frozen=True)
class Seen:
    """What was compared.

    Args:
        excess: by how much values leave their enclosures, or bounds exceed margins, at most; at most 0 where none does.
        widths: of the enclosures at a point, by name: the largest.
    """

    excess: float
    widths: Mapping[str, float]


Change = Callable[[dict[str, Any]], None]


def sampled(model: onnx.ModelProto, random: np.random.Generator, low: float = -1.0, high: float = 1.0) -> Seen:
    """Compare what a proof says of a model with what onnxruntime gives at points of boxes, with and without fusions."""
    graph = read_graph(model, Path("net.onnx"))
    assert graph.input_shape is not None
    shape = tuple(size or 1 for size in graph.input_shape[1:])
    kind = helper.tensor_dtype_to_np_dtype(graph.input_type)
    proof, worst, widths = Proof(graph, graph.input, shape, CLASSES), -np.inf, {}
    quick = proof.in_float32()
    every, fused = session(with_all_outputs(model), False), session(model, True)
    is_apart = batch_obstacle(graph, model) is None and graph.input_shape[0] is None
    for width in WIDTHS:
        center = random.uniform(low, high, (1, *shape))
        share = random.random((POINTS, *shape))
        share[::2] = share[::2].round()
        points = (center + width * (high - low) * (share - 0.5)).astype(kind)
        runs = [values_of(every, points[place : place + 1]) for place in range(len(points))]
        logits = [*(run[graph.output] for run in runs)]
        logits += [values_of(fused, points[place : place + 1])[graph.output] for place in range(len(points))]
        box = box_of(points)
        for refined in (False, True):
            for name, value in proof.intervals(*box, refined=refined).items():
                lower, upper = (end.numpy() for end in value.computed())
                if width == 0:
                    widths[name] = float((upper - lower).max())
                for run in runs:
                    if name in run:
                        seen = run[name].astype(np.float64)
                        seen = seen[None] if seen.shape == lower.shape[1:] else seen  # rows of one image
                        assert seen.shape == lower.shape, f"{name}: {seen.shape}, not {lower.shape}"
                        worst = max(worst, float((lower - seen).max()), float((seen - upper).max()))
        if is_apart and width == 0:  # a batch at once gives each image what it gets alone
            together = values_of(every, points)
            for name in widths.keys() & together.keys():
                alone = np.concatenate([run[name] for run in runs])
                np.testing.assert_allclose(together[name], alone, 1e-4, 1e-4)
        label = int(logits[0][0].argmax())
        others = [j for j in range(CLASSES) if j != label]
        for one, method in [*((proof, method) for method in METHODS), (quick, BoundMethod.IBP)]:
            bound = one.margins(*box, torch.tensor([label]), method)[0].numpy()
            assert np.isfinite(bound).all(), method
            for row in logits:
                exact = row[0].astype(np.float64)
                worst = max(worst, float((bound - (exact[label] - exact[others])).max()))
    return Seen(worst, widths)


def box_of(points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    floats = np.float64 if points.dtype == np.float64 else np.float32
    ends = points.astype(floats)
    return torch.from_numpy(ends.min(0, keepdims=True)), torch.from_numpy(ends.max(0, keepdims=True))
