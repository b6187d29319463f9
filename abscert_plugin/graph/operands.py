"""What a rule reads of a node: its attributes, its constants, and the shapes of what depends on the image."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Final, Generic, TypeVar, final

import numpy as np

from abscert_plugin.graph.nodes import Node
from abscert_plugin.graph.walk import Walk, need

W = TypeVar("W", bound=Walk)

SAME: Final = (b"SAME_UPPER", b"SAME_LOWER")
"""Values of auto_pad that keep the size."""

# Attributes that change nothing of what rules know: of training, of other modes, or told by other inputs as well.
_TRAINING: Final = ("consumed_inputs", "momentum", "ratio", "seed", "spatial")
_OTHER_MODES: Final = ("cubic_coeff_a", "exclude_outside", "extrapolation_value", "round_mode", "saturate")
_INERT: Final = frozenset([*_TRAINING, *_OTHER_MODES, "kernel_shape"])


@final
@dataclass(frozen=True, slots=True)
class Window:
    """What slides over images: sizes along each of their axes.

    Args:
        kernel: of the window.
        stride: from one window to the next.
        dilation: from one entry of a window to the next.
        begins: padding before the first entry.
        ends: padding behind the last one.
    """

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    begins: list[int]
    ends: list[int]


@dataclass(slots=True)
class Operands(Generic[W]):
    """A node in a walk; whoever makes something of nodes adds how.

    Each method raises UnsupportedNodeError where the node is not as it expects.

    Args:
        node: the node.
        walk: what is known of what it reads.
        read: names of attributes that were asked for.
    """

    node: Node
    walk: W
    read: set[str] = field(default_factory=set)

    @property
    def output(self) -> str:
        """Return the name of the first tensor that it gives."""
        return self.node.outputs[0]

    def has(self, place: int) -> bool:
        """Return whether there is an input at a place."""
        return self.node.has(place)

    def name(self, place: int = 0) -> str:
        """Return the name of the input at a place, which has to depend on the image."""
        name = self.node.inputs[place] if self.has(place) else ""
        need(self.walk.shape_of(name) is not None, f"expected input {place} to depend on `{self.walk.source}`")
        return name

    def shape(self, place: int = 0) -> tuple[int, ...]:
        """Return the shape, without the batch, of the input at a place."""
        shape = self.walk.shape_of(self.name(place))
        assert shape is not None
        return shape

    def array(self, place: int) -> np.ndarray:
        """Return the input at a place, which has to be a constant that is known exactly."""
        name = self.node.inputs[place] if self.has(place) else ""
        need(name in self.walk.arrays, f"expected input {place} to be a constant")
        return self.walk.arrays[name]

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute."""
        self.read.add(name)
        return self.node.attributes.get(name, default)

    def need_all_read(self) -> None:
        """Raise if there is an attribute that nobody asked for: what it does is not known."""
        unread = sorted(set(self.node.attributes) - self.read - _INERT)
        need(not unread, f"expected no attribute {', '.join(unread)}")

    def integers(self, attribute: str, place: int) -> list[int] | None:
        """Return an attribute, or the constant that later versions read instead; None where left out."""
        self.read.add(attribute)
        found = self.node.integers(attribute)
        return self.array(place).reshape(-1).tolist() if found is None and self.has(place) else found

    def require(self, **expected: Any) -> None:
        """Raise unless every attribute that is there has the expected value."""
        for name, value in expected.items():
            found = self.attribute(name, value)
            need(found == value, f"expected {name} = {value}, got {found}")

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute `axis`, counted from the front, which is not that of the batch."""
        axis = int(self.attribute("axis", default))
        need(-rank <= axis < rank, f"expected an axis of {rank}, got {axis}")
        need(axis % rank > 0, "expected the images of a batch to stay apart")
        return axis % rank

    def reduces_nothing(self) -> bool:
        """Return whether a reduction is over no axes at all, and gives what it reads."""
        axes, is_inert = self.integers("axes", 1), bool(self.attribute("noop_with_empty_axes", 0))
        self.attribute("keepdims", 1)  # which says nothing there
        return is_inert and not axes

    def reduced_axes(self) -> tuple[list[int], bool]:
        """Return the axes of a reduction, counted with the batch, and whether they are kept."""
        axes, rank = self.integers("axes", 1) or [], len(self.shape()) + 1
        self.attribute("noop_with_empty_axes", 0)  # which says nothing where there are axes
        need(bool(axes), "expected axes")
        need(all(-rank <= axis < rank for axis in axes), f"expected axes of {rank}, got {axes}")
        places = sorted({axis % rank for axis in axes})
        need(places[0] > 0, "expected the images of a batch to stay apart")
        return places, bool(self.attribute("keepdims", 1))

    # --- windows -----------------------------------------------------------------------------------------------------

    def pool(self, ranks: Collection[int] = (2,)) -> Window:
        """Return the window of a MaxPool, AveragePool or LpPool; with ceil_mode, padded until its last place fits."""
        self.require(storage_order=0)
        window = self.window(self.attribute("kernel_shape", []), ranks)
        if not self.attribute("ceil_mode", 0):
            return window
        need(self.attribute("auto_pad", b"NOTSET") == b"NOTSET", "expected ceil_mode without auto_pad")
        ends = []
        for axis, size in enumerate(self.shape()[1:]):
            step, begin, end = window.stride[axis], window.begins[axis], window.ends[axis]
            over = size + begin + end - (window.kernel[axis] - 1) * window.dilation[axis] - 1
            need(over >= 0, "expected windows that fit")
            places = -(-over // step)
            need(places * step < size + begin, "with ceil_mode, a window begins behind the values: runtimes differ")
            ends.append(end + places * step - over if places * step > over else end)
        return replace(window, ends=ends)

    def window(self, kernel: Sequence[int], ranks: Collection[int] = (2,)) -> Window:
        """Return the window of this size.

        Args:
            kernel: its size along each axis.
            ranks: how many axes it may have.
        """
        shape, rank = self.shape(), len(kernel)
        axes = " or ".join(map(str, ranks))
        need(
            rank in ranks and len(shape) == rank + 1,
            f"expected a window over the {axes} axes of images, got one over {rank} of {shape}",
        )
        stride, dilation = self.steps("strides", rank), self.steps("dilations", rank)
        kind, pads = self.attribute("auto_pad", b"NOTSET"), [int(pad) for pad in self.attribute("pads", [0] * 2 * rank)]
        need(kind == b"NOTSET" or not any(pads), "expected pads or auto_pad, not both")
        # runtimes leave dilations out of account there
        need(kind not in SAME or max(dilation) == 1, f"expected no dilations where auto_pad is {kind!r}")
        if kind in SAME:
            spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
            totals = [
                (-(-size // step) - 1) * step + span - size
                for size, step, span in zip(shape[1:], stride, spans, strict=True)
            ]
            # onnxruntime pads by less than nothing too: in front of the values the half of -1 is still 0
            least = -1 if kind == SAME[0] else -2
            need(min(totals) >= least, f"by {kind.decode()} windows begin behind the first values: runtimes differ")
            totals = [max(total, 0) for total in totals]
            less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
            pads = [*less, *more] if kind == SAME[0] else [*more, *less]
        elif kind == b"VALID":
            pads = [0] * 2 * rank
        need(len(pads) == 2 * rank and min(pads) >= 0, f"expected 2 x {rank} paddings of at least 0, got {pads}")
        return Window([int(size) for size in kernel], stride, dilation, pads[:rank], pads[rank:])

    def steps(self, attribute: str, rank: int) -> list[int]:
        """Return an attribute of steps along so many axes."""
        steps = [int(step) for step in self.attribute(attribute, [1] * rank)]
        need(len(steps) == rank and min(steps) >= 1, f"expected {rank} {attribute} of at least 1, got {steps}")
        return steps

    # --- what only moves entries -------------------------------------------------------------------------------------

    def order(self) -> tuple[int, ...]:
        """Return the order in which a Transpose puts the axes, that of the batch among them."""
        order = tuple(self.attribute("perm", reversed(range(len(self.shape()) + 1))))
        need(order[0] == 0, f"expected the batch to stay first, got perm = {order}")
        return order

    def parts(self) -> tuple[int, list[int]]:
        """Return the axis of a Split, counted with the batch, and the sizes of its parts."""
        count, axis = len(self.node.outputs), self.axis(0, len(self.shape()) + 1)
        self.require(num_outputs=count)
        size, sizes = self.shape()[axis - 1], self.integers("split", 1)
        if sizes is None:
            each = -(-size // count)
            sizes = np.diff(np.minimum(np.arange(count + 1) * each, size)).tolist()
        fits = sum(sizes) == size and len(sizes) == count and min(sizes) > 0
        need(fits, f"expected parts that add up to {size}, got {sizes}")
        return axis, sizes

    def need_inert(self) -> None:
        """Raise unless a Cast, Dropout or Identity gives what it reads."""
        if self.node.operator == "Cast":
            self.require(to=1)  # float32
        if self.node.operator == "Dropout" and self.has(2):
            need(not self.array(2).any(), "expected a Dropout that does nothing, as in inference")


def new_shape(node: Operands[Any]) -> tuple[int, ...]:
    """Return the shape, without the batch, to which a node of `SHAPES` brings what it reads."""
    return SHAPES[node.node.operator](node)


def _flatten(node: Operands[Any]) -> tuple[int, ...]:
    axis = node.attribute("axis", 1)
    shape = node.shape()
    place = axis + len(shape) + 1 if axis < 0 else axis
    # what lies in front of the axis is merged with the batch, which stays apart where that is 1
    need(1 <= place <= len(shape) + 1 and prod(shape[: place - 1]) == 1, f"expected axis = 1, got {axis}")
    return (prod(shape[place - 1 :]),)


def _reshape(node: Operands[Any]) -> tuple[int, ...]:
    shape, target = node.shape(), [int(size) for size in node.array(1)]
    need(not node.attribute("allowzero", 0) or 0 not in target, "expected allowzero = 0, got 1")
    # the size of the batch may be written as -1, 0 or a number: what each image holds tells whether it stays the batch
    # where all other sizes are given; where one is not, a number of images has to be the file's own
    if -1 in target[1:]:
        declared = (node.walk.graph.input_shape or (None,))[0] or 1  # a file that mixes a free batch is run one by one
        is_batch = target[0] == declared or (target[0] < 1 and target[0] != -1)
        need(is_batch, f"expected a shape that keeps the batch apart, got {target}")
    sizes = [(0, *shape)[place] if size == 0 and place <= len(shape) else size for place, size in enumerate(target)][1:]
    if sizes.count(-1) == 1:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(shape) // known if known else 0
    fits = bool(target) and prod(sizes) == prod(shape) and min(sizes, default=1) >= 1
    need(fits, f"expected a shape that keeps the batch apart, got {target}")
    return tuple(sizes)


def _squeeze(node: Operands[Any]) -> tuple[int, ...]:
    shape, axes = node.shape(), node.integers("axes", 1)
    places = {axis % (len(shape) + 1) for axis in axes or ()}
    need(bool(axes) and 0 not in places, "expected axes, and the batch to stay first")  # of none, runtimes take all
    need(all(shape[place - 1] == 1 for place in places), f"expected axes of one entry, got {axes} of {shape}")
    return tuple(size for place, size in enumerate(shape, 1) if place not in places)


def _unsqueeze(node: Operands[Any]) -> tuple[int, ...]:
    axes = node.integers("axes", 1)
    rank = len(node.shape()) + 1 + len(axes or ())
    places = {axis % rank for axis in axes or ()}
    need(axes is not None and 0 not in places, "expected axes, and the batch to stay first")
    old = iter(node.shape())
    return tuple(1 if place in places else next(old) for place in range(1, rank))


SHAPES: Final = {"Flatten": _flatten, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze}
"""Operators that keep the order of entries, and the shape that they give."""
