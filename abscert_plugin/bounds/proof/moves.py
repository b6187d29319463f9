"""Nodes that only move entries: they compute nothing, so chains go through them as they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.descent import Descent, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import pulled_back


@final
@dataclass(frozen=True, slots=True)
class Move(Step):
    """Entries in other places, some left out or repeated, and zeros: a linear map of zeros and ones, a one in a row.

    Args:
        output: name of what it gives.
        input: name of what it reads.
        move: the function; the batch stays the first axis.
    """

    output: str
    input: str
    move: Callable[[Tensor], Tensor]

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.input,)

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        return values[self.input].moved(self.move)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.account(rows, descent.values[self.output].magnitude)  # entries that are read twice are added
        shape = tuple(descent.values[self.input].lower.shape[1:])
        merged = pulled_back(self.move, rows.flatten(0, 1), shape)
        descent.send(self.input, merged.reshape(*rows.shape[:2], *shape))


@final
@dataclass(frozen=True, slots=True)
class Concatenation(Step):
    """Several values one after another; constants among them have no name.

    Args:
        output: name of what it gives.
        parts: names, or constants [1, *shape].
        axis: counted from the front; not the batch.
    """

    output: str
    parts: tuple[str | Enclosure, ...]
    axis: int

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return tuple(part for part in self.parts if isinstance(part, str))

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        images = len(values[self.inputs[0]].lower)
        parts = [self._part(part, values, images) for part in self.parts]
        return Enclosure(
            torch.cat([part.lower for part in parts], self.axis),
            torch.cat([part.upper for part in parts], self.axis),
            torch.cat([part.magnitude for part in parts], self.axis),
            max(part.roundings for part in parts),
            torch.stack([part.underflow for part in parts]).amax(0),
            torch.stack([part.reach for part in parts]).amax(0),
            max(part.gain for part in parts),
        )

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        images = len(rows)
        parts = [self._part(part, descent.values, images) for part in self.parts]
        sizes = [part.lower.shape[self.axis] for part in parts]
        pieces = rows.split(sizes, self.axis + 1)
        for name, part, piece in zip(self.parts, parts, pieces, strict=True):
            if isinstance(name, str):
                descent.send(name, piece)
            else:
                descent.add(descent.dot(piece.clamp(min=0), part.lower) + descent.dot(piece.clamp(max=0), part.upper))
                descent.account(piece, part.magnitude)

    @staticmethod
    def _part(part: str | Enclosure, values: Mapping[str, Enclosure], images: int) -> Enclosure:
        if isinstance(part, str):
            return values[part]
        expanded = part.moved(lambda entries: entries.expand(images, *entries.shape[1:]))
        return replace(expanded, underflow=part.underflow.expand(images), reach=part.reach.expand(images))
