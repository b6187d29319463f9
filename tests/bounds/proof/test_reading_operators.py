"""Every operator that proofs know, read as layers of torch: values, gradients, and what auto_LiRPA bounds of them."""

from pathlib import Path

import moving_graphs as moving
import nonlinear_graphs as nonlinear
import numpy as np
import operator_graphs as graphs
import pytest
import summing_graphs as summing
import test_proof_operators as simple
import torch
from bound_samples import excesses
from box_oracle import lirpa_or_skip
from sampled_graphs import CLASSES, Net, session, values_of

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof.plan import RULES as PROVEN
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.reading import table
from abscert_plugin.reading.network import convert, read_module

lirpa_or_skip()

SEEDS = range(2)
CLASSIFIERS = {
    **{name: (operator, graphs.OPSET) for name, operator in simple.OPERATORS.items()},
    **{f"{name}, random": (operator, nonlinear.OPSET) for name, operator in nonlinear.OPERATORS.items()},
}
GRAPHS = {**moving.MOVES, **summing.OTHERS}
FLAT = {"ArgMax, random", "ArgMin, random", "Comparisons, random", "Sign, random"}  # steps alone
FORESTS = {f"ai.onnx.ml.TreeEnsemble{kind}" for kind in ("", "Classifier", "Regressor")}  # which have no gradients
TOLERANCE = 1e-4  # float32 sums in another order


def test_every_proven_operator_can_be_read() -> None:
    assert set(PROVEN) - table.KNOWN == FORESTS


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_read_with_its_logits_and_finite_gradients(name: str, tmp_path: Path) -> None:
    operator, opset = CLASSIFIERS[name]
    moves = False
    for seed in SEEDS:
        artifact = Artifact.open(graphs.classifier(operator, seed, tmp_path, opset), Provider.CPU)
        network = convert(artifact).network  # which compares logits with the file's
        points = torch.from_numpy(2 * artifact.front.probes(artifact.metadata.image_shape) - 1).requires_grad_()
        (gradient,) = torch.autograd.grad(network(points).square().sum(), points)
        assert bool(gradient.isfinite().all())
        moves = moves or bool(gradient.any())
    assert moves or name in FLAT


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_read_with_its_values_and_finite_gradients(name: str) -> None:
    read = 0
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        net: Net = GRAPHS[name](random)
        model, points = net.logits(), np.concatenate([net.one((1, *net.shape)) for _ in range(3)])
        graph = read_graph(model, Path("net.onnx"))
        try:
            module = read_module(graph, Path("net.onnx"), graph.input, net.shape, CLASSES).network
        except UnsupportedModelError as error:
            assert "batch" in str(error) or "runtimes differ" in str(error)  # noqa: PT017 rows of all images are mixed
            continue
        read += 1
        running = session(model, optimises=False)
        expected = np.concatenate([values_of(running, points[place : place + 1])[graph.output] for place in range(3)])
        given = torch.from_numpy(points.astype(np.float32)).requires_grad_()
        found = module(given)
        size = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=TOLERANCE * size)
        (gradient,) = torch.autograd.grad(found.square().sum(), given)
        assert bool(gradient.isfinite().all())
    assert read or name in ("Gemm, rows", "Reshape")


SAMPLED = (
    "Abs Add Clip Exp HardSigmoid HardSwish Log MatMul Max Mean Min Mul Neg PRelu ReduceL1 ReduceLogSum ReduceSum "
    "ReduceSumSquare Sub Sum"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLED.split())
def test_no_bound_of_a_function_exceeds_a_margin_that_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    operator, opset = CLASSIFIERS.get(f"{name}, random") or CLASSIFIERS[name]
    found: dict[BoundMethod, float] = {}
    for seed in SEEDS:
        for method, excess in excesses(graphs.classifier(operator, seed, tmp_path, opset), seed).items():
            found[method] = max(excess, found.get(method, excess))
    assert BoundMethod.IBP in found  # so that something was compared; of some, 0.3 fails at lines of convolutions
    assert max(found.values()) <= 0


def test_every_function_with_bounds_is_sampled() -> None:
    assert set(table.BOUNDED) <= {*SAMPLED.split(), "LeakyRelu"}  # that one in tests/reading/test_operator_bounds.py


def test_an_image_does_not_change_what_another_gets(tmp_path: Path) -> None:
    """A constant that is repeated for each image, and a mean that would go over the batch."""
    net = moving.token(np.random.default_rng(0))
    graph = read_graph(net.logits(), Path("net.onnx"))
    module = read_module(graph, Path("net.onnx"), graph.input, net.shape, CLASSES).network
    points = torch.rand(5, *net.shape)
    torch.testing.assert_close(module(points)[2:3], module(points[2:3]), rtol=1e-5, atol=1e-6)
