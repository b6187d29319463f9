"""Intervals alone, as a quick pass: ends of what may be computed, in as few operations an entry as there can be."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import RELU, flushed
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.quick import Interval, Layer, QuickPass, beyond


@final
class EndsPass(QuickPass[Interval]):
    """A quick pass over boxes, which keeps their ends: see `QuickPass`."""

    @override
    def made(self, step: Step, kept: Mapping[str, Interval]) -> Interval | None:
        lower, upper = kept[step.inputs[0]]
        if isinstance(step, Move):
            return step.move(lower), step.move(upper)
        if isinstance(step, Activation):
            if step.function is RELU:
                # a subnormal value may be flushed to 0
                return torch.nn.functional.threshold(lower, arithmetic.TINY, 0.0), upper.clamp(min=0)
            found = beyond(*step.function.interval(*flushed(lower.double(), upper.double())), self.dtype)
            return found if all(bool((end.abs() < arithmetic.LARGEST).all()) for end in found) else None
        if isinstance(step, Largest):
            return flushed(step.pool(lower), step.pool(upper))
        layer = self.layer(step)
        return None if layer is None else _around(layer, lower, upper)

    @override
    def _ends(self, kept: Interval) -> Interval:
        return kept[0].double(), kept[1].double()


def _around(layer: Layer, lower: Tensor, upper: Tensor) -> Interval | None:
    size = size_of(lower, upper)
    room = layer.room((upper - lower).add_(size, alpha=2 * layer.share), float(size.amax()))
    if room is None:
        return None
    middle = layer.middle(torch.lerp(lower, upper, 0.5))
    return middle - room, middle.add_(room)


def size_of(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the largest absolute value between two ends, the lower one first."""
    return upper if bool(lower.amin() >= 0) else torch.maximum(-lower, upper)
