"""Random graphs around one operator that moves entries."""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import numpy_helper
from sampled_graphs import Net

Random = np.random.Generator
Operator = Callable[[Random], Net]


def begun(random: Random, ranks: tuple[int, ...] = (1, 2, 3), opset: int = 18, least: int = 2, most: int = 5) -> Net:
    """Return a graph behind a ReLU, a scale or nothing, of a random shape."""
    rank = int(random.choice(ranks))
    net = Net(random, tuple(int(size) for size in random.integers(least, most + 1, rank)), opset)
    kind = net.integer(0, 2)
    if kind:
        net.add("Mul", net.last, net.floats(*net.shape))
        net.add("Add", net.last, net.floats(1))
    if kind > 1:
        net.add("Relu")
    return net


def images(random: Random, rank: int, opset: int = 18, channels: int = 3, least: int = 3, most: int = 6) -> Net:
    """Return a graph of images of so many axes."""
    net = Net(random, (channels, *(int(size) for size in random.integers(least, most + 1, rank))), opset)
    if net.integer(0, 1):
        net.add("Relu")
    return net


# --- moves -----------------------------------------------------------------------------------------------------------


def reshape(random: Random) -> Net:
    net = Net(random, (2, 3, 4), 20)
    target = net.pick([-1, 24], [0, 4, 6], [-1, 2, 2, 6], [0, 0, 12], [-1, 1, 24], [0, -1, 2])
    net.add("Reshape", net.last, net.whole(*target), allowzero=int(0 not in target))
    return net


def flatten(random: Random) -> Net:
    shape = ((3, 4), (1, 5, 2), (1, 4))[int(random.integers(3))]
    net = Net(random, shape)
    axis = net.integer(1, 2 if shape[0] == 1 else 1)
    net.add("Flatten", axis=net.pick(axis, axis - len(shape) - 1))
    return net


def squeezed(random: Random) -> Net:
    net = begun(random, (1, 2))
    axes = sorted({net.integer(1, len(net.shape) + 1), -1})
    net.add("Unsqueeze", net.last, net.whole(axes[0]))
    net.add("Unsqueeze", net.last, net.whole(-1))
    net.add("Relu")
    net.add("Squeeze", net.last, net.whole(-1))
    return net


def expand(random: Random) -> Net:
    net = Net(random, (1, 3, 1))
    net.add("Expand", net.last, net.whole(*net.pick((1, 2, 3, 2), (3, 4), (1,), (4, 1, 3))))
    return net


def expand_to_shape(random: Random) -> Net:
    """Append an expansion to sizes that are computed, that of the batch among them."""
    net = Net(random, (1, 3, 1))
    shape = net.add("Shape", net.last)
    parts = net.add("Gather", shape, net.whole(0, 1, 2))
    sizes = net.add("Concat", parts, net.whole(4), axis=0)
    net.add("Expand", "x", sizes)
    return net


def token(random: Random) -> Net:
    """Append a constant for each image, as a class token is, by sizes that are computed."""
    net = Net(random, (4, 3))
    first = net.add("Gather", net.add("Shape", "x"), net.whole(0), axis=0)
    shape = net.add("Concat", first, net.whole(-1, -1), axis=0)
    ones = net.add("ConstantOfShape", net.whole(3), value=numpy_helper.from_array(np.array([1])))
    chosen = net.add("Where", net.add("Equal", shape, net.add("Mul", ones, net.whole(-1))), ones, shape)
    repeated = net.add("Expand", net.floats(1, 1, 3), chosen)
    net.add("Concat", *net.pick((repeated, "x"), ("x", repeated)), axis=1)
    return net


def channel_shuffle(random: Random) -> Net:
    """Append a shuffle of channels by sizes that are computed from the shape, that of the batch among them."""
    net = Net(random, (4, 3))
    shape = net.add("Shape", "x")
    batch, channels, width = (net.add("Gather", shape, net.whole(place), axis=0) for place in range(3))
    half = net.add("Div", channels, net.whole(2))
    apart = net.add("Reshape", "x", net.add("Concat", batch, net.whole(2), half, width, axis=0))
    turned = net.add("Transpose", apart, perm=[0, 2, 1, 3])
    net.add("Reshape", turned, net.add("Concat", batch, channels, width, axis=0))
    return net


def resize_to_sizes(random: Random) -> Net:
    """Append a resizing to sizes behind those of the batch and the channels."""
    net = Net(random, (2, 3, 4))
    shape = net.add("Shape", "x")
    kept = net.add("Slice", shape, net.whole(0), net.whole(2), net.whole(0))
    sizes, kind = net.add("Concat", kept, net.whole(6, 8), axis=0), "asymmetric"
    net.add("Resize", "x", "", "", sizes, mode="nearest", coordinate_transformation_mode=kind, nearest_mode="floor")
    return net


def tile(random: Random) -> Net:
    net = begun(random)
    net.add("Tile", net.last, net.whole(1, *net.integers(len(net.shape), 1, 3)))
    return net


def transpose(random: Random) -> Net:
    net = begun(random)
    net.add("Transpose", perm=[0, *(1 + random.permutation(len(net.shape))).tolist()])
    return net


def pad(random: Random) -> Net:
    net = begun(random, (1, 2, 3), 19, least=3)
    mode, rank = net.pick("constant", "reflect", "edge", "wrap"), len(net.shape)
    least = -1 if mode == "constant" else 0
    more = [net.constant(net.pick(0.0, 1.5, -2.0), np.float32)] if mode == "constant" else [""]
    if net.integer(0, 1):
        net.add("Pad", net.last, net.whole(*net.integers(2, least, 2)), *more, net.whole(net.pick(-1, rank)), mode=mode)
    else:
        begins, ends = net.integers(rank, least, 2), net.integers(rank, least, 2)
        net.add("Pad", net.last, net.whole(0, *begins, 0, *ends), *more, mode=mode)
    return net


def slices(random: Random) -> Net:
    net = begun(random, (2, 3), least=4)
    axes = net.pick([1], [2, 1], [-1], [0, -1])
    numbers = {0: (0, 2**63 - 1, 1)}
    picked = [
        numbers.get(axis) or net.pick((1, 3, 1), (0, -1, 2), (-1, -5, -1), (-3, 2**31, 1), (3, 0, -2)) for axis in axes
    ]
    starts, ends, steps = (net.whole(*column) for column in zip(*picked, strict=True))
    net.add("Slice", net.last, starts, ends, net.whole(*axes), steps)
    return net


def split(random: Random) -> Net:
    net = Net(random, (5, 4))
    if net.integer(0, 1):
        first = net.add("Split", outputs=2, axis=net.pick(1, -2), num_outputs=2)
    else:
        first = net.add("Split", net.last, net.whole(2, 3), outputs=2, axis=1)
    second = first[:-1] + "1"
    net.add("Concat", second, first, axis=1)
    return net


def concatenate(random: Random) -> Net:
    net = begun(random, (2, 3))
    net.batch = 1
    axis = net.integer(1, len(net.shape))
    size = [1, *net.shape]
    size[axis] = net.integer(1, 3)
    parts = [net.last, net.floats(*size), net.last]
    net.add("Concat", *random.permutation(parts).tolist(), axis=axis if net.integer(0, 1) else axis - len(size))
    return net


def gather(random: Random) -> Net:
    net = begun(random)
    axis = net.integer(1, len(net.shape))
    size = net.shape[axis - 1]
    shape = net.pick((), (2,), (2, 3))
    net.add("Gather", net.last, net.constant(random.integers(-size, size, shape), np.int64), axis=axis)
    return net


def gather_elements(random: Random) -> Net:
    net = begun(random, (2, 3))
    net.batch = 1
    axis = net.integer(1, len(net.shape))
    shape = [1, *(net.integer(1, size) for size in net.shape)]
    shape[axis] = net.integer(1, 6)
    size = net.shape[axis - 1]
    net.add("GatherElements", net.last, net.constant(random.integers(-size, size, shape), np.int64), axis=axis)
    return net


def gather_nd(random: Random) -> Net:
    net = begun(random, (2, 3))
    net.batch = 1
    depth = net.integer(1, len(net.shape))
    rows = np.stack([random.integers(-size, size, (1, 4)) for size in net.shape[:depth]], -1)
    net.add("GatherND", net.last, net.constant(rows, np.int64), batch_dims=1)
    return net


def scatter_elements(random: Random) -> Net:
    net = begun(random, (2,))
    net.batch = 1
    rows, columns = net.shape
    places = np.stack([random.permutation(columns)[:2] for _ in range(rows)])[None]
    net.add("ScatterElements", net.last, net.constant(places, np.int64), net.floats(1, rows, 2), axis=net.pick(2, -1))
    return net


def scatter_nd(random: Random) -> Net:
    """Append an entry, or a row, that is put in the place of another."""
    net = begun(random, (2, 3), least=3)
    net.batch = 1
    first = net.last
    picked = net.add("Gather", first, net.whole(0), axis=1)
    updates = picked if net.integer(0, 1) else net.floats(1, 1, *net.shape[1:])
    net.add("ScatterND", first, net.constant([[[0, net.pick(1, 2, -1)]]], np.int64), updates)
    return net


def depth_to_space(random: Random) -> Net:
    net = images(random, 2, channels=8)
    net.add("DepthToSpace", blocksize=2, mode=net.pick("DCR", "CRD"))
    return net


def space_to_depth(random: Random) -> Net:
    net = Net(random, (2, 6, 4))
    net.add("SpaceToDepth", blocksize=2)
    return net


def triangle(random: Random) -> Net:
    net = begun(random, (2, 3))
    net.add("Trilu", net.last, net.whole(net.integer(-2, 2)), upper=net.integer(0, 1))
    return net


# --- resizing --------------------------------------------------------------------------------------------------------

KINDS = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")


def resize_nearest(random: Random) -> Net:
    net = images(random, int(random.integers(1, 3)), int(random.choice([13, 18, 19])))
    scales = [1.0, 1.0, *(net.pick(2.0, 4.0, 1.0) for _ in net.shape[1:])]
    kind, nearest = net.pick(("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("asymmetric", "ceil"))
    if net.integer(0, 1):
        sizes = [1, *(int(size * scale) for size, scale in zip(net.shape, scales[1:], strict=True))]
        last = ["", "", net.whole(*sizes)]
        net.batch = 1
    else:
        last = ["", net.constant(scales, np.float32)]
    net.add("Resize", net.last, *last, mode="nearest", coordinate_transformation_mode=kind, nearest_mode=nearest)
    return net


def resize_linear(random: Random) -> Net:
    net = images(random, 2, 18)
    kind = net.pick(*KINDS)
    if net.integer(0, 1):
        net.add(
            "Resize",
            net.last,
            "",
            net.constant([1, 1, 2, 3], np.float32),
            mode="linear",
            coordinate_transformation_mode=kind,
        )
    else:
        net.batch = 1
        sizes = net.whole(1, net.shape[0], *net.integers(2, 2, 9))
        net.add("Resize", net.last, "", "", sizes, mode="linear", coordinate_transformation_mode=kind)
    return net


def resize_cubic(random: Random) -> Net:
    net = images(random, 2, 18, least=3)
    last = ["", net.constant([1, 1, 2, net.pick(1, 3, 0.5) if net.shape[2] % 2 == 0 else 4], np.float32)]
    if net.integer(0, 1):
        net.batch = 1
        last = ["", "", net.whole(1, net.shape[0], *net.integers(2, 2, 9))]
    parameter, inside = net.pick(-0.75, -0.5), net.integer(0, 1)
    kind = net.pick(*KINDS[inside:])  # asymmetric ones reach too far out to leave the outside out
    more = {"coordinate_transformation_mode": kind, "cubic_coeff_a": parameter, "exclude_outside": inside}
    net.add("Resize", net.last, *last, mode="cubic", **more)
    return net


def upsample(random: Random) -> Net:
    net = images(random, 2, 9)
    scales = net.constant([1, 1, 2, net.pick(1, 2, 4)], np.float32)
    net.add("Upsample", net.last, scales, mode=net.pick("nearest", "linear"))
    return net


def inert(random: Random) -> Net:
    net = begun(random)
    net.add(net.pick("Identity", "Dropout"))
    return net


MOVES: Mapping[str, Operator] = {
    "Concat": concatenate,
    "Div, sizes": channel_shuffle,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "Expand to a shape": expand_to_shape,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Identity": inert,
    "Pad": pad,
    "Reshape": reshape,
    "Resize, nearest": resize_nearest,
    "Resize, sizes": resize_to_sizes,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": slices,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeezed,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
    "a token": token,
}
"""Those that only move entries, so that their enclosures at a point are points."""
