"""Nonlinear operators, with attributes and shapes drawn by chance, against onnxruntime and a reference in float64."""

from pathlib import Path

import onnx
import operator_graphs as graphs
import pytest
from nonlinear_graphs import LATER, OPERATORS, OPSET, mean_variance
from test_proof_operators import excess

from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_no_runtime_leaves_the_enclosures(name: str, tmp_path: Path) -> None:
    seed = len(name)
    assert excess(graphs.classifier(OPERATORS[name], seed, tmp_path, OPSET), seed) <= 0


@pytest.mark.parametrize("name", LATER)
def test_no_runtime_leaves_the_enclosures_of_later_operators(name: str, tmp_path: Path) -> None:
    opset, operator = LATER[name]
    for seed in range(2):
        path = graphs.classifier(operator, seed, tmp_path, opset)
        assert excess(path, seed) <= 0
        model = onnx.load(path)
        assert batch_obstacle(read_graph(model, path), model) is None


def test_a_variance_that_is_not_near_0_needs_no_epsilon(tmp_path: Path) -> None:
    for seed in range(3):
        assert excess(graphs.classifier(mean_variance, seed, tmp_path, OPSET), seed, (0.0, 1e-3)) <= 0


def test_images_of_a_batch_are_shown_to_stay_apart(tmp_path: Path) -> None:
    for name, operator in (*OPERATORS.items(), ("MeanVarianceNormalization", mean_variance)):
        path = graphs.classifier(operator, 0, tmp_path, OPSET)
        model = onnx.load(path)
        if name != "GroupNormalization":  # onnx 1.23 does not infer its shape
            assert batch_obstacle(read_graph(model, path), model) is None, name
