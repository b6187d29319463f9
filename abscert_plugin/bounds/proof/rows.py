"""Values whose first axis holds the rows of all images, as where a dense layer is applied to sequences.

Such a value is [batch x rows, *features] in the file and is known here as [batch, rows, *features]: the same numbers in
the same order. A Reshape makes one and takes it apart again; between, only what acts on each row alone is known.
"""

from math import prod
from typing import Final

from abscert_plugin.bounds.proof.building import View
from abscert_plugin.graph.nodes import Node
from abscert_plugin.graph.rules import ENTRYWISE
from abscert_plugin.graph.walk import need

_WITH_CONSTANTS: Final = frozenset({"Add", "Div", "Mul", "Sub"})
_KNOWN: Final = ENTRYWISE | _WITH_CONSTANTS | {"Gemm", "MatMul", "Reshape"}


def need_rowwise(view: View) -> None:
    """Raise unless a node that reads rows acts on each of them alone, in the same way."""
    node, walk = view.node, view.walk
    need(node.operator in _KNOWN, "expected a node that acts on each row alone, where rows of all images are one axis")
    need(all(name in walk.rows for name in node.inputs if name in walk.values), "expected values of rows alone")
    if node.operator in ("Gemm", "MatMul"):
        need(view.is_constant(1) and len(shape_of(view, node, 1)) == 2, "expected rows times a matrix")
    elif node.operator != "Reshape":
        rank = len(view.shape())  # that of the file's value, whose first axis the batch is part of
        for place, name in enumerate(node.inputs):
            given = shape_of(view, node, place) if name and name not in walk.values else ()
            need(len(given) < rank or (len(given) == rank and given[0] == 1), "expected the same constant for all rows")


def shape_of(view: View, node: Node, place: int) -> tuple[int, ...]:
    """Return the shape of a constant."""
    name = node.inputs[place]
    known = view.walk.constants.get(name)
    return tuple(view.walk.arrays[name].shape if known is None else known.lower.shape)


def reshape(view: View) -> None:
    """Give the entries in another shape, which may merge the axes behind the batch with it, or take them apart."""
    shape, target = view.shape(), [int(size) for size in view.array(1).reshape(-1)]
    need(bool(target), "expected a shape")
    need(not view.attribute("allowzero", 0) or 0 not in target, "expected allowzero = 0, got 1")
    total, is_rows = prod(shape), view.name() in view.walk.rows
    count, others = (shape[0], shape[1:]) if is_rows else (1, shape)
    first, *rest = target
    need(
        all(size or place <= len(others) for place, size in enumerate(rest, 1)),
        f"expected a 0 for an axis, got {target}",
    )
    rest = [others[place] if size == 0 else size for place, size in enumerate(rest)]
    if rest.count(-1) == 1:
        whole = total // count if first == 0 else total
        if first > 0:  # so many rows of all images; a file that mixes a free batch is run one by one
            images = (view.walk.graph.input_shape or (None,))[0] or 1
            need(first % images == 0, f"expected a shape that keeps the batch apart, got {target}")
            whole = total // (first // images)
        known = prod(size for size in rest if size != -1)
        rest[rest.index(-1)] = whole // known if known else 0
    rows = total // prod(rest) if min(rest, default=1) >= 1 else 0
    fits = rows * prod(rest) == total and (rows == 1 or first in (-1, rows) or (first == 0 and rows == count))
    need(fits, f"expected a shape that keeps the batch apart, got {target}")
    made = (rows, *rest) if rows > 1 else tuple(rest)
    view.moved(lambda values: values.reshape(len(values), *made))
    if rows > 1:
        view.walk.rows.add(view.output)
