"""Nonlinear nodes, whose outputs a runtime has to hold: a chain ends at what they read and a new one begins."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.activations import Function, flushed
from abscert_plugin.bounds.proof.arithmetic import SINGLE, Format
from abscert_plugin.bounds.proof.descent import Descent, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure, held


@final
@dataclass(frozen=True, slots=True)
class Activation(Unary):
    """A function of each entry."""

    is_curved: ClassVar[bool] = True
    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    input: str
    function: Function
    kind: Format = SINGLE

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        lower, upper = values[self.input].computed()
        found = self.function.interval(*flushed(lower, upper, self.kind.tiny))
        return _held_unless_unknown(*found, lower, upper).narrowed(self.kind)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.show(self.output, rows)
        below, above, offset_below, offset_above = descent.lines(self.output, self.input, self.function, self.kind.tiny)
        if below.ndim == rows.ndim - 1:
            below, above = below.unsqueeze(1), above.unsqueeze(1)
            offset_below, offset_above = offset_below.unsqueeze(1), offset_above.unsqueeze(1)
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        descent.gain(positive, offset_below)
        descent.gain(negative, offset_above)
        over = torch.addcmul(positive * below, negative, above)
        descent.read(self.input, descent.multiplied(self.input, over))


@final
@dataclass(frozen=True, slots=True)
class Hold(Unary):
    """A value as it is, which a node behind it reads as one tensor: a new chain begins.

    Args:
        output: name of what it gives.
        input: name of what it reads.
        most: absolute value beyond which nothing is known of it.
    """

    is_curved: ClassVar[bool] = True
    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    input: str
    most: float = math.inf

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        lower, upper = values[self.input].computed()
        fits = torch.maximum(lower.abs(), upper.abs()) <= self.most
        lower, upper = lower.where(fits, -torch.inf), upper.where(fits, torch.inf)
        return _held_unless_unknown(lower, upper, lower, upper)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.read(self.input, rows)


@final
@dataclass(frozen=True, slots=True)
class Largest(Unary):
    """The largest of the entries of each window; padding never wins.

    Args:
        output: name of what it gives.
        input: name of what it reads.
        pool: the function, monotone in each entry.
        kind: of what numbers.
    """

    ends_chains: ClassVar[bool] = True
    reads_ends: ClassVar[bool] = True
    output: str
    input: str
    pool: Callable[[Tensor], Tensor]
    kind: Format = SINGLE

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        lower, upper = values[self.input].computed()
        # what is unknown makes the windows unknown that hold it
        size = self.pool(values[self.input].magnitude)
        lower, upper = self.pool(lower), self.pool(upper)
        is_known = size < torch.inf
        lower, upper = lower.where(is_known, -torch.inf), upper.where(is_known, torch.inf)
        return _held_unless_unknown(*flushed(lower, upper, self.kind.tiny), lower, upper).narrowed(self.kind)

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        descent.finish(self.output, rows)


def _held_unless_unknown(least: Tensor, most: Tensor, lower: Tensor, upper: Tensor) -> Enclosure:
    """Return the enclosure of held values; unknown wherever the input (`lower`, `upper`) is, which may be NaN."""
    is_known = (lower > -torch.inf) & (upper < torch.inf)
    return held(least.where(is_known, -torch.inf), most.where(is_known, torch.inf))
