"""Files made to be certified wrongly: no margin is proven, or told by a guard, where an evaluation mislabels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from guard_oracle import guard_margins
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph, read_graph

METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
LARGE = np.float32(2.0**26)
WHOLE = ("zero", "two", "swapped", "sizes", "axes", "whole", "unit", "less", "last", "end", "back")
"""Constants of type int64 in the graphs here."""


def single(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def net(nodes: Sequence[tuple[Any, ...]], inputs: int, **constants: Any) -> Graph:
    """Return a graph from (operator, inputs, output[, attributes]) and constants by name."""
    made = [
        helper.make_node(node[0], node[1].split(), [node[2]], node[2], **(node[3] if len(node) > 3 else {}))
        for node in nodes
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2]),
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(values, np.int64 if name in WHOLE else np.float32), name)
        for name, values in constants.items()
    ]
    model = helper.make_model(
        helper.make_graph(made, "trap", ends[:1], ends[1:], tensors),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return read_graph(model, Path("trap.onnx"))


def proven(graph: Graph, low: Any, high: Any, label: int = 0) -> list[float]:
    low, high = single([low]), single([high])
    proof = Proof(graph, "x", low.shape[1:], 2)
    box = torch.from_numpy(low), torch.from_numpy(high)
    quick = Proof(graph, "x", low.shape[1:], 2, torch.float32)
    found = [float(proof.margins(*box, torch.tensor([label]), method)) for method in METHODS]
    by_guard = float(guard_margins(graph, low, high, 2)[0, label])
    return [*found, float(quick.margins(*box, torch.tensor([label]), BoundMethod.IBP)), by_guard]


def swallowed_half(large: float) -> Graph:
    """Return relu(K t + 1/2) - relu(K t) against 1/4: 1/2 in real arithmetic, 0 where K t swallows it."""
    return net(
        [("Gemm", "x w b", "h"), ("Relu", "h", "r"), ("Gemm", "r v c", "logits")],
        1,
        w=[[large, large]],
        b=[0.5, 0],
        v=[[1, 0], [-1, 0]],
        c=[0, 0.25],
    )


@pytest.mark.parametrize("point", [1.0, 0.3])
def test_a_half_that_a_large_product_swallows_is_not_proven(point: float) -> None:
    t = single(point)
    assert (LARGE * t + single(0.5)) - LARGE * t < 0.25  # what float32 computes
    for low in (0.0, point):
        assert max(proven(swallowed_half(float(LARGE)), [low], [point])) <= 0


def test_the_half_is_proven_where_nothing_swallows_it() -> None:
    assert max(proven(swallowed_half(1.0), [0.4], [0.4])) > 0.2


@pytest.mark.parametrize("operators", [("Add", "Sub"), ("Sub", "Add")])
def test_a_detour_by_a_large_constant_is_not_proven(operators: tuple[str, str]) -> None:
    """(r + 2^25) - 2^25, and the other way round, loses r; folded before, it would be r."""
    first, second = operators
    graph = net(
        [
            ("Relu", "x", "r"),
            (first, "r k", "p"),
            (second, "p k", "q"),
            ("Gemm", "q v c", "logits"),
        ],
        1,
        k=[2.0**25],
        v=[[1, 0]],
        c=[0, 0.1],
    )
    assert (single(1) + single(2.0**25)) - single(2.0**25) == 0
    assert max(proven(graph, [1.0], [1.0])) <= 0


@pytest.mark.parametrize("weight", [100.0, 1e4, 1e6])
def test_a_sum_that_is_computed_twice_is_not_proven_equal(weight: float) -> None:
    """z = p + q as one dense node, and w (z - p - q) as a logit: 0 in real arithmetic."""
    chance = np.random.default_rng(0)
    first, second = single(chance.standard_normal((4, 1)) * 10), single(chance.standard_normal((4, 1)) * 10)
    rows = np.concatenate([first + second, first, second], axis=1)
    graph = net(
        [("Gemm", "x w b", "h"), ("Gemm", "h v c", "logits")],
        4,
        w=rows,
        b=[0, 0, 0],
        v=np.array([[weight, 0], [-weight, 0], [-weight, 0]]),
        c=[1e-5 * weight / 100, 0],
    )
    x = single(chance.uniform(1, 2, 4))
    computed = (x @ rows).astype(np.float32)
    error = abs(float(computed[0] - computed[1] - computed[2]))
    bounds = proven(graph, x, x)
    assert max(bounds) <= 1e-5 * weight / 100 - 0.5 * weight * error
    assert max(bounds) <= 0


def test_a_sum_that_depends_on_its_order_is_not_proven() -> None:
    """1 + 2^24 - 2^24 with ones: from the left 0, from the right 1."""
    graph = net([("Gemm", "x w b", "logits")], 3, w=np.array([[1, 0], [1, 0], [-1, 0]]), b=[0, 0.5])
    x = single([1, 2.0**25, -(2.0**25)])
    x[2] = 2.0**25
    assert (x[0] + x[1]) - x[2] == 0
    assert x[0] + (x[1] - x[2]) == 1
    assert max(proven(graph, x, x)) <= 0
    assert max(proven(graph, x, x, label=1)) <= 0


@pytest.mark.parametrize(
    "constants",
    [
        {"w": [[3e38, 0]], "v": [[1e-30, 0], [0, 1]]},  # the hidden value overflows
        {"w": [[2.0**100, 0]], "v": [[2.0**100, 0], [0, 1]]},  # the logit does
    ],
)
def test_overflow_claims_nothing(constants: dict[str, Any]) -> None:
    graph = net([("MatMul", "x w", "h"), ("Relu", "h", "r"), ("MatMul", "r v", "logits")], 1, **constants)
    assert proven(graph, [2.0], [2.0**30]) == [-np.inf] * 5


def test_partial_sums_that_overflow_claim_nothing() -> None:
    graph = net([("Gemm", "x w b", "logits")], 3, w=np.array([[3e38, 0], [3e38, 0], [-3e38, 0]]), b=[0, -1])
    assert proven(graph, [1.0] * 3, [1.0] * 3) == [-np.inf] * 5


def test_a_product_of_folded_weights_that_overflows_claims_nothing() -> None:
    """Folded, 2^100 x 2^100 is infinite; as it stands, the small input keeps it finite."""
    graph = net(
        [("MatMul", "x w", "h"), ("Mul", "h k", "m"), ("Add", "m c", "logits")],
        1,
        w=[[2.0**100, 0]],
        k=[2.0**100],
        c=[1, 0],
    )
    assert proven(graph, [2.0**-120], [2.0**-120]) == [-np.inf] * 5


def test_a_mean_whose_sum_overflows_claims_nothing() -> None:
    graph = net([("ReduceMean", "x", "m", {"axes": [1]}), ("MatMul", "m v", "logits")], 4, v=[[1, 0]])
    assert proven(graph, [1.5e38] * 4, [1.5e38] * 4) == [-np.inf] * 5


@pytest.mark.parametrize(("weights", "x"), [([-6, 0, 0], [1, 1, 1]), ([1, -1.0003, -1], [2**14, 1, 2**14])])
def test_an_activation_that_overflows_in_some_order_claims_nothing(weights: list[float], x: list[float]) -> None:
    """PRelu gives 3.402e38 times 1, or times 1.0003, which is infinite: the power that follows is 2e-10, or 0."""
    nodes = [("MatMul", "x w", "h"), ("PRelu", "h s", "p"), ("Pow", "p e", "r"), ("Gemm", "r v c", "logits")]
    graph = net(nodes, 3, w=np.array([weights]).T, s=[-3.402e38], e=-0.25, v=[[1e10, 1]], c=[0, 1])
    first, second, third = single(weights) * single(x)
    hidden = (first + second) + third, (first + third) + second
    assert float(min(hidden)) * -3.402e38 > float(np.finfo(np.float32).max)
    point, label = torch.tensor([x]).float(), torch.tensor([0])
    for kind in (torch.float64, torch.float32):
        proof = Proof(graph, "x", (3,), 2, kind)
        for bounds in (proof.margins_at, proof.margins_by_length, proof.linear_margins_at):
            assert float(bounds(point, label)) == -np.inf
    assert max(float(proof.margins(point, point, label, method)) for method in METHODS) == -np.inf


@pytest.mark.parametrize(("x", "is_known"), [(1e-12, True), (2.2e-13, False)])
def test_a_power_below_0_whose_product_may_be_flushed_claims_nothing(x: float, is_known: bool) -> None:
    """One over x x x is infinite, not 9e37, where the product, 1.06e-38, is flushed to 0."""
    nodes = [("Pow", "x e", "r"), ("Mul", "r small", "s"), ("Gemm", "s v c", "logits")]
    graph = net(nodes, 1, e=-3.0, small=1e-37, v=[[1, 0]], c=[0, -99])
    assert (max(proven(graph, [x], [x])) > 0) == is_known


@pytest.mark.parametrize("weight", [1.0, 2e38])
def test_a_constant_that_is_summed_alone_is_refused(weight: float) -> None:
    """onnxruntime sums the constant first, which may overflow; and an entry meets more than one weight of a sum."""
    nodes = [
        ("Reshape", "x sizes", "r"),
        ("Einsum", "r w", "e", {"equation": "abi,ij->ab"}),
        ("Relu", "e", "p"),
        ("Gemm", "p v c", "logits"),
    ]
    graph = net(nodes, 2, sizes=[-1, 1, 2], w=np.full((2, 4), weight), v=[[1, 0]], c=[0, 0.5])
    with pytest.raises(UnsupportedModelError, match="of the constant alone"):
        proven(graph, [1e-30] * 2, [1e-30] * 2)


@pytest.mark.parametrize("width", [0.0, 1.0])
def test_subnormal_numbers_that_are_flushed_are_not_proven_positive(width: float) -> None:
    """A hidden value of 2^-130, times 2^120 twice, is 2^110 or, flushed, 0."""
    graph = net(
        [
            ("MatMul", "x w", "h"),
            ("Relu", "h", "r"),
            ("MatMul", "r v", "s"),
            ("Relu", "s", "t"),
            ("Gemm", "t y c", "logits"),
        ],
        1,
        w=[[2.0**-100]],
        v=[[2.0**120]],
        y=[[2.0**100, 0]],
        c=[0, 1.0],
    )
    point = 2.0**-30
    assert max(proven(graph, [point], [point * (1 + width)])) <= 0


@pytest.mark.parametrize("operator", ["Relu", "LeakyRelu", "Clip"])
def test_an_activation_that_flushes_is_not_proven_positive(operator: str) -> None:
    graph = net(
        [(operator, "x", "r"), ("MatMul", "r v", "s"), ("Gemm", "s y c", "logits")],
        1,
        v=[[2.0**100]],
        y=[[2.0**27, 0]],
        c=[0, 0.25],
    )
    assert max(proven(graph, [2.0**-127], [2.0**-127])) <= 0


@pytest.mark.parametrize(
    ("operator", "attributes", "x"),
    [
        ("Relu", {}, [2.0**-127, 0]),
        ("LeakyRelu", {"alpha": 0.5}, [2.0**-127, 0]),
        ("LeakyRelu", {"alpha": 0.5}, [0, -(2.0**-126)]),
    ],
)
def test_logits_that_an_activation_flushes_are_not_proven_apart(
    operator: str, attributes: dict[str, Any], x: list[float]
) -> None:
    """A subnormal logit, or one of half the least normal number, is 0 as the other one is."""
    assert max(proven(net([(operator, "x", "logits", attributes)], 2), x, x)) <= 0


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_infinite_weights_are_refused(value: float) -> None:
    graph = net([("MatMul", "x w", "logits")], 1, w=[[value, 0]])
    with pytest.raises(UnsupportedModelError, match="infinite or NaN"):
        Proof(graph, "x", (1,), 2)


@pytest.mark.parametrize("divisor", [0.0, 2.0**-127])
def test_divisors_that_may_be_zero_are_refused(divisor: float) -> None:
    graph = net([("MatMul", "x w", "h"), ("Div", "h d", "logits")], 1, w=[[1, 0]], d=[divisor])
    with pytest.raises(UnsupportedModelError, match="divisors"):
        Proof(graph, "x", (1,), 2)


def test_constants_are_computed_with_roundings() -> None:
    """(1 + 2^25) - 2^25 on constants alone is 0 in float32."""
    graph = net(
        [
            ("Add", "one k", "p"),
            ("Sub", "p k", "q"),
            ("MatMul", "x w", "h"),
            ("Add", "h q", "s"),
            ("Mul", "s v", "logits"),
        ],
        1,
        one=[1.0],
        k=[2.0**25],
        w=[[0, 0]],
        v=[1, 0.5],
    )
    assert max(proven(graph, [0.0], [0.0])) <= 0


@pytest.mark.parametrize("slope", [-7.0, 0.0, 0.3, 50.0])
def test_any_lower_slopes_are_sound(slope: float) -> None:
    chance = np.random.default_rng(0)
    weights = [single(chance.standard_normal(shape)) for shape in ((3, 6), (6, 2))]
    graph = net(
        [("Gemm", "x w b", "h"), ("Relu", "h", "r"), ("MatMul", "r v", "logits")],
        3,
        w=weights[0],
        b=np.zeros(6),
        v=weights[1],
    )
    proof = Proof(graph, "x", (3,), 2)
    points = single(chance.uniform(-1, 1, (500, 3)))
    hidden = np.maximum(points.astype(np.float64) @ weights[0].astype(np.float64), 0)
    logits = hidden @ weights[1].astype(np.float64)
    least = (logits[:, 0] - logits[:, 1]).min()
    low = torch.full((1, 3), -1.0)
    for shape in ((1, 6), (1, 1, 6)):
        given = {"h": torch.full(shape, slope, dtype=torch.float64)}
        bound = float(proof.margins(low, -low, torch.tensor([0]), BoundMethod.CROWN, given))
        assert -1000 < bound <= least + 1e-9


# --- sizes of the batch ----------------------------------------------------------------------------------------------


def test_the_size_of_the_batch_in_another_place_is_no_size_of_an_image() -> None:
    """The file gives x0 + 1 and x1 for one image; read as images apart, x0 + 1 and x0."""
    nodes = [
        ("Shape", "x", "s"),
        ("Gather", "s zero", "batch"),
        ("Concat", "two batch", "turned", {"axis": 0}),
        ("Reshape", "x turned", "r"),  # [2, 1] for one image
        ("Gather", "r zero", "g", {"axis": 1}),
        ("Shape", "g", "t"),
        ("Gather", "t swapped", "back"),
        ("Reshape", "g back", "q"),  # [1, 2]
        ("Add", "q c", "logits"),
    ]
    with pytest.raises(UnsupportedModelError, match="keeps the batch apart"):
        proven(net(nodes, 2, zero=[0], two=[2], swapped=[1, 0], c=[[1, 0]]), [0, 0], [1, 5])


def test_the_size_of_the_batch_picks_nothing() -> None:
    """The file takes the shape [-1, 1, 2] for one image, the last one where -1 stands for the batch."""
    nodes = [
        ("Shape", "x", "s"),
        ("Gather", "s zero", "batch"),
        ("Gather", "sizes batch", "target"),
        ("Reshape", "x target", "r"),
        ("ReduceSum", "r axes", "t", {"keepdims": 0}),
        ("Add", "t c", "logits"),
    ]
    sizes = [[-1, 2, 1], [-1, 1, 2], [-1, 2, 1]]
    with pytest.raises(UnsupportedModelError, match="in shapes only"):
        proven(net(nodes, 2, zero=0, sizes=sizes, axes=[1], c=[[1, 0]]), [0, 0], [1, 5])


def test_whole_numbers_are_divided_exactly_or_not_at_all() -> None:
    """(2^60 + 1) / 1 - 2^60 is 1, and 0 in float64."""
    nodes = [
        ("Div", "whole unit", "d"),
        ("Sub", "d less", "f"),
        ("Cast", "f", "k", {"to": TensorProto.FLOAT}),
        ("MatMul", "x w", "h"),
        ("Mul", "h k", "m"),
        ("Sub", "c m", "logits"),
    ]
    graph = net(nodes, 1, whole=2**60 + 1, unit=1, less=2**60, w=[[1, 0]], c=[0.5, 0])
    with pytest.raises(UnsupportedModelError, match="whole numbers"):
        proven(graph, [1], [1])


def test_a_slice_backward_to_beyond_the_last_entry_is_refused() -> None:
    """Runtimes give nothing, or where the end is the largest int64 all entries; the sum would be 0 or x0 + x1."""
    nodes = [
        ("Slice", "x last end axes back", "s"),
        ("ReduceSum", "s axes", "t"),
        ("Mul", "t w", "logits"),
    ]
    graph = net(nodes, 2, last=[1], end=[2**62 + 1], axes=[1], back=[-1], w=[[1, 0]])
    with pytest.raises(UnsupportedModelError, match="slice backward"):
        proven(graph, [1, 1], [1, 1])


def test_numbers_that_do_not_fit_their_type_are_refused() -> None:
    """Runtimes may give the least int32, the largest or any other."""
    nodes = [
        ("Cast", "large", "n", {"to": TensorProto.INT32}),
        ("Cast", "n", "k", {"to": TensorProto.FLOAT}),
        ("MatMul", "x w", "h"),
        ("Mul", "h k", "logits"),
    ]
    with pytest.raises(UnsupportedModelError, match="fit int32"):
        proven(net(nodes, 1, large=3e9, w=[[-1, 0]]), [1], [1])
