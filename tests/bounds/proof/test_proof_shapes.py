"""Operators that move entries, are affine, pool or round: enclosures and margins against onnxruntime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import moving_graphs as moving
import numpy as np
import pytest
import summing_graphs as summing
import torch
from onnx import TensorProto, helper
from sampled_graphs import SOURCE, Net, sampled

from abscert_plugin.bounds.proof import Proof, quantised, resizing
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.maps import Bilinear
from abscert_plugin.bounds.proof.moves import Planted
from abscert_plugin.bounds.proof.quantised import Rounded
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph

GRAPHS: Mapping[str, moving.Operator] = {**moving.MOVES, **summing.OTHERS}
WIDEST = 0.05  # of an enclosure at a point, so that it says something
RUNTIMES_DIFFER = "runtimes differ"


def excess(name: str, seed: int) -> float:
    """Return by how much onnxruntime leaves what a proof says of a random graph, at most; -inf where it has none."""
    random = np.random.default_rng(seed)
    model = GRAPHS[name](random).logits()
    try:
        seen = sampled(model, random)
    except UnsupportedModelError as error:
        if RUNTIMES_DIFFER in str(error):
            return -np.inf
        raise
    assert max(seen.widths.values()) < WIDEST
    return seen.excess


@pytest.mark.parametrize("name", GRAPHS)
def test_no_runtime_leaves_the_enclosures(name: str) -> None:
    assert max(excess(name, seed) for seed in range(2)) <= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_no_runtime_leaves_the_enclosures_of_many(name: str) -> None:
    assert max(excess(name, seed) for seed in range(2, 6)) <= 0


# --- the comparison sees what is wrong -------------------------------------------------------------------------------


def is_seen(name: str, seeds: int = 12) -> bool:
    """Return whether the comparison fails for some graph."""
    for seed in range(seeds):
        try:
            if excess(name, seed) > 0:
                return True
        except (AssertionError, UnsupportedModelError):
            return True
    return False


ATTRIBUTES = [
    ("AveragePool", "count_include_pad"),
    ("AveragePool", "dilations"),
    ("Conv", "auto_pad"),
    ("ConvTranspose", "group"),
    ("ConvTranspose", "output_padding"),
    ("ConvTranspose, same", "auto_pad"),
    ("CumSum", "exclusive"),
    ("CumSum", "reverse"),
    ("DepthToSpace", "mode"),
    ("GatherND", "batch_dims"),
    ("Gemm", "alpha"),
    ("MaxPool", "ceil_mode"),
    ("Pad", "mode"),
    ("QuantizeLinear, channels", "axis"),
    ("ReduceSum", "keepdims"),
    ("Resize, linear", "coordinate_transformation_mode"),
    ("Resize, nearest", "nearest_mode"),
    ("Trilu", "upper"),
]


@pytest.mark.parametrize(("name", "attribute"), ATTRIBUTES)
def test_an_attribute_that_is_left_out_is_seen(name: str, attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = View.attribute

    def wrong(self: View, asked: str, default: Any) -> Any:
        return (1 if attribute == "axis" else default) if asked == attribute else right(self, asked, default)

    if attribute == "axis":
        monkeypatch.setattr(
            quantised, "along_axis", lambda array, axis, rank: array.mean(keepdims=True).reshape((1,) * rank)
        )
    monkeypatch.setattr(View, "attribute", wrong)
    assert is_seen(name)


def shifted(self: View, sources: Any, places: np.ndarray) -> None:
    PICKED(self, sources, np.roll(places, 1))


PICKED = View.picked


def without_reach(self: Rounded) -> float:
    return 0.0


def smaller(self: Bilinear, weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return self._function(weight, values) * 0.999


def in_other_places(self: Bilinear, rows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(len(rows), *shape, dtype=rows.dtype)


MUTATIONS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("GatherElements", View, "picked", shifted),
    ("ScatterND", View, "picked", shifted),
    ("Einsum", Bilinear, "apply", smaller),
    ("ConvTranspose", Bilinear, "transposed", in_other_places),
    ("Concat", Planted, "backward", lambda self, rows, descent: None),
    ("a token", Planted, "backward", lambda self, rows, descent: descent.add(rows.flatten(2).sum(2))),
]


@pytest.mark.parametrize(("name", "owner", "attribute", "change"), MUTATIONS)
def test_a_wrong_step_is_seen(
    name: str, owner: Any, attribute: str, change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, change)
    assert is_seen(name)


def test_coordinates_without_their_rounding_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "_ERROR", 0)
    assert is_seen("Resize, linear", 40)


# --- rounding to whole numbers ---------------------------------------------------------------------------------------


def test_both_neighbours_are_allowed_where_rounding_is_in_doubt() -> None:
    ends = torch.tensor([0.5, 1.5, -0.5, 0.49, 300.0], dtype=torch.float64)
    low, high = Rounded(0.0, 255.0).interval(ends, ends)
    assert low.tolist() == [0, 1, 0, 0, 255]
    assert high.tolist() == [1, 2, 0, 0, 255]


def test_nothing_is_known_of_a_cast_beyond_its_type() -> None:
    ends = torch.tensor([-0.9, 254.9, 256.0, -1.0], dtype=torch.float64)
    low, high = Rounded(0.0, 255.0, is_cut=True).interval(ends, ends)
    assert low.tolist() == [0, 254, -np.inf, -np.inf]
    assert high.tolist() == [0, 254, np.inf, np.inf]


ROUNDINGS = [Rounded(-20.0, 30.0, 7.0), Rounded(-40.0, 40.0, is_cut=True), Rounded(-np.inf, np.inf)]


@pytest.mark.parametrize("function", ROUNDINGS)
def test_lines_of_any_slope_enclose_a_rounding(function: Rounded) -> None:
    chance = torch.Generator().manual_seed(0)
    ends = (torch.randn(3000, 2, dtype=torch.float64, generator=chance) * 10).sort(dim=1).values
    ends[::3, 1] = ends[::3, 0] + 0.3
    lower, upper = ends[:, 0], ends[:, 1]
    points = lower + torch.linspace(0, 1, 201, dtype=torch.float64)[:, None] * (upper - lower)
    slopes = [function.slopes(lower, upper), tuple(torch.rand(2, 3000, dtype=torch.float64, generator=chance))]
    for doubt in (-1e-9, 1e-9):
        rounded = (points.trunc() if function.is_cut else (points + doubt).round()).clamp(function.least, function.most)
        seen = rounded + function.shift
        for below, above in slopes:
            least, most = function.offsets(lower, upper, below, above)
            assert bool((seen >= below * points + least).all())
            assert bool((seen <= above * points + most).all())


def test_lines_of_a_step_without_its_height_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rounded, "_reach", property(without_reach))
    with pytest.raises(AssertionError):
        test_lines_of_any_slope_enclose_a_rounding(ROUNDINGS[0])


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(net: Net) -> str:
    graph = read_graph(net.logits(), Path("net.onnx"))
    with pytest.raises(UnsupportedModelError) as caught:
        Proof(graph, SOURCE, net.shape, 3)
    return str(caught.value)


def fresh(*shape: int, opset: int = 18) -> Net:
    return Net(np.random.default_rng(0), shape, opset)


def test_whole_numbers_are_not_added_as_floats_are() -> None:
    net = fresh(4)
    net.add("Cast", to=TensorProto.INT32)
    net.add("Add", net.last, net.last)
    net.add("Cast", to=TensorProto.FLOAT)
    assert "expected float32, got int32" in refused(net)


def test_windows_that_runtimes_count_in_other_ways_are_refused() -> None:
    net = fresh(2, 5, 5)
    net.add("MaxPool", kernel_shape=[2, 2], strides=[3, 3], pads=[0, 0, 1, 1], ceil_mode=1)
    assert RUNTIMES_DIFFER in refused(net)


def test_a_nearest_entry_in_doubt_is_refused() -> None:
    net = fresh(1, 3, 5)
    scales = net.constant([1, 1, 1, 1.4], np.float32)
    net.add("Resize", net.last, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    assert "whole sizes" in refused(net)
    net = fresh(1, 3, 5)
    net.batch = 1
    net.add("Resize", net.last, "", "", net.whole(1, 1, 3, 15), mode="nearest", nearest_mode="ceil")
    assert "depends on the rounding" in refused(net)


def test_a_size_of_the_batch_is_no_number_to_compute_with() -> None:
    net = fresh(4)
    size = net.add("Gather", net.add("Shape", SOURCE), net.whole(0))
    net.add("Mul", SOURCE, net.add("Cast", size, to=TensorProto.FLOAT))
    assert "batch size to be used in shapes only" in refused(net)


def test_rows_of_all_images_are_not_added_to_others() -> None:
    net = fresh(3, 4)
    net.add("Reshape", SOURCE, net.whole(-1, 4))
    net.add("Add", net.last, net.floats(3, 4))  # which runs for one image
    net.add("Reshape", net.last, net.whole(-1, 3, 4))
    assert "the same constant for all rows" in refused(net)
    net = fresh(3, 4)
    net.add("Reshape", SOURCE, net.whole(-1, 4))
    net.add("ReduceSum", net.last, net.whole(0), keepdims=1)
    net.add("Expand", net.last, net.whole(3, 4))
    net.add("Reshape", net.last, net.whole(-1, 3, 4))
    assert "acts on each row alone" in refused(net)


def test_indices_outside_are_refused() -> None:
    net = fresh(4)
    net.add("Gather", SOURCE, net.whole(4), axis=1)
    net.add("Relu")
    assert "an index lies outside" in message_of(net)


def message_of(net: Net) -> str:
    model = net.model(net.last)
    with pytest.raises(UnsupportedModelError) as caught:
        Proof(read_graph(model, Path("net.onnx")), SOURCE, net.shape, 1)
    return str(caught.value)


def test_an_attribute_that_no_rule_asks_for_is_refused() -> None:
    net = fresh(4)
    net.add("Relu")
    model = net.logits()
    model.graph.node[0].attribute.append(helper.make_attribute("slope", 0.3))
    with pytest.raises(UnsupportedModelError, match="expected no attribute slope"):
        Proof(read_graph(model, Path("net.onnx")), SOURCE, net.shape, 3)
