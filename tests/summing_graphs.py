"""Random graphs around one operator that is affine, pools or rounds, or computes constants."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from moving_graphs import Operator, Random, begun, images, resize_cubic, resize_linear, upsample
from onnx import TensorProto, numpy_helper
from sampled_graphs import Net

# --- windows ---------------------------------------------------------------------------------------------------------


def convolution(random: Random) -> Net:
    rank = int(random.integers(1, 4))
    net = images(random, rank, channels=4, least=4)
    groups, kernel = net.pick(1, 2, 4), net.integers(rank, 1, 3)
    weight = net.floats(4, 4 // groups, *kernel)
    bias = [net.floats(4)] if net.integer(0, 1) else []
    places = net.pick(
        {"pads": net.integers(2 * rank, 0, 2)},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
    )
    steps: dict[str, Any] = {"strides": net.integers(rank, 1, 2)}
    if "auto_pad" not in places:
        steps["dilations"] = [1 if size > 2 else net.integer(1, 2) for size in kernel]
    net.add("Conv", net.last, weight, *bias, group=groups, **places, **steps)
    return net


def transposed_convolution(random: Random) -> Net:
    rank = int(random.integers(1, 4))
    net = images(random, rank, channels=4, least=3, most=4)
    groups, kernel, strides = net.pick(1, 2), net.integers(rank, 1, 3), net.integers(rank, 1, 3)
    more: dict[str, Any] = {
        "strides": strides,
        "dilations": net.integers(rank, 1, 2) if rank < 3 else [1] * rank,
        "output_padding": [net.integer(0, step - 1) for step in strides],
        "pads": [0] * 2 * rank if rank > 2 else net.integers(2 * rank, 0, 1),
    }
    bias = [net.floats(2 * groups)] if net.integer(0, 1) else []
    net.add("ConvTranspose", net.last, net.floats(4, 2, *kernel), *bias, group=groups, **more)
    return net


def transposed_same(random: Random) -> Net:
    net = images(random, 2, channels=2)
    kind = net.pick({"auto_pad": "SAME_UPPER"}, {"auto_pad": "VALID"}, {"output_shape": [2 * s for s in net.shape[1:]]})
    net.add("ConvTranspose", net.last, net.floats(2, 3, 4, 4), strides=[2, 2], **kind)
    return net


def average_pool(random: Random) -> Net:
    rank = int(random.integers(1, 4))
    net = images(random, rank, 19 if rank < 3 else 18, least=4)
    kernel = net.integers(rank, 2, 3)
    more: dict[str, Any] = {"dilations": net.integers(rank, 1, 2)} if net.opset == 19 and net.integer(0, 1) else {}
    pads = [0] * 2 * rank if more else [net.integer(0, 1) for _ in range(2 * rank)]
    is_open = 0 if more else net.integer(0, 1)
    strides = [net.integer(1, 2) for _ in range(rank)]
    counts = 0 if is_open else net.integer(0, 1)
    net.add(
        "AveragePool",
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        ceil_mode=is_open,
        count_include_pad=counts,
        **more,
    )
    return net


def lp_pool(random: Random) -> Net:
    rank = int(random.integers(1, 4))
    net = images(random, rank, 18, least=4)
    if net.integer(0, 1):
        net.add("Relu")  # windows of zeros
    pads, steps = [net.integer(0, 1) for _ in range(2 * rank)], net.integers(rank, 1, 2)
    net.add("LpPool", kernel_shape=net.integers(rank, 2, 3), strides=steps, pads=pads, p=net.integer(1, 4))
    return net


def global_lp_pool(random: Random) -> Net:
    net = images(random, int(random.integers(1, 4)))
    net.add("GlobalLpPool", p=net.integer(1, 4))
    return net


def max_pool(random: Random) -> Net:
    rank = int(random.integers(1, 4))
    net = images(random, rank, least=4)
    kernel = net.integers(rank, 2, 3)
    dilations = net.integers(rank, 1, 2) if rank < 3 else [1] * rank
    pads = [net.integer(0, 1) for _ in range(2 * rank)]
    net.add(
        "MaxPool",
        kernel_shape=kernel,
        strides=net.integers(rank, 1, 2),
        pads=pads,
        ceil_mode=net.integer(0, 1),
        dilations=dilations,
    )
    return net


def global_pool(operator: str) -> Operator:
    def made(random: Random) -> Net:
        net = images(random, int(random.integers(1, 4)))
        net.add(operator)
        return net

    return made


def normalisation(random: Random) -> Net:
    net = images(random, int(random.integers(0, 4)))
    variance = net.constant(random.uniform(0.1, 3, 3), np.float32)
    net.add("BatchNormalization", net.last, *(net.floats(3) for _ in range(3)), variance)
    return net


# --- sums of products ------------------------------------------------------------------------------------------------


def gemm(random: Random) -> Net:
    net = begun(random, (1,))
    (size,), by_rows = net.shape, net.integer(0, 1)
    bias = net.pick([], [net.floats(4)], [net.floats(1, 4)], [net.floats(1)], [net.floats()])
    alpha, beta = net.pick((1.0, 1.0), (0.3, -2.0), (1.0, 0.0))
    weight = net.floats(*((4, size) if by_rows else (size, 4)))
    net.add("Gemm", net.last, weight, *bias, alpha=alpha, beta=beta, transB=by_rows)
    return net


def product_from_right(random: Random) -> Net:
    net = begun(random)
    ahead = net.pick((), (1,), net.shape[:-2]) if len(net.shape) > 1 else ()
    is_vector = len(net.shape) > 1 and net.integer(0, 4) == 0
    net.add("MatMul", net.last, net.floats(net.shape[-1]) if is_vector else net.floats(*ahead, net.shape[-1], 3))
    return net


def product_from_left(random: Random) -> Net:
    net = begun(random, (2, 3))
    rows = net.shape[-2]
    ahead = net.pick((), (1,), net.shape[:-2])
    net.add("MatMul", net.pick(net.floats(rows), net.floats(*ahead, 2, rows)), net.last)
    return net


def einsum(random: Random) -> Net:
    net = Net(random, (3, 4), 18)
    equation, shape = net.pick(
        ("bij,jk->bik", (4, 2)),
        ("bij,kj->bki", (2, 4)),
        ("bij,ij->bi", (3, 4)),
        ("bij,i->bij", (3,)),
        ("bij,jkl->bikl", (4, 2, 2)),
    )
    operands = [net.last, net.floats(*shape)]
    if net.integer(0, 1):
        left, output = equation.split("->")
        first, second = left.split(",")
        equation, operands = f"{second},{first}->{output}", operands[::-1]
    net.add("Einsum", *operands, equation=equation)
    return net


def rows(random: Random) -> Net:
    """Append a dense layer over rows of all images, which are taken apart again."""
    net = Net(random, (3, 2, 4))
    net.add("Reshape", net.last, net.whole(-1, 4))
    if net.integer(0, 1):
        net.add("Gemm", net.last, net.floats(4, 5), net.floats(5))
    else:
        net.add("MatMul", net.last, net.floats(4, 5))
        net.add("Add", net.last, net.pick(net.floats(5), net.floats(1, 5)))
    net.add(net.pick("Relu", "Identity"))
    if net.integer(0, 1):
        net.add("Reshape", net.last, net.whole(-1, 2, 5))
        net.add("Mul", net.last, net.floats(5))
    net.add("Reshape", net.last, net.whole(*net.pick((-1, 3, 2, 5), (-1, 6, 5), (-1, 30))))
    return net


def running_sum(random: Random) -> Net:
    net = begun(random)
    axis = net.pick(-1, net.integer(1, len(net.shape)))
    net.add("CumSum", net.last, net.constant(axis, np.int64), exclusive=net.integer(0, 1), reverse=net.integer(0, 1))
    return net


def reduced(operator: str) -> Operator:
    def made(random: Random) -> Net:
        net = begun(random, (1, 2, 3), int(random.choice([13, 18])))
        axes = net.pick([-1], [1], sorted({1, len(net.shape)}), list(range(1, len(net.shape) + 1)))
        keeps = int(len({axis % (len(net.shape) + 1) for axis in axes}) == len(net.shape) or net.integer(0, 1))
        if net.opset == 13 and operator == "ReduceMean":
            net.add(operator, axes=axes, keepdims=keeps)
        elif net.integer(0, 4) == 0:
            net.add(operator, net.last, net.constant([], np.int64), noop_with_empty_axes=1)
        else:
            net.add(operator, net.last, net.whole(*axes), keepdims=keeps)
        return net

    return made


# --- whole numbers, and other floats ---------------------------------------------------------------------------------


def quantised(random: Random) -> Net:
    """Append a quantisation and its inverse, and products with quantised weights."""
    net = images(random, 2, 19, channels=2)
    kind = net.pick(np.uint8, np.int8)
    scale, zero = net.constant(0.013, np.float32), net.constant(net.integer(0, 100), kind)
    net.add("QuantizeLinear", net.last, scale, zero)
    if net.integer(0, 1):
        net.add("MaxPool", kernel_shape=[2, 2])
    held = net.add("DequantizeLinear", net.last, scale, zero)
    whole = net.constant(random.integers(-64, 65, (3, 2, 2, 2)), np.int8)
    scales = net.constant(random.uniform(0.001, 0.02, 3), np.float32)
    weight = net.add("DequantizeLinear", whole, scales, net.constant([0, 0, 0], np.int8), axis=0)
    net.add("Conv", held, net.pick(weight, net.floats(3, 2, 2, 2)), net.floats(3))
    if net.integer(0, 1):
        last = net.constant(0.03, np.float32)
        net.add("QuantizeLinear", net.last, last, zero)
        net.add("DequantizeLinear", net.last, last, zero)
    return net


def quantised_weights(random: Random) -> Net:
    net = begun(random, (1,))
    whole = net.constant(random.integers(-127, 128, (net.shape[0], 4)), np.int8)
    weight = net.add("DequantizeLinear", whole, net.constant(0.01, np.float32), net.constant(0, np.int8))
    net.add("MatMul", net.nodes[-2].output[0] if len(net.nodes) > 1 else "x", weight)
    return net


def quantised_by_channel(random: Random) -> Net:
    net = images(random, 2, 13, channels=3)
    scales, zero = net.constant(random.uniform(0.005, 0.05, 3), np.float32), net.constant([7, 7, 7], np.uint8)
    net.add("QuantizeLinear", net.last, scales, zero, axis=1)
    net.add("DequantizeLinear", net.last, scales, zero, axis=1)
    return net


def cast_to_bytes(random: Random) -> Net:
    net = begun(random)
    net.add("Relu")
    net.add("Mul", net.last, net.constant(20.0, np.float32))
    if net.integer(0, 1):
        net.add("Round")
    net.add("Cast", to=net.pick(TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64))
    net.add("Cast", to=TensorProto.FLOAT)
    return net


def cast_to_double(random: Random) -> Net:
    net = begun(random, (1,))
    net.add("Cast", to=TensorProto.DOUBLE)
    net.add("MatMul", net.last, net.constant(random.standard_normal((net.shape[0], 4)), np.float64))
    net.add("Relu")
    net.add("Cast", to=TensorProto.FLOAT)
    return net


def folded(random: Random) -> Net:
    """Append a product with constants, and sizes, that the file computes."""
    net = Net(random, (4, 4))
    rows = net.add(
        "Cast", net.add("Range", net.constant(0, np.int64), net.constant(4, np.int64), net.constant(1, np.int64)), to=1
    )
    mask = net.add(
        "Trilu",
        net.add("ConstantOfShape", net.whole(4, 4), value=numpy_helper.from_array(np.array([0.5], dtype=np.float32))),
        upper=0,
    )
    masked = net.add("Where", net.add("Equal", mask, net.constant(0, np.float32)), net.constant(-2.0, np.float32), mask)
    net.add("Add", "x", masked)
    net.add("Mul", net.last, rows)
    size = net.add("Cast", net.add("Mul", net.add("Cast", net.whole(4), to=1), net.constant([2.0], np.float32)), to=7)
    shape = net.add("Concat", net.whole(-1), net.whole(2), size, axis=0)
    net.add("Reshape", f"v{len(net.nodes) - 5}_0", shape)
    return net


OTHERS: Mapping[str, Operator] = {
    "AveragePool": average_pool,
    "BatchNormalization": normalisation,
    "Cast, bytes": cast_to_bytes,
    "Cast, double": cast_to_double,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "ConvTranspose, same": transposed_same,
    "CumSum": running_sum,
    "Einsum": einsum,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool("GlobalAveragePool"),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_pool("GlobalMaxPool"),
    "MatMul, left": product_from_left,
    "MatMul, right": product_from_right,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "QuantizeLinear": quantised,
    "QuantizeLinear, channels": quantised_by_channel,
    "DequantizeLinear, weights": quantised_weights,
    "Gemm, rows": rows,
    "ReduceMean": reduced("ReduceMean"),
    "ReduceSum": reduced("ReduceSum"),
    "Resize, cubic": resize_cubic,
    "Resize, linear": resize_linear,
    "Upsample": upsample,
    "constants": folded,
}
