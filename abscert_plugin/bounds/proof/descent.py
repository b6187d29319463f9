"""One pass backward: rows over computed values become lower bounds of their products with them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Function, Lines, flushed
from abscert_plugin.bounds.proof.enclosure import Enclosure


class Step(ABC):
    """A node of the graph, forward on enclosures and backward on rows."""

    output: str
    ends_chains: ClassVar[bool] = False
    """Whether what it reads is computed before it and a new chain begins behind it; an affine node says no."""
    reads_ends: ClassVar[bool] = False
    """Whether it asks nothing of what it reads but the ends of what may be computed."""

    is_closer: ClassVar[bool] = False
    """Whether the ends of what it gives are closer than those of what it reads imply, so that intervals stop there."""

    sends_rows: ClassVar[bool] = True
    """Whether `backward` hands rows on, which lines of what comes before could make better."""

    is_curved: ClassVar[bool] = False
    """Whether closer ends of what it reads are worth a backward pass: lines of a curve are much closer between them."""

    @property
    @abstractmethod
    def inputs(self) -> Sequence[str]:
        """Names of what it reads and depends on the network's input."""

    @abstractmethod
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        """Return the enclosure of what it gives."""

    @abstractmethod
    def backward(self, rows: Tensor, descent: "Descent") -> None:
        """Hand rows over its output, [batch, row, *shape], on to its inputs, and take off what may be lost."""


class Unary(Step):
    """A node that reads one value alone that depends on the network's input."""

    input: str

    @property
    @override
    def inputs(self) -> Sequence[str]:
        return (self.input,)


Slopes = Mapping[str, Tensor]
"""Shares that choose lines of activations, of a ReLU its lower slope, by the name of what they read: [batch, *shape]
or [batch, row, *shape]."""

Part = Mapping[str, tuple[Tensor, Tensor]]
"""Ends of what activations may read, by the name of it: the part of all evaluations that a bound is asked for."""

Multipliers = Mapping[str, tuple[Tensor, Tensor]]
"""By the name of what activations read, multipliers and ends, [batch, *shape] each, numbers of float32: a multiplier is
above 0 only where that is at least the end in all of a part, below 0 only where it is at most the end there."""


class Descent:
    """Lower bounds of rows @ value, in the making.

    Rows are sent from a step to the steps before it. They stand for *ideal* values of chains; a step that reads the
    computed one takes off its error first (`read`). `add` and `lose` change the bounds; `account` notes the size of
    what float64 has rounded: the products and sums of a step have at most as many terms as its output has entries, and
    |rows| M bounds the sum of their absolute values, as M bounds |W| |x| + |b|.

    Args:
        values: enclosures of all tensors.
        slopes: shares that choose lines, by the name of what an activation reads; any are sound.
        part: ends of computed values; bounds hold for the evaluations whose values lie between them.
        multipliers: of the ends e that a part knows: m (z - e) >= 0 of a value z on the known side of it, so what is
            bounded less m (z - e) is no larger (Wang et al. 2021, beta-CROWN).
        seen: takes up the rows by which bounds depend on what is held, by its name; None where no one asks.
        kept: takes up the lines that no slopes choose, by what an activation gives, for other descents of the same
            values and part; None where there are none.
    """

    def __init__(
        self,
        values: Mapping[str, Enclosure],
        slopes: Slopes,
        part: Part | None = None,
        multipliers: Multipliers | None = None,
        seen: dict[str, Tensor] | None = None,
        kept: dict[str, Lines] | None = None,
    ) -> None:
        self.values = values
        self._slopes = slopes
        self._seen = seen
        self._kept = {} if kept is None else kept
        self._part = part or {}
        self._multipliers = multipliers or {}
        self._pending: dict[str, Tensor] = {}
        self._bounds: Tensor | float = 0.0
        self._sizes: Tensor | float = 0.0
        self._terms = 64
        none = torch.zeros(0)
        self._last = none, none  # rows, and their absolute values

    @staticmethod
    def dot(rows: Tensor, values: Tensor) -> Tensor:
        """Return the product of each row with the values of its image: [batch, row]."""
        return (rows.flatten(2) @ values.flatten(1).unsqueeze(2)).squeeze(2)

    def add(self, amount: Tensor) -> None:
        """Add to the bounds, [batch, row]; the caller accounts for its terms."""
        self._bounds = self._bounds + amount

    def lose(self, rows: Tensor, error: Tensor) -> None:
        """Take off what an error of each entry can do to the rows."""
        amount = self.dot(self._absolute(rows), error)
        self._bounds = self._bounds - amount
        self._sizes = self._sizes + amount
        self._terms += 4 + error[0].numel()

    def gain(self, rows: Tensor, amount: Tensor) -> None:
        """Add the products of rows, [batch, row, *shape], with amounts of each image, or of each row of it."""
        if len(amount) and amount.shape[1] == 1:  # as most are: one for all rows of an image
            found = self.dot(rows, amount[:, 0])
            size = self.dot(self._absolute(rows), amount[:, 0].abs())
        else:
            terms = (rows * amount).flatten(2)
            found, size = terms.sum(2), terms.abs().sum(2)
        self.add(found)
        self._sizes = self._sizes + size
        self._terms += 8 + rows[0, 0].numel()

    def account(self, rows: Tensor, size: Tensor) -> Tensor:
        """Note that terms of at most |rows| size were multiplied and added in float64, and return their sum."""
        amount = self.dot(self._absolute(rows), size)
        self._sizes = self._sizes + amount
        self._terms += 8 + size[0].numel()
        return amount

    def _absolute(self, rows: Tensor) -> Tensor:
        """Return |rows|, which several steps ask for one after the other."""
        if self._last[0] is not rows:
            self._last = rows, rows.abs()
        return self._last[1]

    def activated(self, name: str) -> tuple[Tensor, Tensor]:
        """Return ends of what an activation may read, in the part that the bounds are of."""
        lower, upper = self.values[name].computed()
        if name not in self._part:
            return lower, upper
        least, most = self._part[name]
        lower, upper = torch.maximum(lower, least), torch.minimum(upper, most)
        # where nothing lies between them, the part is empty there, and every bound is true of it
        return torch.minimum(lower, upper), upper

    def lines(self, output: str, name: str, function: Function, tiny: float) -> Lines:
        """Return lines below and above an activation, [batch, *shape] or [batch, row, *shape], in the part.

        Args:
            output: of what it gives; others may read the same.
            name: of what it reads.
            function: what it computes.
            tiny: the least normal number that it reads.
        """
        given = self._slopes.get(name)
        if given is None and output in self._kept:
            return self._kept[output]
        lower, upper = flushed(*self.activated(name), tiny)
        if given is None:
            return self._kept.setdefault(output, function.lines(lower, upper))
        if given.ndim > lower.ndim:  # of each row
            lower, upper = lower.unsqueeze(1), upper.unsqueeze(1)
        below, above = function.chosen(lower, upper, given.to(lower.dtype))
        return below, above, *function.offsets(lower, upper, below, above)

    def multiplied(self, name: str, rows: Tensor) -> Tensor:
        """Return rows over computed values less the multipliers of what is known, whose ends are added."""
        known = self._multipliers.get(name)
        if known is None:
            return rows
        # rows were rounded in shares of what they are here, which may cancel
        self.account(rows, self.values[name].size())
        multipliers, ends = known  # of 24 bits each: their products are exact
        terms = (multipliers * ends).flatten(1)
        self.add(terms.sum(1, keepdim=True))
        self._sizes = self._sizes + terms.abs().sum(1, keepdim=True)
        self._terms += terms.shape[1]
        return rows - multipliers.unsqueeze(1)

    def send(self, name: str, rows: Tensor) -> None:
        """Hand rows over ideal values on."""
        self._pending[name] = self._pending[name] + rows if name in self._pending else rows

    def read(self, name: str, rows: Tensor) -> None:
        """Hand rows over computed values on, after taking off what these may differ by from the ideal ones."""
        value = self.values[name]
        error = value.error()
        if error is None:
            self.account(rows, value.magnitude)
        else:
            self.lose(rows, error)
            self.account(rows, (value.magnitude + error) * (1 + arithmetic.own_gamma(2)))
        self.send(name, rows)

    def show(self, name: str, rows: Tensor) -> None:
        """Note the rows over a held value."""
        if self._seen is not None:
            self._seen[name] = rows

    def finish(self, name: str, rows: Tensor) -> None:
        """Concretise rows over held values by their ends."""
        self.show(name, rows)
        value = self.values[name]
        self.add(self.dot(rows.clamp(min=0), value.lower) + self.dot(rows.clamp(max=0), value.upper))
        self.account(rows, value.magnitude)

    def run(self, steps: Sequence[Step], name: str, rows: Tensor, stops: Collection[str]) -> Float[Tensor, "batch row"]:
        """Return lower bounds of rows @ the computed value of a tensor, -inf where nothing is known.

        Args:
            steps: those that the tensor needs, in order.
            name: the tensor.
            rows: [batch, row, *shape].
            stops: held tensors at whose ends to stop.
        """
        self.read(name, rows)
        return self._descend(steps, stops)

    def run_ideal(
        self, steps: Sequence[Step], name: str, rows: Tensor, stops: Collection[str]
    ) -> Float64[Tensor, "batch row"]:
        """Return lower bounds of rows @ the ideal value of a tensor, as `run` does of the computed one."""
        self.account(rows, self.values[name].magnitude)
        self.send(name, rows)
        return self._descend(steps, stops)

    def _descend(self, steps: Sequence[Step], stops: Collection[str]) -> Tensor:
        for step in reversed(steps):
            if step.output in self._pending and step.output not in stops:
                step.backward(self._pending.pop(step.output), self)
        for source in list(self._pending):
            self.finish(source, self._pending.pop(source))
        assert isinstance(self._bounds, Tensor)
        bounds = self._bounds - 2 * arithmetic.own_gamma(self._terms) * self._sizes
        return torch.where(bounds.isfinite(), bounds, -torch.inf)
