"""What onnxruntime fuses: a factor in front of a matrix product that goes behind it, and functions spelled out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.bounds.parts import PartBounds
from abscert_plugin.bounds.proof import Proof, arithmetic
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.proof import margin_rows
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import read_graph

Nodes = Sequence[tuple[Any, ...]]
POINT = np.array([[0.75, 0.5, 1.0, 0.25]], np.float32)


def model(nodes: Nodes, opset: int = 18, **constants: Any) -> onnx.ModelProto:
    """Return a file that takes 4 numbers an image, from (operator, inputs, output[, attributes])."""
    made = [
        helper.make_node(node[0], node[1].split(), [node[2]], node[2], **(node[3] if len(node) > 3 else {}))
        for node in nodes
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 4), ("logits", 2))
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(values, np.int64 if isinstance(values, list) else np.float32), name)
        for name, values in constants.items()
    ]
    graph = helper.make_graph(made, "fused", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(file: onnx.ModelProto, points: np.ndarray, is_fused: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not is_fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"x": points})[0]
    return logits


def operators(file: onnx.ModelProto, tmp_path: Path) -> set[str]:
    """Return the operators that onnxruntime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}


def scaled_product(small: int, other: int, before: int, behind: int, last: int, is_constant: bool) -> onnx.ModelProto:
    """Return (2^before a) b 2^behind 2^last, where a = 2^small relu(x) and b = 2^other relu(x) or a constant matrix.

    What is multiplied last is held before, so that no runtime takes that factor along.
    """
    nodes: list[tuple[Any, ...]] = [("Mul", "x es", "u"), ("Relu", "u", "a")]
    if is_constant:
        nodes += [("Mul", "a eb", "s"), ("MatMul", "s k", "p")]
    else:
        nodes += [("Mul", "x eo", "v"), ("Relu", "v", "w"), ("Reshape", "w matrix", "b"), ("Reshape", "a row", "r")]
        nodes += [("Mul", "r eb", "s"), ("MatMul", "s b", "p")]
    nodes += [("Mul", "p eh", "q"), ("Relu", "q", "h"), ("Mul", "h el", "y"), ("Flatten", "y", "f")]
    nodes += [("Slice", "f zero two one", "logits")]
    powers = {"es": small, "eo": other, "eb": before, "eh": behind, "el": last}
    constants: dict[str, Any] = {name: 2.0**power for name, power in powers.items()}
    constants |= {"k": np.full((4, 2), 2.0**other), "row": [0, 2, 2], "matrix": [0, 2, 2]}
    constants |= {"zero": [0], "two": [2], "one": [1]}
    used = {name for node in nodes for name in node[1].split()}
    return model(nodes, **{name: value for name, value in constants.items() if name in used})


def known(file: onnx.ModelProto, points: np.ndarray = POINT) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends that a proof knows of the logits at points."""
    at = torch.from_numpy(points)
    lower, upper = Proof(read_graph(file, Path("fused.onnx")), "x", (4,), 2).intervals(at, at)["logits"].computed()
    return lower.numpy(), upper.numpy()


def is_covered(file: onnx.ModelProto, is_fused: bool) -> bool:
    logits = run(file, POINT, is_fused)
    lower, upper = known(file)
    return bool(((lower <= logits) & (logits <= upper) | (~np.isfinite(lower) & np.isnan(logits))).all())


CASES = {
    # powers of two: of a, of b, in front of the product, behind it, and last
    "the product overflows where its factor comes behind": (70, 62, -100, 0, -30),
    "the product underflows where its factor comes behind": (-80, -80, 60, 40, 60),
    "both are in range": (2, 3, -4, 1, 0),
}


@pytest.mark.parametrize("is_constant", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_factor_in_front_of_a_product_may_come_behind_it(name: str, is_constant: bool, tmp_path: Path) -> None:
    file = scaled_product(*CASES[name], is_constant)
    assert "FusedMatMul" in operators(file, tmp_path)
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)
    differ = not np.array_equal(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False))
    assert differ == (name != "both are in range")
    lower, upper = known(file)
    assert bool((np.isfinite(lower) & (upper - lower < 1e-5 * upper)).all()) == (name == "both are in range")


def test_it_does_in_front_of_sums_of_one_product_too() -> None:
    nodes = (
        ("MatMul", "x column", "c"),
        ("Mul", "c es", "u"),
        ("Relu", "u", "a"),
        ("Mul", "a eb", "s"),
        ("MatMul", "s k", "p"),
        ("Relu", "p", "h"),
        ("Mul", "h el", "logits"),
    )
    powers: dict[str, Any] = {"es": 2.0**70, "eb": 2.0**-100, "k": np.full((1, 2), 2.0**62), "el": 2.0**-30}
    file = model(nodes, column=np.full((4, 1), 0.5), **powers)
    assert not np.isfinite(run(file, POINT, is_fused=True)).all()
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)


@settings(max_examples=20)
@given(st.tuples(*[st.integers(-100, 100)] * 5), st.booleans())
def test_whatever_the_factors_every_evaluation_is_covered(
    powers: tuple[int, int, int, int, int], is_constant: bool
) -> None:
    file = scaled_product(*powers, is_constant)
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)


def without_gain_in_underflow(self: Affine, before: Any, reach: Any, gain: float = 1.0) -> Any:
    del gain
    return UNDERFLOW(self, before, reach)


def without_peak(self: Enclosure, peak: float = 1.0, top: float = arithmetic.LARGEST) -> Enclosure:
    del peak
    return CHECKED(self, 1.0, top)


UNDERFLOW, CHECKED = Affine.underflow_after, Enclosure.checked
MUTATIONS: dict[str, tuple[Any, str, Callable[..., Any], str, bool]] = {
    "underflow of a chain": (Affine, "underflow_after", without_gain_in_underflow, "underflows", True),
    "overflow of a chain": (Enclosure, "checked", without_peak, "overflows", True),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_proof_that_leaves_it_out_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, changed, what, is_constant = MUTATIONS[name]
    monkeypatch.setattr(owner, attribute, changed)
    case = next(powers for told, powers in CASES.items() if what in told)
    assert not is_covered(scaled_product(*case, is_constant), is_fused=True)


def test_values_that_are_multiplied_have_drafts_of_parts() -> None:
    file = scaled_product(0, 0, 0, 0, 0, is_constant=False)
    proof = Proof(read_graph(file, Path("fused.onnx")), "x", (4,), 2)
    values = proof.intervals(torch.from_numpy(POINT - 1), torch.from_numpy(POINT), refined=True)
    bounds = PartBounds(proof, values, margin_rows(torch.tensor([0]), 2)[0])
    drafts = bounds.improved([bounds.whole()], np.ones((1, 1), dtype=bool), 2)
    assert float(bounds.proven(drafts.parts)[0, 0]) >= float(drafts.bounds[0, 0]) - 1e-4 > -10


# --- functions that are spelled out ----------------------------------------------------------------------------------


def gelu(root: float = 2**0.5, one: float = 1.0, half: float = 0.5) -> onnx.ModelProto:
    nodes = (
        ("Div", "x root", "d"),
        ("Erf", "d", "e"),
        ("Add", "e one", "a"),
        ("Mul", "x a", "m"),
        ("Mul", "m half", "g"),
        ("MatMul", "g w", "logits"),
    )
    return model(nodes, root=root, one=one, half=half, w=np.eye(4, 2))


def by_tanh(cube: float = 0.044715, root: float = 0.7978845608, three: float = 3.0) -> onnx.ModelProto:
    nodes = (
        ("Pow", "x three", "c"),
        ("Mul", "c cube", "d"),
        ("Add", "x d", "e"),
        ("Mul", "e root", "f"),
        ("Tanh", "f", "t"),
        ("Add", "t one", "a"),
        ("Mul", "x half", "h"),
        ("Mul", "h a", "g"),
        ("MatMul", "g w", "logits"),
    )
    return model(nodes, cube=cube, root=root, three=three, one=1.0, half=0.5, w=np.eye(4, 2))


NEARLY = {
    "the root of Gelu": gelu(root=2**0.5 * (1 + 4e-6)),
    "the one of Gelu": gelu(one=1 - 8e-6),
    "the half of Gelu": gelu(half=0.5 - 4e-6),
    "the cube of Gelu by tanh": by_tanh(cube=0.044715 * (1 - 8e-6)),
    "the root of Gelu by tanh": by_tanh(root=0.7978845608 * (1 + 8e-6)),
    "the power of Gelu by tanh": by_tanh(three=3 + 1e-5),
}


@pytest.mark.parametrize("name", NEARLY)
def test_a_number_that_is_nearly_one_of_a_known_function_has_no_proof(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="is nearly"):
        known(NEARLY[name])


@pytest.mark.parametrize("file", [gelu(), by_tanh(), gelu(root=1.5), gelu(half=0.625)])
def test_known_functions_and_others_are_covered(file: onnx.ModelProto) -> None:
    assert is_covered(file, is_fused=True)
    assert is_covered(file, is_fused=False)


def test_onnxruntime_takes_one_for_the_other(tmp_path: Path) -> None:
    assert "Gelu" in operators(NEARLY["the half of Gelu"], tmp_path)
    assert "Gelu" not in operators(gelu(half=0.625), tmp_path)


def spelled_out(*nothing: Any, **constants: Any) -> onnx.ModelProto:
    """Return layer normalisation of x + 100 by plain nodes, with a node that does nothing before the square."""
    more = [(nothing[0], " ".join(["d0", *constants]), "d")] if nothing else []
    nodes = (
        ("Add", "x far", "f"),
        ("ReduceMean", "f axes", "m", {"keepdims": 1}),
        ("Sub", "f m", "d0"),
        *more,
        ("Pow", "d two" if nothing else "d0 two", "s"),
        ("ReduceMean", "s axes", "v", {"keepdims": 1}),
        ("Add", "v eps", "e"),
        ("Sqrt", "e", "r"),
        ("Div", "d r" if nothing else "d0 r", "n"),
        ("MatMul", "n w", "logits"),
    )
    return model(nodes, far=100.0, axes=[-1], two=2.0, eps=0.1, w=np.eye(4, 2), **constants)


@pytest.mark.parametrize(
    ("nothing", "constants"),
    [("Identity", {}), ("Mul", {"unit": 1.0}), ("Add", {"zero": 0.0}), ("Reshape", {"same": [0, 4]})],
)
def test_what_does_nothing_does_not_hide_a_variance(nothing: str, constants: dict[str, Any]) -> None:
    plain, hidden = known(spelled_out()), known(spelled_out(nothing, **constants))
    widths = [upper - lower for lower, upper in (plain, hidden)]
    assert (widths[1] >= widths[0] * (1 - 1e-9)).all()
    assert (widths[1] <= widths[0] * 2).all()
    assert is_covered(spelled_out(nothing, **constants), is_fused=True)


NORMALISED: dict[str, tuple[str, str, str]] = {
    "epsilon first": ("f m", "eps v", "d r"),
    "a vector of epsilons": ("f m", "v many", "d r"),
    "an epsilon of the input": ("f m", "v m", "d r"),
    "the mean less the input": ("m f", "v eps", "d r"),
    "the root over the difference": ("f m", "v eps", "r d"),
}


def normalised(difference: str, total: str, quotient: str, power: float = 2.0) -> onnx.ModelProto:
    nodes = (
        ("Add", "x far", "f"),
        ("ReduceMean", "f axes", "m", {"keepdims": 1}),
        ("Sub", difference, "d"),
        ("Pow", "d two", "s"),
        ("ReduceMean", "s axes", "v", {"keepdims": 1}),
        ("Add", total, "e"),
        ("Sqrt", "e", "r"),
        ("Div", quotient, "n"),
        ("MatMul", "n w", "logits"),
    )
    more = {"many": np.array([0.1, 0.2, 0.3, 0.4])} if "many" in total else {"eps": 0.1} if "eps" in total else {}
    return model(nodes, far=100.0, axes=[-1], two=power, w=np.eye(4, 2), **more)


@pytest.mark.parametrize("name", NORMALISED)
def test_what_is_taken_for_a_normalisation_and_is_none_has_no_proof(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="in this order"):
        known(normalised(*NORMALISED[name]))


def test_another_power_is_no_variance() -> None:
    with pytest.raises(UnsupportedModelError, match="in this order"):
        known(normalised("f m", "v eps", "d r", power=4.0))
    assert is_covered(normalised("f m", "v eps", "d r"), is_fused=True)


# --- nodes that runtimes join, with others between that they leave out ------------------------------------------------

NOTHING: dict[str, tuple[str, dict[str, Any]]] = {
    "Identity": ("a", {}),
    "Add": ("a zero", {"zero": 0.0}),
    "Sub": ("a zero", {"zero": 0.0}),
    "Mul": ("unit a", {"unit": 1.0}),
    "Div": ("a unit", {"unit": 1.0}),
    "Expand": ("a same", {"same": [1, 1]}),
}


def quantised_twice(nothing: str) -> onnx.ModelProto:
    inputs, constants = NOTHING[nothing]
    nodes = (
        ("QuantizeLinear", "x s", "q"),
        ("DequantizeLinear", "q s", "a"),
        (nothing, inputs, "b"),
        ("QuantizeLinear", "b t", "p"),
        ("DequantizeLinear", "p t", "y"),
        ("MatMul", "y w", "logits"),
    )
    return model(nodes, s=0.03, t=0.05, w=np.eye(4, 2), **constants)


def pooled_pad(nothing: str = "Identity", first: str = "Neg", padding: int = 1, **pool: Any) -> onnx.ModelProto:
    inputs, constants = NOTHING[nothing]
    constants = {**constants, **({"same": [1, 1, 1, 1]} if "same" in constants else {})}
    nodes = (
        ("Reshape", "x image", "i"),
        (first, "i", "n"),
        ("Pad", "n around", "a"),
        (nothing, inputs, "b"),
        ("MaxPool", "b", "p", {"kernel_shape": [2, 2], **pool}),
        ("ReduceMax", "p axes", "f", {"keepdims": 0}),
        ("MatMul", "f w", "logits"),
    )
    around = [0, 0, padding, padding] * 2
    return model(nodes, image=[0, 1, 2, 2], around=around, axes=[2, 3], w=np.ones((1, 2)), **constants)


@pytest.mark.parametrize("nothing", NOTHING)
def test_what_does_nothing_keeps_no_nodes_apart(nothing: str) -> None:
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(quantised_twice(nothing))
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(pooled_pad(nothing))


def test_a_pad_behind_a_relu_is_joined_where_each_window_holds_a_number() -> None:
    wide: tuple[dict[str, Any], ...] = ({"dilations": [3, 3]}, {"pads": [1, 1, 1, 1]}, {"padding": 2})
    for options in wide:
        with pytest.raises(UnsupportedModelError, match="joins them"):
            known(pooled_pad(first="Relu", **options))
    for file in (pooled_pad(first="Relu"), pooled_pad("Mul", first="Relu")):
        assert is_covered(file, is_fused=True)


# --- kernels that compute in their own order --------------------------------------------------------------------------


def by_kernel(operator: str, *constants: float, scale: float = 1.0, **attributes: Any) -> onnx.ModelProto:
    """Return a normalisation of x as 4 channels (LRN) or as one, times a number."""
    nodes = (
        ("Reshape", "x image", "i"),
        (operator, " ".join(["i", *("st"[: len(constants)])]), "n", attributes),
        ("Mul", "n scale", "m"),
        ("Flatten", "m", "f"),
        ("MatMul", "f w", "logits"),
    )
    image = [0, 4, 1, 1] if operator == "LRN" else [0, 1, 1, 4]
    given = {name: [value] for name, value in zip("st", constants, strict=False)}
    floats: dict[str, Any] = {name: np.array(value, np.float32) for name, value in given.items()}
    return model(nodes, image=image, scale=scale, w=np.eye(4, 2, k=-2), **floats)


@pytest.mark.parametrize("first", [1.0, 1e3, 1e4])
@pytest.mark.parametrize("last", [1e-3, 1.0, 30.0])
def test_sums_of_squares_run_from_channel_to_channel(first: float, last: float) -> None:
    points = np.array([[first, 0.5, 0.3, last], [first, first, last, last]], np.float32)
    file = by_kernel("LRN", size=3, alpha=1.0, bias=1.0, beta=0.75)
    logits, (lower, upper) = run(file, points, is_fused=True), known(file, points)
    assert not ((logits < lower) | (logits > upper)).any()  # where the base may be below 0, nothing is known


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6, 1e-8])
def test_a_kernel_adds_nothing_to_the_deviation(size: float) -> None:
    points = np.array([[1, 2, 4, 5]], np.float32) * np.float32(size)
    file = by_kernel("MeanVarianceNormalization", axes=[2, 3])
    logits, (lower, upper) = run(file, points, is_fused=True), known(file, points)
    assert not ((logits < lower) | (logits > upper)).any()


def test_a_kernel_multiplies_the_input_by_the_scale_first() -> None:
    for scale in (2e37, 1e-29):
        with pytest.raises(UnsupportedModelError, match="moderate size"):
            known(by_kernel("InstanceNormalization", scale, 0.0, scale=1 / scale))
    file = by_kernel("InstanceNormalization", 2.0, 0.5)
    for size, is_known in ((1.0, True), (1e17, False)):
        points = np.array([[1, 2, -1, 3]], np.float32) * np.float32(size)
        logits, (lower, upper) = run(file, points, is_fused=True), known(file, points)
        assert not ((logits < lower) | (logits > upper)).any()
        assert np.isfinite(lower).all() == is_known
