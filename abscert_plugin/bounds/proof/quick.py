"""One pass over the steps in front of a margin's proof, which keeps little of each value: see `ends` and `points`.

Between held values that one affine node joins, only what may be computed there is wanted. It lies around the product
of a middle c, in two products an affine node:

    |computed - (W c + b)| <= |W| (r + g X) + g |b| + T,

where the held input lies within r of c and its absolute value below X, and g = gamma(n) of the file's roundings plus
that of our own. *Proof.* `enclosure` bounds what the file computes by its ideal value W x + b and gamma(n) (|W| |x| +
|b|) + T; W x + b lies within |W| r of W c + b. Our own product rounds sums of at most |W| X + |b|, as |c| <= X. QED.

The arithmetic is float64 or, ten times as fast on a CPU, float32, whose errors the same inequality bounds: g doubles.
The latter assumes that torch's float32 convolutions and products on the CPU are sums of products of binary32, as they
are unless torch is told to shorten them, which is refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar, final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure, held

_FEW: Final = 16
_CAST: Final = 1 + 2.0**-22  # a number of float32 times this is rounded up, or is that of a bound below
_Kept = TypeVar("_Kept")
Interval = tuple[Tensor, Tensor]


def closing(steps: Sequence[Step]) -> frozenset[str]:
    """Return the affine outputs that end their chains: nonlinear steps alone read them."""
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    return frozenset(
        step.output
        for step in steps
        if isinstance(step, Affine)
        and not step.kind.narrowing
        and step.map.weights.radius is None
        and step.output in readers
        and all(reader.reads_ends for reader in readers[step.output])
    )


@final
class Layer:
    """An affine step that ends its chain, as a quick pass computes it.

    Args:
        step: the step.
        dtype: float64 or float32, of the arithmetic.
    """

    def __init__(self, step: Affine, dtype: torch.dtype) -> None:
        weights, self._step, self._dtype = step.map.weights, step, dtype
        products, bias = step.map.products, step.bias
        own = (arithmetic.own_gamma if dtype is torch.float64 else arithmetic.single_gamma)(products + _FEW)
        roundings = max(weights.roundings, 0 if bias is None else bias.roundings) + products + 1
        self.share = arithmetic.gamma(roundings) + own
        """g: what the file's roundings and our own do to a sum, as a share of its absolute terms."""
        self._grown = (1 + 2 * own) * _CAST
        self._weight = weights.center.to(dtype)
        self._half_absolute = (weights.absolute * (self._grown / 2)).to(dtype)
        self._bias = None if bias is None else (bias.lower / 2 + bias.upper / 2).to(dtype)
        self._room = torch.zeros((), dtype=torch.float64)
        if bias is not None:
            self._room = (bias.upper - bias.lower) / 2 + self.share * bias.magnitude
        self._bias_size = 0.0 if bias is None else float(bias.magnitude.max())
        self._is_known = self.share < 0.5 and weights.gain < arithmetic.LARGEST

    def middle(self, center: Tensor) -> Tensor:
        """Return W c + b, about."""
        found = self._step.map.apply(self._weight, center)
        return found if self._bias is None else found.add_(self._bias)

    def room(self, doubled: Tensor, size: float) -> Tensor | None:
        """Return how far what is computed may lie from the middle; None where a step may overflow.

        Args:
            doubled: 2 (r + g X).
            size: the largest X.
        """
        step, products = self._step, self._step.map.products
        top = (step.map.row_sum * size + self._bias_size) * (1 + 2.0**-20)
        reach = max(size * max(products, 1), top, 1.0)
        fits = 2 * top < arithmetic.LARGEST and reach * max(step.peak, 2.0) < arithmetic.LARGEST
        if not fits or not self._is_known:
            return None
        lost = float(step.underflow_after(torch.zeros(1, dtype=torch.float64), torch.tensor([reach]).double()))
        # of this pass itself, where it is float32; and inputs may have been flushed behind what r was found of
        lost += arithmetic.TINY * (8 * (products + 1) + 3 * step.map.row_sum + 8 * reach)
        found = step.map.apply(self._half_absolute, doubled)
        return found.add_(((self._room + lost) * self._grown).to(self._dtype))


class QuickPass(ABC, Generic[_Kept]):
    """One pass over the steps that keeps `_Kept` of held values where it can, and enclosures elsewhere.

    Args:
        steps: all steps, in order.
        dtype: float64 or float32, of the arithmetic.
    """

    def __init__(self, steps: Sequence[Step], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._steps = steps
        self._closing = closing(steps)
        self._layers: dict[str, Layer] = {}

    def run(self, source: str, start: _Kept, wanted: frozenset[str]) -> dict[str, Enclosure]:
        """Return enclosures of the wanted tensors, and of some others; held ones are enough for a margin's proof.

        Args:
            source: name of the tensor that boxes are of.
            start: what is known of it.
            wanted: names of tensors.
        """
        kept: dict[str, _Kept] = {source: start}
        values: dict[str, Enclosure] = {}
        for step in self._steps:
            made = self.made(step, kept) if all(name in kept for name in step.inputs) else None
            if made is not None:
                kept[step.output] = made
                continue
            for name in step.inputs:
                self._take(name, values, kept)
            values[step.output] = step.forward(values)
        for name in wanted:
            self._take(name, values, kept)
        return values

    def layer(self, step: Step) -> Layer | None:
        """Return an affine step that ends its chain, None of any other."""
        if not isinstance(step, Affine) or step.output not in self._closing:
            return None
        if step.output not in self._layers:
            self._layers[step.output] = Layer(step, self.dtype)
        return self._layers[step.output]

    def _take(self, name: str, values: dict[str, Enclosure], kept: Mapping[str, _Kept]) -> None:
        """Turn what is kept into an enclosure of a held value, unless there is one."""
        if name not in values and name in kept:
            values[name] = held(*self._ends(kept[name]))

    @abstractmethod
    def made(self, step: Step, kept: Mapping[str, _Kept]) -> _Kept | None:
        """Return what is known of a step's output, None where that is not found in this way; all inputs are kept."""

    @abstractmethod
    def _ends(self, kept: _Kept) -> Interval:
        """Return ends of what may be computed, in float64."""


def beyond(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Interval:
    """Return ends in a dtype that enclose those in float64."""
    ends = lower.to(dtype), upper.to(dtype)
    if dtype is torch.float64:
        return ends
    inf = torch.tensor(torch.inf, dtype=dtype)
    return ends[0].nextafter(-inf), ends[1].nextafter(inf)
