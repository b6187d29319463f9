"""Each rule of a guard, on random graphs around its operator: what onnxruntime computes lies within the ends."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from guard_oracle import WrittenGuard, escaped, excess
from moving_graphs import MOVES, begun, images
from sampled_graphs import CLASSES, Net, session, values_of, with_all_outputs
from soundness_trials.evaluation import Way
from summing_graphs import OTHERS

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.guards.rules import RULES

Random = np.random.Generator
POINTS = 10
WIDTHS = (0.0, 1e-3, 0.5)
MOST, ENOUGH = 40, 2
REFUSED = (
    *("Concat", "MatMul, left", "Gemm, rows", "Cast, bytes", "Cast, double"),
    *("Resize, sizes", "Resize, cubic", "Resize, linear"),
)
# onnx 1.23's reference pads by no negative numbers, or has other windows, or takes the batch's own mean
CURVES = (
    *("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "Celu", "Elu", "Erf", "HardSigmoid", "Selu", "Softplus"),
    "Softsign",
)
NO_REFERENCE = {"AveragePool", "BatchNormalization", "ConvTranspose", "GlobalMaxPool", "MaxPool", "Pad"}


def entrywise(operator: str, *places: int) -> Callable[[Random], Net]:
    """Return graphs of an operator with a constant, as its input at one of some places."""

    def made(random: Random) -> Net:
        net = images(random, int(random.integers(0, 3)))
        if net.integer(0, 1):  # behind a line, and in a chain
            net.add(
                "BatchNormalization", net.last, *(net.floats(3) for _ in range(3)), net.constant([1, 2, 3], np.float32)
            )
        ones = [1] * (len(net.shape) - 1)
        constant = net.pick(net.floats(1), net.floats(*net.shape), net.floats(1, 3, *ones))
        inputs = [net.last, constant] if net.pick(*places) else [constant, net.last]
        net.add(operator, *inputs)
        return net

    return made


def residual(operator: str) -> Callable[[Random], Net]:
    def made(random: Random) -> Net:
        net = images(random, 2, channels=2)
        first = net.last
        second = net.add("Conv", first, net.floats(2, 2, 3, 3), net.floats(2), pads=[1] * 4)
        if net.integer(0, 1):
            first = net.add("Conv", first, net.floats(2, 2, 1, 1))
        net.add(operator, *((first, second) if net.integer(0, 1) else (second, first)))
        if net.integer(0, 1):
            net.add("Conv", net.last, net.floats(2, 2, 3, 3))
        return net

    return made


def curve(operator: str) -> Callable[[Random], Net]:
    def made(random: Random) -> Net:
        net = begun(random)
        if net.integer(0, 1):
            net.add("Mul", net.last, net.constant(4.0, np.float32))
        if operator == "PRelu":
            slopes = random.random(net.pick((1,), net.shape)).astype(np.float32)
            net.add(operator, net.last, net.constant(slopes))
        elif operator == "LeakyRelu":
            net.add(operator, net.last, alpha=net.pick(0.01, 0.3, 1.0, 0.0))
        elif operator == "Clip":
            if net.integer(0, 1):
                net.add("Relu")
            low, high = (net.constant(end, np.float32) for end in net.pick((-0.5, 0.7), (-0.7, -0.2), (0.0, 0.5)))
            net.add(operator, net.last, *net.pick((low,), ("", high), (low, high)))
        else:
            net.add(operator)
        return net

    return made


def joined(random: Random) -> Net:
    """Append parts that are put together: chains and what is held."""
    net = images(random, 2, channels=2)
    first = net.last
    second = net.add("Conv", first, net.floats(3, 2, 1, 1))
    third = net.add("Relu", second)
    net.add("Concat", *net.pick((first, second), (second, third), (first, third), (third, third)), axis=1)
    if net.integer(0, 1):
        net.add("Conv", net.last, net.floats(2, net_channels(net), 1, 1))
    return net


def net_channels(net: Net) -> int:
    """Return how many channels the last tensor has."""
    return int(net.model(net.last).graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def moved_lines(random: Random) -> Net:
    """Append moves between affine nodes."""
    net = Net(random, (2, 4, 4))
    net.add("Conv", net.last, net.floats(4, 2, 3, 3), net.floats(4))
    net.add("Transpose", perm=net.pick([0, 2, 3, 1], [0, 1, 3, 2]))
    net.add("Add", net.last, net.floats(1))
    net.add("Pad", net.last, net.whole(0, 1, 0, 0, 0, 0, 1, 0))
    net.add("Mul", net.last, net.floats(1))
    return net


def largest(random: Random) -> Net:
    """Append the largest entries along an axis."""
    net = images(random, 2)
    net.add("ReduceMax", net.last, net.whole(net.integer(1, 3)), keepdims=net.integer(0, 1))
    return net


def parted(random: Random) -> Net:
    """Append a split of a line, whose parts go different ways."""
    net = Net(random, (4,), 13)
    net.add("MatMul", net.last, net.floats(4, 6))
    first = net.add("Split", net.last, net.whole(2, 4), outputs=2, axis=1)
    second = first[:-1] + "1"
    kept = net.add("Relu", second)
    net.add("Concat", first, kept, axis=1)
    return net


GRAPHS: Mapping[str, Callable[[Random], Net]] = {
    **{name: made for name, made in {**MOVES, **OTHERS}.items() if name.split(",")[0] in RULES and name not in REFUSED},
    "Add": entrywise("Add", 0, 1),
    "Sub": entrywise("Sub", 0, 1),
    "Mul": entrywise("Mul", 0, 1),
    "Div": entrywise("Div", 1),
    "Add, residual": residual("Add"),
    "Sub, residual": residual("Sub"),
    "Neg": curve("Neg"),
    "Concat, parts": joined,
    "Transpose, lines": moved_lines,
    "Split, lines": parted,
    "ReduceMax": largest,
    **{name: curve(name) for name in CURVES},
}


def check(made: Callable[[Random], Net], seed: int) -> set[str]:
    """Compare a guard with what onnxruntime computes at points of boxes, and return the operators of its file."""
    random = np.random.default_rng(seed)
    net = made(random)
    model = net.logits()
    graph = read_graph(model, Path("net.onnx"))
    centers = random.uniform(-1, 1, (len(WIDTHS), 1, *net.shape))
    share = random.random((len(WIDTHS), POINTS, *net.shape)) - 0.5
    share[:, ::2] = np.sign(share[:, ::2]) / 2
    widths = np.array(WIDTHS).reshape(-1, 1, *(1 for _ in net.shape))
    points = (centers + widths * share).astype(np.float32)
    guard = WrittenGuard(graph, net.shape, CLASSES, points.min(axis=1), points.max(axis=1))
    every, fused = session(with_all_outputs(model), False), session(model, True)
    flat = points.reshape(-1, *net.shape)
    runs = [values_of(every, flat), values_of(fused, flat)]
    operators = {node.operator for node in graph.nodes}
    if operators & NO_REFERENCE:
        all_seen = list(guard.by_runtimes(has_reference=False))
    else:
        all_seen = [*guard.by_runtimes(), guard.by_chance(Way(random))]
    for seen in all_seen:
        for run in runs:
            assert escaped(seen, run, len(points)) == []
            logits = run[graph.output].reshape(*points.shape[:2], CLASSES)
            assert excess(seen, logits) <= 0
            least = np.stack([logits[0, 0, label] - np.delete(logits[0, 0], label).max() for label in range(CLASSES)])
            assert (seen.margins[0] > least - 0.03 * (1 + np.abs(logits[0]).max())).all()  # of a point little is lost
    return operators


@pytest.mark.parametrize("name", GRAPHS)
def test_what_runtimes_compute_lies_within_the_ends(name: str) -> None:
    done = 0
    for seed in range(MOST):
        try:
            operators = check(GRAPHS[name], seed)
        except UnsupportedModelError:
            continue
        assert name.split(",")[0] in operators
        done += 1
        if done == ENOUGH:
            break
    assert done == ENOUGH


def test_all_rules_are_tried() -> None:
    assert {name.split(",")[0] for name in GRAPHS} >= set(RULES) - {"Cast", "Dropout", "Unsqueeze"}  # two in others
