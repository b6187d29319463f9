"""Functions that onnxruntime recognises in plain nodes, nodes that it joins, and kernels with an order of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fused_files import HEADS, POINT, doing_nothing, is_covered, known, model, operators, run
from fused_files import NORMALISED as OF_LAST

from abscert_plugin.errors import UnsupportedModelError


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


NORMALISED: dict[str, tuple[str, str, str]] = {
    "epsilon first": ("f m", "eps v", "d r"),
    "a vector of epsilons": ("f m", "v many", "d r"),
    "an epsilon of the input": ("f m", "v m", "d r"),
    "the mean less the input": ("m f", "v eps", "d r"),
    "the root over the difference": ("f m", "v eps", "r d"),
}


def normalised(
    difference: str = "f m",
    total: str = "v eps",
    quotient: str = "d r",
    power: float = 2.0,
    nothing: str = "",
    epsilon: float = 0.1,
    squared: str = "",
) -> onnx.ModelProto:
    """Return layer normalisation of x + 100 by plain nodes.

    Args:
        difference, total, quotient: what Sub, Add and Div read.
        power: of the difference.
        nothing: an operator that does nothing behind the difference.
        epsilon: what is added to the variance.
        squared: what another Sub reads, of which the variance is made.
    """
    between, constants = doing_nothing(nothing, "d0", "d") if nothing else (None, {})
    nodes = (
        ("Add", "x far", "f"),
        ("ReduceMean", "f axes", "m", {"keepdims": 1}),
        ("Sub", difference, "d0" if nothing else "d"),
        *([between] if between else []),
        *([("Sub", squared, "d2")] if squared else []),
        ("Pow", "d2 two" if squared else "d two", "s"),
        ("ReduceMean", "s axes", "v", {"keepdims": 1}),
        ("Add", total, "e"),
        ("Sqrt", "e", "r"),
        ("Div", quotient, "n"),
        ("MatMul", "n w", "logits"),
    )
    constants |= {"many": epsilon * np.arange(1, 5)} if "many" in total else {}
    constants |= {"eps": epsilon} if "eps" in total else {}
    return model(nodes, far=100.0, axes=[-1], two=power, w=np.eye(4, 2), **constants)


@pytest.mark.parametrize("epsilon", [0.1, 1e-5, 1e-12])
@pytest.mark.parametrize("name", NORMALISED)
def test_what_is_taken_for_a_normalisation_and_is_none_has_no_proof(name: str, epsilon: float) -> None:
    with pytest.raises(UnsupportedModelError, match="in this order"):
        known(normalised(*NORMALISED[name], epsilon=epsilon))


@pytest.mark.parametrize(("difference", "squared"), [("m f", "f m"), ("f m", "m f")])
def test_what_is_squared_and_what_is_divided_may_be_two_differences(difference: str, squared: str) -> None:
    with pytest.raises(UnsupportedModelError, match="in this order"):
        known(normalised(difference, squared=squared))
    assert is_covered(normalised(squared="f m"), is_fused=True)


def test_another_power_is_no_variance() -> None:
    with pytest.raises(UnsupportedModelError, match="in this order"):
        known(normalised(power=4.0))
    assert is_covered(normalised(), is_fused=True)
    known(normalised(epsilon=1e-5))


@pytest.mark.parametrize("nothing", ["Identity", "Mul", "Div", "Add", "Reshape"])
def test_what_does_nothing_does_not_hide_a_variance(nothing: str) -> None:
    plain, hidden = known(normalised()), known(normalised(nothing=nothing))
    widths = [upper - lower for lower, upper in (plain, hidden)]
    assert (widths[1] >= widths[0] * (1 - 1e-9)).all()
    assert (widths[1] <= widths[0] * 2).all()
    assert is_covered(normalised(nothing=nothing), is_fused=True)


def attention(root: float = 2**0.5, sign: str = "one m", large: float = -10000.0) -> onnx.ModelProto:
    """Return attention of two heads between 4 entries of two numbers each, with x as its mask."""
    nodes: list[tuple[Any, ...]] = [
        ("Unsqueeze", "x", "u", {"axes": [2]}),
        ("Add", "u spread", "e"),
        *OF_LAST,
        *HEADS,
    ]
    nodes += [
        ("MatMul", "q3 k3", "p"),
        ("Div", "p root", "b"),
        ("Unsqueeze", "x", "m0", {"axes": [1]}),
        ("Unsqueeze", "m0", "m", {"axes": [2]}),
        ("Sub", sign, "o"),
        ("Mul", "o large", "c"),
        ("Add", "b c", "a"),
        ("Softmax", "a", "f", {"axis": 3}),
        ("MatMul", "f t3", "g"),
        ("Transpose", "g", "i", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "i rows", "j"),
        ("MatMul", "j weight_q", "y0"),
        ("Add", "y0 shift", "y1"),
        ("Add", "y1 l", "y2"),
        ("Flatten", "y2", "y3"),
        ("MatMul", "y3 last", "logits"),
    ]
    numbers = {"root": root, "one": 1.0, "large": large, "two": 2.0, "eps": 0.1}
    rows = {"spread": np.eye(4), "scale": np.arange(1, 5), "shift": np.ones(4), "last": np.arange(32).reshape(16, 2)}
    sizes: dict[str, Any] = {"heads": [0, 0, 2, 2], "rows": [0, 0, 4]}
    weights: dict[str, Any] = {f"weight_{letter}": np.eye(4, k=place) - 0.5 for place, letter in enumerate("qkt")}
    return model(nodes, 12, **numbers, **rows, **sizes, **weights)


def test_attention_with_a_computed_mask_has_no_proof(tmp_path: Path) -> None:
    file = attention()
    assert "Attention" in operators(file, tmp_path)
    point = np.array([[0.9999, 0.9998, 0.9995, 0.999]], np.float32)
    assert not np.allclose(run(file, point, is_fused=True), run(file, point, is_fused=False), rtol=0.01)
    with pytest.raises(UnsupportedModelError, match="no mask that is computed"):
        known(file)
    with pytest.raises(UnsupportedModelError, match="no mask that is computed"):
        known(attention(large=1 - 5e-5))  # a factor that does next to nothing
    with pytest.raises(UnsupportedModelError, match="is nearly"):
        known(attention(root=2**0.5 * (1 + 8e-6)))
    assert "Attention" not in operators(attention(sign="m one"), tmp_path)
    assert is_covered(attention(sign="m one"), is_fused=True)


# --- nodes that runtimes join, with others between that they leave out ------------------------------------------------


def quantised_twice(nothing: str) -> onnx.ModelProto:
    between, constants = doing_nothing(nothing, "a", "b")
    nodes = (
        ("QuantizeLinear", "x s", "q"),
        ("DequantizeLinear", "q s", "a"),
        between,
        ("QuantizeLinear", "b t", "p"),
        ("DequantizeLinear", "p t", "y"),
        ("MatMul", "y w", "logits"),
    )
    return model(nodes, s=0.03, t=0.05, w=np.eye(4, 2), **constants)


def pooled_pad(nothing: str = "Identity", first: str = "Neg", padding: int = 1, **pool: Any) -> onnx.ModelProto:
    between, constants = doing_nothing(nothing, "a", "b", rank=4)
    nodes = (
        ("Reshape", "x image", "i"),
        (first, "i", "n"),
        ("Pad", "n around", "a"),
        between,
        ("MaxPool", "b", "p", {"kernel_shape": [2, 2], **pool}),
        ("ReduceMax", "p axes", "f", {"keepdims": 0}),
        ("MatMul", "f w", "logits"),
    )
    around = [0, 0, padding, padding] * 2
    return model(nodes, image=[0, 1, 2, 2], around=around, axes=[2, 3], w=np.ones((1, 2)), **constants)


@pytest.mark.parametrize("nothing", ["Identity", "Add", "Sub", "Mul", "Div", "Expand", "Clip"])
def test_what_does_nothing_keeps_no_nodes_apart(nothing: str) -> None:
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(quantised_twice(nothing))
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(pooled_pad(nothing))


@pytest.mark.parametrize("is_between", [False, True])
def test_a_pad_is_joined_with_a_pool_where_transposes_cancel(is_between: bool) -> None:
    def turn(read: str, gives: str) -> tuple[Any, ...]:
        return ("Transpose", read, gives, {"perm": [0, 2, 3, 1]})

    middle = (turn("n", "t"), ("Pad", "t around", "a")) if is_between else (("Pad", "n around", "t"), turn("t", "a"))
    nodes = (
        ("Reshape", "x image", "i"),
        ("Neg", "i", "n"),
        *middle,
        ("Transpose", "a", "b", {"perm": [0, 3, 1, 2]}),
        ("MaxPool", "b", "p", {"kernel_shape": [2, 2]}),
        ("ReduceMax", "p axes", "f", {"keepdims": 0}),
        ("MatMul", "f w", "logits"),
    )
    around = [0, 1, 1, 0] * 2 if is_between else [0, 0, 1, 1] * 2
    file = model(nodes, image=[0, 1, 2, 2], around=around, axes=[2, 3], w=np.ones((1, 2)))
    assert not np.array_equal(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False))
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(file)


def test_a_pad_behind_a_relu_is_joined_where_each_window_holds_a_number() -> None:
    wide: tuple[dict[str, Any], ...] = ({"dilations": [3, 3]}, {"pads": [1, 1, 1, 1]}, {"padding": 2})
    for options in wide:
        with pytest.raises(UnsupportedModelError, match="joins them"):
            known(pooled_pad(first="Relu", **options))
    for file in (pooled_pad(first="Relu"), pooled_pad("Mul", first="Relu")):
        assert is_covered(file, is_fused=True)


def normalised_product(perm: list[int], rows: bool = False, nothing: str = "Identity") -> onnx.ModelProto:
    """Return BatchNormalization of x W, or of rows of x times W, as 2 x 2 with axes in another order."""
    between, constants = doing_nothing(nothing, "t", "u", rank=3)
    image, channels = ([-1, 2], [-1, 2, 2]) if rows else ([0, 4], [0, 4, 1])
    nodes = (
        ("Reshape", "x image", "i"),
        ("MatMul", "i w", "p"),
        ("Reshape", "p square", "s"),
        ("Transpose", "s", "t", {"perm": perm}),
        between,
        ("Reshape", "u channels", "c"),
        ("BatchNormalization", "c scale shift mean variance", "n", {"epsilon": 1e-5}),
        ("Flatten", "n", "f"),
        ("MatMul", "f last", "logits"),
    )
    count = 2 if rows else 4
    weights: dict[str, Any] = {
        "w": np.eye(count),
        "last": np.eye(4, 2),
        "mean": np.zeros(count),
        "variance": np.ones(count),
    }
    sizes: dict[str, Any] = {"image": image, "square": [-1, 2, 2], "channels": channels}
    scales: dict[str, Any] = {"scale": np.arange(1, count + 1), "shift": np.arange(count)}
    return model(nodes, **weights, **scales, **sizes, **constants)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("nothing", ["Identity", "Mul", "Expand"])
def test_a_matrix_and_a_normalisation_are_joined_whatever_stands_between(nothing: str, rows: bool) -> None:
    wrong, right = ([0, 1, 2], [0, 2, 1]) if rows else ([0, 2, 1], [0, 1, 2])
    file = normalised_product(wrong, rows, nothing)
    assert not np.array_equal(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False))
    with pytest.raises(UnsupportedModelError, match="joins them"):
        known(file)
    assert is_covered(normalised_product(right, rows, nothing), is_fused=True)


def turned(operator: str, axes: list[int]) -> onnx.ModelProto:
    """Return a Pad or a Resize that names its axes, between two transposes that cancel."""
    middle: tuple[Any, ...] = ("Pad", "t told fill axes", "u")
    constants: dict[str, Any] = {"told": [0, 1, 0, 0, 0, 0, 0, 0], "fill": 0.5, "axes": axes}
    if operator == "Resize":
        options = {"axes": axes, "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        middle = ("Resize", "t region told", "u", {"mode": "nearest", **options})
        constants = {"told": np.array([1, 2, 1, 1]), "region": np.zeros(0)}
    nodes = (
        ("Reshape", "x image", "i"),
        ("Expand", "i cube", "r"),
        ("Transpose", "r", "t", {"perm": [0, 2, 3, 1]}),
        middle,
        ("Transpose", "u", "v", {"perm": [0, 3, 1, 2]}),
        ("Flatten", "v", "f"),
        ("MatMul", "f w", "logits"),
    )
    size = 16 if operator == "Resize" else 12
    weights = np.arange(2 * size).reshape(size, 2)
    return model(nodes, image=[0, 1, 2, 2], cube=[1, 2, 2, 2], w=weights, **constants)


@pytest.mark.parametrize("operator", ["Pad", "Resize"])
def test_axes_in_another_order_have_no_proof(operator: str) -> None:
    file = turned(operator, [0, 2, 1, 3])
    assert not np.array_equal(run(file, POINT, is_fused=True), run(file, POINT, is_fused=False))
    with pytest.raises(UnsupportedModelError, match="in ascending order"):
        known(file)
    assert is_covered(turned(operator, [0, 1, 2, 3]), is_fused=True)


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
