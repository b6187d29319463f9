"""Many points at once, as a quick pass: one product an affine node for all of them, and a second one for their hull.

What the file computes at a point lies around what this pass computes there, within a room that is the same for all
points of a batch: with d for it and H for the largest absolute value over the batch, entry by entry, the next one is
|W| (d + g (H + d)) + g |b| + T (`quick`), one product of one image. ReLU, the largest of a window and moves change two
values by no more than they differ, so d goes through them; that their result may be flushed is left to what reads it.
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import RELU
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.quick import Interval, Layer, QuickPass, beyond

Around = tuple[Tensor, Tensor]
"""Middles, [batch, *shape], and a room that is the same for all, [1, *shape]."""


@final
class PointsPass(QuickPass[Around]):
    """A quick pass over points, which keeps a value at each and one room for all of them: see `QuickPass`."""

    @override
    def made(self, step: Step, kept: Mapping[str, Around]) -> Around | None:
        middle, room = kept[step.inputs[0]]
        if isinstance(step, Move):
            return step.move(middle), step.move(room)
        if isinstance(step, Activation):
            if step.function is RELU:
                return middle.clamp(min=0), room
            return self._activated(step, middle, room)
        if isinstance(step, Largest):
            return step.pool(middle), step.pool(room)
        layer = self.layer(step)
        return None if layer is None else _around(layer, middle, room)

    def _activated(self, step: Activation, middle: Tensor, room: Tensor) -> Around | None:
        exact = middle.double()
        lower, upper = step.function.interval(exact, exact)
        size = float(torch.maximum(-lower, upper).amax())
        # the file's values differ by as much, and by the errors of two: its own, and that of the middle in float64
        apart = room.double() + 2 * arithmetic.TINY
        least, most = exact.amin(0, keepdim=True) - apart, exact.amax(0, keepdim=True) + apart
        width = step.function.apart(apart, least, most) + arithmetic.UNIT * size + arithmetic.TINY
        if not bool((size + width < arithmetic.LARGEST).all()):  # it may overflow
            return None
        return (lower / 2 + upper / 2).to(self.dtype), beyond(width, width, self.dtype)[1]

    @override
    def _ends(self, kept: Around) -> Interval:
        middle, room = kept[0].double(), kept[1].double() * (1 + arithmetic.own_gamma(8)) + 2 * arithmetic.TINY
        slack = arithmetic.own_gamma(8) * middle.abs()
        return middle - room - slack, middle + room + slack


def _around(layer: Layer, middle: Tensor, room: Tensor) -> Around | None:
    size = middle.abs().amax(0, keepdim=True) + room
    room_after = layer.room(2 * (room + layer.share * size), float(size.amax()))
    return None if room_after is None else (layer.middle(middle), room_after)
