"""Nodes that only move entries: they compute nothing, so chains go through them as they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.descent import Descent, Step, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import pulled_back


@final
@dataclass(frozen=True, slots=True)
class Move(Unary):
    """Entries in other places, some left out or repeated, and zeros: a linear map of zeros and ones, a one in a row.

    Args:
        output: name of what it gives.
        input: name of what it reads.
        move: the function; the batch stays the first axis.
    """

    output: str
    input: str
    move: Callable[[Tensor], Tensor]

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
    """Several values one after another.

    Args:
        output: name of what it gives.
        parts: names of what it reads.
        axis: counted from the front; not the batch.
    """

    output: str
    parts: tuple[str, ...]
    axis: int

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return self.parts

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        parts = [values[name] for name in self.parts]
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
        sizes = [descent.values[name].lower.shape[self.axis] for name in self.parts]
        for name, piece in zip(self.parts, rows.split(sizes, self.axis + 1), strict=True):
            descent.account(piece, descent.values[name].magnitude)
            descent.send(name, piece)


@final
@dataclass(frozen=True, slots=True)
class Planted(Step):
    """A constant, the same for each image.

    Args:
        output: name of what it gives.
        source: name of the network's input, which tells how many images there are.
        constant: with one entry along the first axis.
    """

    output: str
    source: str
    constant: Enclosure

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.source,)

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        images = len(values[self.source].lower)
        found = self.constant.moved(lambda entries: entries.expand(images, *entries.shape[1:]))
        return replace(found, underflow=found.underflow.expand(images), reach=found.reach.expand(images))

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.finish(self.output, rows)
