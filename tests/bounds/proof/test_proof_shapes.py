"""Operators that move entries, are affine, pool or round: enclosures and margins against onnxruntime."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import moving_graphs as moving
import numpy as np
import pytest
import summing_graphs as summing
import torch
from onnx import TensorProto, helper
from sampled_graphs import SOURCE, Net, sampled, session, values_of

from abscert_plugin.blackbox import BlackBox, Provider
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
    assert max(excess(name, seed) for seed in range(2, 4)) <= 0


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
    ("LpPool", "p"),
    ("MaxPool", "ceil_mode"),
    ("Pad", "mode"),
    ("QuantizeLinear, channels", "axis"),
    ("ReduceSum", "keepdims"),
    ("Resize, cubic", "cubic_coeff_a"),
    ("Resize, cubic", "exclude_outside"),
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


def of_steep_lines() -> float:
    """Return the excess where entries far from the first differ as much as they can from those beside them."""
    net = fresh(1, 1, 300)
    net.batch = 1
    net.add("Mul", net.last, net.constant(np.resize([1, -1], 300), np.float32))
    net.add("Resize", net.last, "", "", net.whole(1, 1, 1, 700), mode="linear")
    return sampled(net.logits(), net.random, 0.5, 1.0).excess


def test_coordinates_without_their_rounding_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_steep_lines() <= 0
    monkeypatch.setattr(resizing, "_ERROR", Fraction(0))
    assert of_steep_lines() > 1e-6


def test_a_curve_that_is_a_little_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = resizing._Curve.__init__
    monkeypatch.setattr(
        resizing._Curve, "__init__", lambda self, share, *more: right(self, lambda at: share(at) * 99 / 100, *more)
    )
    assert is_seen("Resize, cubic")


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


def quantised_twice(*scales: float) -> Net:
    net = fresh(4)
    for scale in scales:
        given, zero = net.constant(scale, np.float32), net.constant(3, np.uint8)
        net.add("QuantizeLinear", net.last, given, zero)
        net.add("DequantizeLinear", net.last, given, zero)
        net.add("Identity")
    return net


def test_a_quantisation_that_onnxruntime_leaves_out_is_refused() -> None:
    assert "quantised by another scale" in refused(quantised_twice(0.02, 0.013))
    random = np.random.default_rng(0)
    assert sampled(quantised_twice(0.02, 0.02).logits(), random).excess <= 0


def test_quantised_files_are_run_as_their_graph_says(tmp_path: Path) -> None:
    """By default onnxruntime would quantise what a quantised matrix is multiplied with."""
    random = np.random.default_rng(0)
    net = Net(random, (1, 8, 18), 13)
    flat = net.add("Flatten")
    whole = net.constant(random.integers(-100, 100, (144, 5)), np.int8)
    weight = net.add("DequantizeLinear", whole, net.constant(0.01, np.float32), net.constant(0, np.int8))
    net.add("MatMul", flat, weight)
    model, points = net.model(net.last), random.random((1, 1, 8, 18), dtype=np.float32)
    path = tmp_path / "quantised.onnx"
    path.write_bytes(model.SerializeToString())
    expected = values_of(session(model, False), points)[net.last]
    np.testing.assert_allclose(BlackBox(path, Provider.CPU).run(points), expected, rtol=1e-4, atol=1e-4)


def test_a_pad_that_onnxruntime_joins_with_a_pool_is_refused() -> None:
    for operator, pads in (("MaxPool", [0] * 4), ("AveragePool", [1] * 4)):
        net = fresh(1, 4, 4)
        net.add("Pad", net.last, net.whole(0, 0, 1, 1, 0, 0, 1, 1))
        net.add(operator, kernel_shape=[3, 3], pads=pads)
        assert "expected no Pad before it" in refused(net)
    random = np.random.default_rng(0)
    net = Net(random, (1, 4, 4))
    net.add("Relu")
    net.add("Pad", net.last, net.whole(0, 0, 1, 1, 0, 0, 1, 1))
    net.add("MaxPool", kernel_shape=[3, 3])
    assert sampled(net.logits(), random).excess <= 0


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


def test_an_input_of_half_precision_is_refused() -> None:
    net = fresh(4)
    net.kind = TensorProto.FLOAT16
    net.add("Cast", to=TensorProto.FLOAT)
    assert "got float16" in refused(net)


def test_a_repetition_along_another_axis_by_the_batch_is_refused() -> None:
    net = fresh(1, 3)
    batch = net.add("Gather", net.add("Shape", SOURCE), net.whole(0))
    net.add("Expand", SOURCE, net.add("Concat", net.whole(1), batch, net.whole(3), axis=0))
    net.add("ReduceSum", net.last, net.whole(1))
    assert "keeps the batch first" in refused(net)


def test_lines_between_entries_hold_for_differences_too() -> None:
    """Where a large entry is all but replaced by a small one, a + (b - a) f is rounded by what a is large."""
    net = fresh(1, 1, 2)
    net.batch = 1
    scales = net.constant([1, 1, 1, 256], np.float32)
    net.add("Resize", SOURCE, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    name = net.last
    proof = Proof(read_graph(net.logits(), Path("net.onnx")), SOURCE, net.shape, 3)
    share = np.float32((383 + 0.5) / 256 - 0.5)
    for numerator in range(1, 50):
        first, second = np.float32(1e8 / numerator), np.float32(1 / 3)
        point = torch.tensor([[[[float(first), float(second)]]]])
        lower, upper = proof.intervals(point, point)[name].computed()
        between = float(first + (second - first) * share)
        assert float(lower[0, 0, 0, 383]) <= between <= float(upper[0, 0, 0, 383])


def test_an_attribute_of_empty_axes_says_nothing_of_others() -> None:
    net = fresh(3, 4)
    net.add("ReduceMax", net.last, net.whole(2), noop_with_empty_axes=1)
    assert sampled(net.logits(), np.random.default_rng(0)).excess <= 0


def test_which_of_several_largest_is_meant_does_not_matter() -> None:
    net = fresh(3, 4)
    net.add("ArgMax", axis=2, select_last_index=1)
    net.add("Cast", to=TensorProto.FLOAT)
    assert sampled(net.logits(), np.random.default_rng(0)).excess <= 0


def test_an_axis_of_one_entry_may_be_read_backward() -> None:
    net = Net(np.random.default_rng(0), (1, 4, 4))
    net.add("Slice", net.last, net.whole(0), net.whole(-(2**62)), net.whole(1), net.whole(-1))
    assert sampled(net.logits(), net.random).excess <= 0
