"""Intervals alone, with two products an affine node: the quick pass in front of a margin's proof.

Between held values that one affine node joins, only the ends of what may be computed are wanted. They take one product
for the centre and one for everything else: |W| (r + g M) + g |b| + T with g = gamma(n) of the file's roundings plus
that of our own. The arithmetic is float64 or, ten times as fast on a CPU, float32, whose errors the same inequality
bounds: g doubles. The latter assumes that torch's float32 convolutions and products on the CPU are sums of products of
binary32, as they are unless torch is told to shorten them, which is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Final, final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import RELU
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held, largest, spread
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation

_FEW: Final = 16
_Ends = tuple[Tensor, Tensor]


def closing(steps: Sequence[Step]) -> frozenset[str]:
    """Return the affine outputs of which only the ends are asked for, by nonlinear steps."""
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    return frozenset(
        step.output
        for step in steps
        if isinstance(step, Affine)
        and step.map.weights.radius is None
        and step.output in readers
        and all(reader.reads_ends for reader in readers[step.output])
    )


@final
class EndsPass:
    """One pass over the steps that keeps ends of computed values where it can, and enclosures elsewhere.

    Args:
        steps: all steps, in order.
        dtype: float64 or float32, of the arithmetic.
    """

    def __init__(self, steps: Sequence[Step], dtype: torch.dtype) -> None:
        self._steps = steps
        self._dtype = dtype
        self._closing = closing(steps)
        self._weights: dict[str, _Ends] = {}

    def run(self, source: str, lower: Tensor, upper: Tensor, wanted: frozenset[str]) -> dict[str, Enclosure]:
        """Return enclosures of the wanted tensors, and of some others; held ones are enough for a margin's proof."""
        ends: dict[str, _Ends] = {source: (lower.to(self._dtype), upper.to(self._dtype))}
        values: dict[str, Enclosure] = {}
        for step in self._steps:
            made = self._ends(step, ends)
            if made is not None:
                ends[step.output] = made
                continue
            for name in step.inputs:
                _take(name, values, ends)
            values[step.output] = step.forward(values)
        for name in wanted:
            _take(name, values, ends)
        return values

    def _ends(self, step: Step, ends: Mapping[str, _Ends]) -> _Ends | None:
        """Return the ends of a step's output, None where they are not found in this way."""
        if any(name not in ends for name in step.inputs):
            return None
        if isinstance(step, Move):
            lower, upper = ends[step.input]
            return step.move(lower), step.move(upper)
        if isinstance(step, Activation) and step.function is RELU:
            lower, upper = ends[step.input]
            # a subnormal value may be flushed to 0
            return (lower - arithmetic.TINY).clamp(min=0), upper.clamp(min=0)
        if isinstance(step, Affine) and step.output in self._closing:
            return self._affine(step, *ends[step.input])
        return None

    def _affine(self, step: Affine, lower: Tensor, upper: Tensor) -> _Ends | None:
        weights, products = step.map.weights, step.map.products
        own_gamma = arithmetic.own_gamma if self._dtype is torch.float64 else arithmetic.single_gamma
        own = own_gamma(products + _FEW)
        size = torch.maximum(-lower, upper)  # |x|, as lower <= upper
        bias_size = 0.0 if step.bias is None else float(step.bias.magnitude.max())
        reach = largest(size).double()
        top = (step.map.row_sum * reach + bias_size) * (1 + 2.0**-20)
        reach_after = torch.maximum(torch.maximum(reach * max(products, 1), top), torch.ones_like(top))
        fits = (2 * top < arithmetic.LARGEST) & (reach_after * step.peak < arithmetic.LARGEST)
        if not bool(fits.all()) or weights.gain >= arithmetic.LARGEST:
            return None  # entry by entry then
        roundings = max(weights.roundings, 0 if step.bias is None else step.bias.roundings) + products + 1
        share = arithmetic.gamma(roundings) + own
        lost = step.underflow_after(torch.zeros_like(reach), reach_after)
        # of this pass itself, where it is float32
        lost = lost + arithmetic.TINY * (8 * (products + 1) + step.map.row_sum + 8 * reach_after)
        center_weights, absolute = self._cast(step)
        center = step.map.apply(center_weights, lower / 2 + upper / 2)
        room = step.map.apply(absolute, (upper - lower) / 2 + share * size)
        if step.bias is not None:
            center = center + (step.bias.lower / 2 + step.bias.upper / 2).to(self._dtype)
            width = (step.bias.upper - step.bias.lower) / 2 + share * step.bias.magnitude
            room = room + width.to(self._dtype)
        room = (room + spread(lost, room).to(self._dtype)) * (1 + 2 * own)
        return center - room, center + room

    def _cast(self, step: Affine) -> _Ends:
        if step.output not in self._weights:
            weights = step.map.weights
            self._weights[step.output] = weights.center.to(self._dtype), weights.absolute.to(self._dtype)
        return self._weights[step.output]


def _take(name: str, values: dict[str, Enclosure], ends: Mapping[str, _Ends]) -> None:
    """Turn ends into an enclosure of a held value, unless there is one."""
    if name not in values and name in ends:
        lower, upper = ends[name]
        values[name] = held(lower.double(), upper.double())
