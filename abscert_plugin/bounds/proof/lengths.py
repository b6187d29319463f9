"""Single points by how long a difference is: what the file computes lies around what this pass computes.

Intervals let every entry be off by as much as it can, all to the same side: of layers of thousands of products the
room doubles by tens a layer, where errors mostly cancel. A vector's length (Euclid's) grows by the largest singular
value of the weights alone (`spectral`), a tenth of that. So beside the room r of each entry, of each image the length
D of the whole difference is kept: behind an affine node, with the errors e that it makes itself (`quick`),

    D' = s D + |e|,    r' = min(|W| r, |W_i| D) + e,

where s is the largest singular value and |W_i| the length of a row; and D' <= |r'|. A function of each entry lengthens
a difference by its steepest slope at most, and adds its own errors.

At the end a margin lies around (W_label - W_j) c + b_label - b_j by |W_label - W_j| D and the errors of two logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from abscert_plugin.bounds.margin import other_classes
from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import RELU
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.maps import Matrix, pulled_back
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.quick import Layer, closing
from abscert_plugin.bounds.proof.spectral import row_lengths, stretch

_ROOM: Final = 1 + 2.0**-20  # what is computed in float32 or float64 here, times this, is above what it stands for


@final
@dataclass(frozen=True, slots=True)
class Near:
    """What is known of a value at single points: it lies around a middle.

    Args:
        middle: [image, *shape].
        room: by how much an entry may differ, [image, *shape].
        length: how long the whole difference of an image may be, [image], float64.
    """

    middle: Tensor
    room: Tensor
    length: Tensor

    @property
    def size(self) -> Tensor:
        """A bound of the absolute value of each entry."""
        return (self.middle.abs() + self.room) * _ROOM


@final
class LengthsPass:
    """A pass over points, in float64 or float32: affine nodes that end their chains, and functions of each entry.

    Args:
        steps: all steps, in order.
        source: name of the tensor that points are of.
        output: name of the logits.
        dtype: of the arithmetic.
    """

    def __init__(self, steps: Sequence[Step], source: str, output: str, dtype: torch.dtype) -> None:
        self._steps, self._source, self._dtype = steps, source, dtype
        self._closing = closing(steps)
        self._layers: dict[str, tuple[Layer, float, Tensor]] = {}
        self._repeats: dict[str, float] = {}
        self._last = next((step for step in steps if step.output == output), None)
        self._apart: Tensor | None = None

    def run(self, points: Tensor) -> dict[str, Near]:
        """Return what is known of each tensor at points, [image, *shape], where something is in this way."""
        points = points.to(self._dtype)
        found = {self._source: Near(points, torch.zeros_like(points), points.new_zeros(len(points)).double())}
        for step in self._steps:
            near = found.get(step.inputs[0]) if len(step.inputs) == 1 else None
            made = None if near is None else self._made(step, near)
            if made is not None:
                found[step.output] = made
        return found

    def margins(self, points: Tensor, labels: Tensor) -> Tensor | None:
        """Return lower bounds of logit[label] - logit[j] at points, for all other j, ascending; None where none are."""
        step = self._last
        if not isinstance(step, Affine) or not isinstance(step.map, Matrix) or step.map.weights.radius is not None:
            return None
        near = self.run(points).get(step.input)
        if step.kind.narrowing or near is None or near.middle.ndim != 2:
            return None
        layer, size = Layer(step, torch.float64), near.size.double()
        errors = layer.room(2 * layer.share * size, float(size.amax())) if len(points) else size[:, :0]
        if errors is None:
            return None
        logits, images = layer.middle(near.middle.double()), torch.arange(len(points)).unsqueeze(1)
        others = other_classes(labels, logits.shape[1])
        if self._apart is None:
            weights = step.map.weights.center.T.contiguous()
            self._apart = torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist") * _ROOM
        own = labels.unsqueeze(1)
        gap = logits[images, own] - logits[images, others]
        loss = self._apart[own, others] * near.length.unsqueeze(1) + errors[images, own] + errors[images, others]
        return gap - loss * _ROOM - 2.0**-40 * (logits[images, own].abs() + logits[images, others].abs())

    def _made(self, step: Step, near: Near) -> Near | None:
        made: Near | None = None
        if isinstance(step, Activation | Largest) and step.kind.narrowing:
            return None
        if isinstance(step, Move):
            made = Near(step.move(near.middle), step.move(near.room), near.length * self._repeated(step, near))
        elif isinstance(step, Largest):
            room = step.pool(near.room)
            made = Near(step.pool(near.middle), room, _length(room))
        elif isinstance(step, Activation):
            made = self._activated(step, near)
        elif isinstance(step, Affine) and step.output in self._closing:
            made = self._around(step, near)
        if made is None or not bool((made.size < arithmetic.LARGEST).all()):  # it may overflow
            return None
        return Near(made.middle, made.room, torch.minimum(made.length, _length(made.room)))

    def _repeated(self, step: Move, near: Near) -> float:
        """Return how much a move lengthens a vector: the root of how often it repeats an entry."""
        if step.output not in self._repeats:
            shape = tuple(near.middle.shape[1:])
            ones = torch.ones_like(step.move(torch.zeros((1, *shape), dtype=torch.float64)))
            self._repeats[step.output] = float(pulled_back(step.move, ones, shape).amax()) ** 0.5 * _ROOM
        return self._repeats[step.output]

    def _around(self, step: Affine, near: Near) -> Near | None:
        if step.output not in self._layers:
            layer = Layer(step, self._dtype)
            self._layers[step.output] = layer, stretch(step.map), row_lengths(step.map)
        (layer, longest, rows), size = self._layers[step.output], near.size
        share, top = 2 * layer.share * size, float(size.amax()) if len(size) else 0.0
        errors, room = layer.room(share, top), layer.room(2 * near.room + share, top)
        if errors is None or room is None:
            return None
        length = near.length.reshape(-1, *(1 for _ in room.shape[1:]))
        by_length = (rows * length * _ROOM + errors.double() * _ROOM).to(self._dtype) * _ROOM
        made = longest * near.length + _length(errors)
        return Near(layer.middle(near.middle), torch.minimum(room, by_length), made * _ROOM)

    def _activated(self, step: Activation, near: Near) -> Near:
        if step.function is RELU:  # that its result may be flushed is left to what reads it
            middle = near.middle.clamp(min=0)
            most = near.middle.double() + near.room.double() + 2.0**-50 * near.size.double()
            top = ((most.clamp(min=0) - middle) * _ROOM).to(self._dtype) * _ROOM  # none where it is surely off
            return Near(middle, torch.minimum(near.room, top + arithmetic.TINY), near.length)
        exact, room = near.middle.double(), near.room.double() * _ROOM + 2 * arithmetic.TINY
        least, most = step.function.interval(exact - room, exact + room)
        ends = step.function.interval(exact, exact)
        middle = (ends[0] / 2 + ends[1] / 2).to(self._dtype)
        own = torch.maximum(ends[1] - middle, middle - ends[0])  # of what the file gives at the middle itself
        room = torch.maximum(most - middle, middle - least).clamp(min=arithmetic.TINY)
        length = _length(room)
        if step.function.steepest is not None:
            slope, error = step.function.steepest
            longer = near.length * _ROOM + _length(torch.full_like(room, 2 * arithmetic.TINY))
            length = slope * longer + _length(own + error)
        return Near(middle, (room * _ROOM).to(self._dtype) * _ROOM, length * _ROOM)


def _length(values: Tensor) -> Tensor:
    """Return upper bounds of the lengths of the vectors of images."""
    return values.double().flatten(1).norm(dim=1) * _ROOM
