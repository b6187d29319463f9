"""Bounds of every operator that has any, against what onnxruntime gives for points of the boxes."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import operator_graphs as graphs
import pytest
import torch
from bound_samples import excesses
from box_oracle import lirpa_or_skip
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.reading import table
from abscert_plugin.reading.building import Rule, Value, View
from abscert_plugin.reading.rules import RULES

pytestmark = pytest.mark.slow  # the file as a whole

SEEDS = range(4)

lirpa_or_skip()


def bounded(operator: graphs.Operator, seeds: Sequence[int], folder: Path) -> dict[BoundMethod, list[float]]:
    found: dict[BoundMethod, list[float]] = {}
    for seed in seeds:
        path = graphs.classifier(operator, seed, folder)
        try:
            seen = excesses(path, seed)
        except UnsupportedModelError:
            continue
        for method, excess in seen.items():
            found.setdefault(method, []).append(excess)
    return found


ALWAYS = {BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN, BoundMethod.OPTIMISED}
# auto_LiRPA 0.3 has no linear bounds of overlapping windows, and fails at the optimised ones of some others
FEWER = {"MaxPool, overlapping": {BoundMethod.IBP}, "MaxPool": {BoundMethod.IBP, BoundMethod.CROWN_IBP}}
IN_A_ROW = ("AveragePool", "Conv", "Gemm", "GlobalAveragePool", "Relu", "MatMul", "Split")


@pytest.mark.parametrize("name", graphs.OPERATORS)
def test_no_bound_exceeds_a_margin_that_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    seeds = range(2 * len(SEEDS)) if "Pool" in name else SEEDS
    found = bounded(graphs.OPERATORS[name], seeds, tmp_path)
    assert set(found) >= FEWER.get(name, ALWAYS)  # so that something was compared
    assert BoundMethod.CROWN_LBP in found or name not in IN_A_ROW
    assert {method: max(values) for method, values in found.items() if max(values) > 0} == {}


def test_every_operator_with_bounds_is_sampled(tmp_path: Path) -> None:
    """A new operator of the table needs an entry here."""
    sampled = {part.strip() for name in graphs.OPERATORS for part in name.split(",")}
    assert set(RULES) <= sampled


# --- the comparison sees wrong bounds --------------------------------------------------------------------------------


def with_operator(monkeypatch: pytest.MonkeyPatch, name: str, rule: Rule) -> None:
    monkeypatch.setattr(table, "RULES", {**RULES, name: rule})


def pool_of_torch(view: View) -> Value:
    window = view.pool()
    return view.layer(nn.AvgPool2d(window.kernel, window.stride, window.begins))  # type: ignore[arg-type]


def overlapping_average(build: graphs.Build) -> None:
    graphs.planes(build, signed=False)
    build.add("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[0, 0, 0, 0])


def steep(alpha: float) -> graphs.Operator:
    return graphs.activation("LeakyRelu", alpha=alpha)


def worst(operator: graphs.Operator, folder: Path) -> float:
    found = bounded(operator, range(12), folder)
    return max((value for values in found.values() for value in values), default=-math.inf)


def test_sampling_sees_average_pools_as_auto_lirpa_bounds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert worst(overlapping_average, tmp_path) <= 0
    with_operator(monkeypatch, "AveragePool", pool_of_torch)
    assert worst(overlapping_average, tmp_path) > 0


@pytest.mark.parametrize("alpha", [3.0, -1.0])
def test_sampling_sees_lines_of_slopes_beyond_0_and_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alpha: float
) -> None:
    assert worst(steep(alpha), tmp_path) <= 0  # there it is put together from a ReLU
    with_operator(monkeypatch, "LeakyRelu", lambda view: view.layer(nn.LeakyReLU(view.attribute("alpha", 0.01))))
    assert worst(steep(alpha), tmp_path) > 0


# --- windows that have no bounds -------------------------------------------------------------------------------------


def windows(operator: str, begin: Callable[[graphs.Build], None], **attributes: Any) -> graphs.Operator:
    def added(build: graphs.Build) -> None:
        begin(build)
        build.add(operator, **attributes)

    return added


def lines(build: graphs.Build) -> None:
    graphs.planes(build, channels=2)
    build.add("Reshape", build.constant(np.array([0, 2, -1])))


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (windows("MaxPool", lines, kernel_shape=[2], strides=[2]), "window over the 2 axes"),
        (windows("MaxPool", graphs.planes, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), "ceil_mode"),
        (windows("MaxPool", graphs.planes, kernel_shape=[2, 2], strides=[2, 1]), "tile the width"),
    ],
)
def test_windows_that_would_be_bounded_wrongly_have_no_bounds(
    operator: graphs.Operator, words: str, tmp_path: Path
) -> None:
    path = graphs.classifier(operator, 0, tmp_path)
    white_box = open_white_box(Artifact.open(path, Provider.CPU))
    assert words in white_box.unbounded
    with pytest.raises(VerifierError, match=words):
        white_box.bounder.margins(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64), BoundMethod.IBP)


@pytest.mark.parametrize(
    "operator",
    [
        windows("AveragePool", lines, kernel_shape=[2]),
        windows("GlobalAveragePool", lines),
        windows("AveragePool", partial(graphs.planes, size=5), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        windows("AveragePool", partial(graphs.planes, size=5), kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        windows("AveragePool", graphs.planes, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    ],
)
def test_other_windows_of_means_are_bounded_as_dense_layers(operator: graphs.Operator, tmp_path: Path) -> None:
    found = bounded(operator, SEEDS, tmp_path)
    assert set(found) >= ALWAYS
    assert max(max(values) for values in found.values()) <= 0
