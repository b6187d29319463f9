"""From nodes that only move entries to those of a guard: one function an operator."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from abscert_plugin.graph.operands import SHAPES, new_shape
from abscert_plugin.graph.walk import need
from abscert_plugin.guards import layers
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.values import Chain, Ends
from abscert_plugin.guards.walk import View, moved


def _reshape(view: View) -> None:
    shape = new_shape(view)
    need(shape == view.shape_after, "expected the images of a batch to stay apart")
    pixels = view.pixels()
    if pixels is not None and pixels.is_one_scale:
        view.give(pixels.reshaped(view.once_more(pixels.center, 0)))
        return
    target = np.array([-1, *shape], dtype=np.int64)
    view.moved(lambda emitter, name: emitter.node("Reshape", [name, emitter.constant(target)]), keeps_order=True)


def _copied(view: View) -> None:
    """Give what the same node makes of the entries."""
    node, arrays = (
        view.node,
        [view.array(place) if view.has(place) else None for place in range(1, len(view.node.inputs))],
    )
    view.read.update(node.attributes)

    def move(emitter: Emitter, name: str) -> str:
        others = ["" if array is None else emitter.constant(array) for array in arrays]
        return emitter.copy(node.operator, node.attributes, [name, *others])

    view.moved(move)


def _same(view: View) -> None:
    view.need_inert()
    view.give(view.value())


def _transpose(view: View) -> None:
    order = list(view.order())
    view.moved(lambda emitter, name: emitter.node("Transpose", [name], perm=order))


def _pad(view: View) -> None:
    mode = view.attribute("mode", b"constant")
    number = float(view.array(2).reshape(-1)[0]) if mode == b"constant" and view.has(2) else 0.0
    if not number:
        _copied(view)
        return
    node, pads = view.node, view.array(1)
    need(not view.has(3), "expected a Pad of all axes where it is not by zeros")

    def padded(name: str, by: float) -> str:
        emitter = view.emitter
        return emitter.copy(node.operator, {"mode": "constant"}, [name, emitter.constant(pads), emitter.exactly(by)])

    if isinstance(view.value(), Ends):
        value = layers.plain(view.emitter, view.ends())
        is_positive, is_even = value.is_positive and number > 0, value.is_even
        ends = padded(value.lower, number), padded(value.upper, number)
        view.give(Ends(*ends, 0, view.fact.top, is_positive, is_even))
        return
    chain = layers.rescaled(view.emitter, view.chain(), 0)
    center, radius, size = padded(chain.center, number), padded(chain.radius, 0.0), padded(chain.size, abs(number))
    view.give(replace(chain, center=center, radius=radius, size=size, top=view.fact.top, near=None))


def _nearest(view: View) -> None:
    """Give entries once more, or some of them: a Resize to the nearest."""
    need(view.attribute("mode", b"nearest") == b"nearest", "expected a Resize to the nearest")
    need(not view.has(3), "expected a Resize by scales")
    _copied(view)


def _split(view: View) -> None:
    axis, sizes = view.parts()
    starts = np.cumsum([0, *sizes])
    for place, output in enumerate(view.node.outputs):
        window = [np.array([number], dtype=np.int64) for number in (starts[place], starts[place + 1], axis)]

        def move(emitter: Emitter, name: str, window: list[np.ndarray] = window) -> str:
            return emitter.node("Slice", [name, *(emitter.constant(number) for number in window)])

        if output:
            view.walk.values[output] = moved(view.emitter, view.value(), move)


def _concatenate(view: View) -> None:
    axis = view.axis(0, len(view.shape_after) + 1)
    places = range(len(view.node.inputs))
    need(not any(map(view.is_constant, places)), "expected no constants among what is put together")
    emitter = view.emitter
    if not all(isinstance(view.value(place), Ends) for place in places):
        chains = [layers.rescaled(emitter, view.chain(place), 0) for place in places]
        parts = [
            emitter.node("Concat", [getattr(chain, part) for chain in chains], axis=axis)
            for part in ("center", "radius", "size")
        ]
        fact = view.fact
        view.give(Chain(parts[0], parts[1], parts[2], 0, fact.top, fact.roundings, fact.underflow))
        return
    ends = [layers.plain(emitter, view.ends(place)) for place in places]
    lower, upper = (
        emitter.node("Concat", [getattr(end, side) for end in ends], axis=axis) for side in ("lower", "upper")
    )
    is_even = any(end.is_even for end in ends)  # its chain goes on, and may have larger terms than its ends
    top, is_positive = max(end.top for end in ends), all(end.is_positive for end in ends)
    view.give(Ends(lower, upper, 0, top, is_positive, is_even))


MOVING_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Cast": _same,
        "Concat": _concatenate,
        "DepthToSpace": _copied,
        "Dropout": _same,
        "Gather": _copied,
        "Identity": _same,
        "Pad": _pad,
        "Resize": _nearest,
        "Slice": _copied,
        "SpaceToDepth": _copied,
        "Split": _split,
        "Transpose": _transpose,
        **dict.fromkeys(SHAPES, _reshape),
    }
)
