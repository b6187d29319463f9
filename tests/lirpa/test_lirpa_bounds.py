"""Bounds of margins: sound, tight where they can be exact, and failing without a false bound."""

import copy
from itertools import pairwise
from typing import Any, Never, cast

import numpy as np
import pytest
import torch
from box_oracle import (
    BUILDERS,
    CLASSES,
    SHAPE,
    assert_below,
    boxes,
    lirpa_or_skip,
    margins_of,
    network,
    reachable_least_margins,
    sampled_least_margins,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import grids
from tiny_networks import tiny_network
from torch import Tensor, nn

from abscert_plugin.bounds.bounder import BoundMemoryError, BoundMethod
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.lirpa.tracing import check_bounded_forward, margin_rows

lirpa = lirpa_or_skip()
CPU = torch.device("cpu")
CROWNS = [method for method in BoundMethod if method not in (BoundMethod.IBP, BoundMethod.CROWN_LBP)]


def bounder_of(net: nn.Module, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> LirpaBounder:
    return LirpaBounder(net, shape, classes, CPU)


def margins_or_skip(bounder: LirpaBounder, lower: Tensor, upper: Tensor, labels: Tensor, method: BoundMethod) -> Tensor:
    try:
        return bounder.margins(lower, upper, labels, method)
    except VerifierError as error:
        if method == BoundMethod.CROWN_LBP and "layers" in str(error):
            pytest.skip("CROWN-LBP is not written for this network")
        if method == BoundMethod.OPTIMISED and lirpa.__version__ == "0.3":
            pytest.skip("auto_LiRPA 0.3 cannot optimise bounds of MaxPool")
        raise


# --- soundness -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("method", BoundMethod)
def test_no_point_of_a_box_has_a_margin_below_the_bound(name: str, method: BoundMethod) -> None:
    net = network(name)
    bounder = bounder_of(net)
    for free in (0.0, 0.2, 1.0):
        lower, upper, labels = boxes(5, free, seed=int(10 * free))
        bounds = margins_or_skip(bounder, lower, upper, labels, method)
        assert bounds.isfinite().all()
        assert_below(bounds, sampled_least_margins(net, lower, upper, labels))


@pytest.mark.slow
@settings(max_examples=15)
@given(grid=grids(most=6), seed=st.integers(0, 2**16), data=st.data())
def test_no_reachable_combination_of_cells_has_a_margin_below_the_bound(
    grid: Grid, seed: int, data: st.DataObject
) -> None:
    net = tiny_network(seed)
    bounder = bounder_of(net, (2, 2, 2), 3)
    random = np.random.default_rng(seed)
    low = random.integers(0, grid.cells, (1, 2, 2))
    high = np.minimum(low + random.integers(0, 3, (1, 2, 2)), grid.cells - 1)
    label = data.draw(st.integers(0, 2))
    exact = reachable_least_margins(net, grid, low, high, label)
    lower, upper = (torch.from_numpy(grid.ends(cell.astype(np.uint8)))[None] for cell in (low, high))
    for method in BoundMethod:
        assert_below(bounder.margins(lower, upper, torch.tensor([label]), method)[0], exact)


def linear_case() -> tuple[nn.Sequential, Tensor, Tensor, Tensor, Tensor]:
    """Return a linear network, boxes and labels, and the exact least margins."""
    net = cast(nn.Sequential, network("linear"))
    lower, upper, labels = boxes(5, 0.5)
    last = cast(nn.Linear, net[1])
    weight = last.weight.double()
    rows = margins_of(weight.T[None].expand(5, -1, -1).flatten(0, 1), labels.repeat_interleave(72))
    slopes = rows.unflatten(0, (5, 72)).transpose(1, 2)
    ends = torch.where(slopes > 0, lower.flatten(1)[:, None], upper.flatten(1)[:, None])
    offset = margins_of(last.bias.double().expand(5, -1), labels)
    return net, lower, upper, labels, ((slopes * ends).sum(2) + offset).detach().float()


@pytest.mark.parametrize("method", BoundMethod)
def test_bounds_of_a_linear_network_are_its_least_margins(method: BoundMethod) -> None:
    net, lower, upper, labels, exact = linear_case()
    bounds = bounder_of(net).margins(lower, upper, labels, method)
    torch.testing.assert_close(bounds, exact, rtol=0, atol=1e-5)  # float32 sums


def test_the_check_sees_a_bound_that_is_a_thousandth_too_high() -> None:
    net, lower, upper, labels, exact = linear_case()
    bounds = bounder_of(net).margins(lower, upper, labels, BoundMethod.CROWN)
    assert_below(bounds, exact)
    with pytest.raises(AssertionError, match="too high"):
        assert_below(bounds + 1e-3 * bounds.abs(), exact)


def test_the_check_of_reachable_cells_sees_a_dropped_cell() -> None:
    net, grid = tiny_network(3), Grid(5)
    low, high = np.zeros((1, 2, 2), dtype=int), np.full((1, 2, 2), 2)
    exact = reachable_least_margins(net, grid, low, high, 0)
    lower, upper = (torch.from_numpy(grid.ends(cell.astype(np.uint8)))[None] for cell in (low, high - 1))
    bounds = bounder_of(net, (2, 2, 2), 3).margins(lower, upper, torch.tensor([0]), BoundMethod.CROWN)[0]
    with pytest.raises(AssertionError, match="too high"):
        assert_below(bounds, exact)


@pytest.mark.parametrize("method", BoundMethod)
def test_a_box_of_one_point_has_the_margins_of_that_point(method: BoundMethod) -> None:
    net = network("relu")
    lower, _, labels = boxes(6, 0.0)
    bounds = bounder_of(net).margins(lower, lower, labels, method)
    with torch.no_grad():
        margins = margins_of(net(lower), labels)
    torch.testing.assert_close(bounds, margins, rtol=0, atol=1e-5)  # logits are of order 1


def test_slower_methods_are_tighter_on_a_whole() -> None:
    net = network("relu")
    bounder = bounder_of(net)
    lower, upper, labels = boxes(8, 0.5)
    means = {method: float(bounder.margins(lower, upper, labels, method).mean()) for method in BoundMethod}
    lbp = means.pop(BoundMethod.CROWN_LBP)
    assert all(tight > loose for loose, tight in pairwise(means.values()))
    # behind two hidden layers its lines are those of CROWN: which is the larger, rounding alone decides
    assert lbp == pytest.approx(means[BoundMethod.CROWN], rel=0, abs=1e-6)


def test_optimised_bounds_are_nowhere_below_crown() -> None:
    net = network("residual")
    bounder = bounder_of(net)
    lower, upper, labels = boxes(8, 0.5)
    crown, optimised = (bounder.margins(lower, upper, labels, m) for m in (BoundMethod.CROWN, BoundMethod.OPTIMISED))
    assert (optimised >= crown - 1e-6).all()  # float32 of order 1
    assert optimised.mean() > crown.mean()


# --- the interface ---------------------------------------------------------------------------------------------------


def test_margins_are_ordered_by_the_other_class() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    labels = torch.tensor([1, 2])
    got = torch.einsum("boc,bc->bo", margin_rows(3)[labels], logits)
    assert got.tolist() == [[1.0, -2.0], [24.0, 16.0]]


@pytest.mark.parametrize("method", BoundMethod)
def test_one_trace_serves_all_batch_sizes_and_rows_do_not_depend_on_the_batch(
    method: BoundMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounder = bounder_of(network("relu"))
    monkeypatch.setattr(bounder, "_trace", lambda: pytest.fail("traced again"))
    lower, upper, labels = boxes(9, 0.3)
    together = bounder.margins(lower, upper, labels, method)
    apart = [bounder.margins(lower[s], upper[s], labels[s], method) for s in (slice(0, 1), slice(1, 9))]
    assert together.shape == (9, CLASSES - 1)
    # Adam stops early for one batch and not for another, and sums come in another order
    tolerance = 1e-2 if method == BoundMethod.OPTIMISED else 1e-5
    torch.testing.assert_close(torch.cat(apart), together, rtol=0, atol=tolerance)


def test_no_boxes_have_no_margins() -> None:
    bounder = bounder_of(network("relu"))
    none = torch.zeros(0, *SHAPE)
    assert bounder.margins(none, none, torch.zeros(0, dtype=torch.int64), BoundMethod.CROWN).shape == (0, 3)
    slopes = bounder.linear_margins(none, none, torch.zeros(0, dtype=torch.int64), BoundMethod.CROWN).coefficients
    assert slopes.shape == (0, 3, *SHAPE)


@pytest.mark.parametrize("method", CROWNS)
def test_coefficients_of_a_linear_network_are_its_weights(method: BoundMethod) -> None:
    net, lower, upper, labels, _ = linear_case()
    linear = bounder_of(net).linear_margins(lower, upper, labels, method)
    weight = cast(nn.Linear, net[1]).weight.detach()
    for row, label in enumerate(labels.tolist()):
        others = [other for other in range(CLASSES) if other != label]
        expected = (weight[label] - weight[others]).unflatten(1, SHAPE)
        torch.testing.assert_close(linear.coefficients[row], expected, rtol=0, atol=1e-6)  # one subtraction


@pytest.mark.parametrize("name", ["relu", "residual", "max-pool", "convolution-last"])
@pytest.mark.parametrize("method", [BoundMethod.CROWN_IBP, BoundMethod.CROWN])
def test_bounds_with_coefficients_are_the_bounds_without(name: str, method: BoundMethod) -> None:
    bounder = bounder_of(network(name))
    lower, upper, labels = boxes(4, 0.4)
    linear = bounder.linear_margins(lower, upper, labels, method)
    expected = bounder.margins(lower, upper, labels, method)
    torch.testing.assert_close(linear.bounds, expected, rtol=0, atol=1e-6)  # the same sums
    assert linear.coefficients.shape == (4, CLASSES - 1, *SHAPE)
    assert linear.coefficients.abs().sum() > 0


def test_the_network_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    net = network("batch-norm").train()
    before = copy.deepcopy(net.state_dict())
    lower, upper, labels = boxes(3, 0.4)
    bounder = bounder_of(net)
    for method in (BoundMethod.IBP, *CROWNS):
        bounds = bounder.margins(lower, upper, labels, method)
        assert not bounds.requires_grad
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert capsys.readouterr().out == ""


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def bounder() -> LirpaBounder:
    return bounder_of(network("relu"))


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(0.0, -1.0), (float("nan"), 0.0), (0.0, float("nan")), (float("-inf"), 0.0), (0.0, float("inf"))],
)
def test_a_box_that_is_empty_or_not_finite_is_refused(bounder: LirpaBounder, lower: float, upper: float) -> None:
    low, high = torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE)
    low[1, 0, 0, 0], high[1, 0, 0, 0] = lower, upper
    with pytest.raises(VerifierError, match="lower <= upper"):
        bounder.margins(low, high, torch.zeros(2, dtype=torch.int64), BoundMethod.IBP)


@pytest.mark.parametrize("labels", [[0, CLASSES], [-1, 0]])
def test_labels_that_are_no_class_are_refused(bounder: LirpaBounder, labels: list[int]) -> None:
    ends = torch.zeros(2, *SHAPE)
    with pytest.raises(VerifierError, match="labels from 0 to 3"):
        bounder.margins(ends, ends, torch.tensor(labels), BoundMethod.IBP)


def test_boxes_of_another_shape_are_refused(bounder: LirpaBounder) -> None:
    ends = torch.zeros(2, 2, 5, 6)
    with pytest.raises(VerifierError, match="shape"):
        bounder.margins(ends, ends, torch.zeros(2, dtype=torch.int64), BoundMethod.IBP)


@pytest.mark.parametrize("method", [BoundMethod.IBP, BoundMethod.CROWN_LBP])
def test_some_methods_have_no_coefficients(bounder: LirpaBounder, method: BoundMethod) -> None:
    lower, upper, labels = boxes(2, 0.2)
    with pytest.raises(VerifierError, match="linear bounds"):
        bounder.linear_margins(lower, upper, labels, method)


@pytest.mark.parametrize(("name", "word"), [("residual", "branches"), ("tanh", "got Tanh"), ("max-pool", "MaxPool2d")])
def test_crown_lbp_names_what_it_cannot_bound(name: str, word: str) -> None:
    lower, upper, labels = boxes(2, 0.2)
    with pytest.raises(VerifierError, match=word):
        bounder_of(network(name)).margins(lower, upper, labels, BoundMethod.CROWN_LBP)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bound_that_is_not_a_number_claims_nothing(
    bounder: LirpaBounder, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    lower, upper, labels = boxes(2, 0.2)
    monkeypatch.setattr(bounder, "_run", lambda *_: (torch.tensor([[value, 0.5, 1.0], [1.0, 1.0, 1.0]]), None))
    bounds = bounder.margins(lower, upper, labels, BoundMethod.CROWN)
    assert bounds[0, 0] == -torch.inf
    assert (bounds[1] > 0).all()


MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_lack_of_memory_is_told_apart_and_a_smaller_batch_may_follow(
    bounder: LirpaBounder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    lower, upper, labels = boxes(8, 0.2)
    expected = bounder.margins(lower[:4], upper[:4], labels[:4], BoundMethod.CROWN)
    real = bounder._run

    def limited(lower: Tensor, *rest: Any) -> Any:
        if len(lower) > 4:
            raise error
        return real(lower, *rest)

    monkeypatch.setattr(bounder, "_run", limited)
    with pytest.raises(BoundMemoryError, match="8 boxes") as caught:
        bounder.margins(lower, upper, labels, BoundMethod.CROWN)
    assert caught.value.__context__ is None  # a context would keep the batch's tensors
    assert torch.equal(bounder.margins(lower[:4], upper[:4], labels[:4], BoundMethod.CROWN), expected)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), KeyError("lA"), AssertionError()])
def test_a_failure_of_auto_lirpa_is_a_verifier_error_of_one_line(
    bounder: LirpaBounder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: Any) -> Never:
        raise error

    monkeypatch.setattr(bounder, "_run", failing)
    lower, upper, labels = boxes(2, 0.2)
    with pytest.raises(VerifierError, match="auto_LiRPA failed to bound by crown") as caught:
        bounder.margins(lower, upper, labels, BoundMethod.CROWN)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, BoundMemoryError)


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x).flatten(1)[:, :CLASSES]


def broken_weight() -> nn.Module:
    net = cast(nn.Sequential, network("relu"))
    with torch.no_grad():
        cast(nn.Conv2d, net[0]).weight[0, 0, 0, 0] = float("nan")
    return net


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2 if len(x) == 2 else -1, 72)[:, :CLASSES]


@pytest.mark.parametrize("net", [Bessel(), broken_weight(), FixedBatch()], ids=["operator", "nan", "batch"])
def test_a_network_that_cannot_be_bounded_is_refused(net: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match="auto_LiRPA") as caught:
        bounder_of(net)
    assert "\n" not in str(caught.value)


def test_a_wrong_number_of_classes_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"\[batch, 5\]"):
        bounder_of(network("relu"), classes=5)
    with pytest.raises(UnsupportedModelError, match="at least 2"):
        bounder_of(network("relu"), classes=1)


def test_the_check_of_the_forward_sees_another_function() -> None:
    net, other = network("relu", 0), network("relu", 1)
    points = torch.zeros(3, *SHAPE)
    check_bounded_forward(net, net, points)
    with pytest.raises(UnsupportedModelError, match="other logits"):
        check_bounded_forward(other, net, points)
    with pytest.raises(UnsupportedModelError, match="shape"):
        check_bounded_forward(nn.Flatten(), net, points)
