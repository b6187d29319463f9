"""Sums of decision trees: every tree gives what stands at one of the leaves that a box reaches.

A path to a leaf leaves of each feature an interval (above, most], so a leaf is reached where the box meets all of them.
Comparing rounds nothing. What is added up are numbers of the file, in any order: the sum of the picked leaves is the
ideal value, and roundings are counted as those of any sum are. Rows over it go to each tree by itself: it gives at
least the smallest of rows @ leaf that it can reach, so what the classes of one leaf have in common is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Interval, flushed
from abscert_plugin.bounds.proof.descent import Descent, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure, clipped, largest

_FEW: Final = 8


@final
@dataclass(frozen=True, slots=True)
class Forest:
    """Trees, leaf by leaf, and what is asked on the way to each.

    Args:
        tree: of each leaf, its tree.
        values: what a leaf adds to each output.
        sizes: the sum of absolute numbers that make it up.
        base: what is added to each output at the end.
        divisor: of the sum before that: 1, or the number of trees.
        terms: the most numbers that are added up for an output.
        leaf: of each condition, its leaf.
        feature: which entry it is of.
        above: that entry has to be larger than this.
        most: and no larger than this.
    """

    tree: Int64[Tensor, "leaves"]
    values: Float64[Tensor, "leaves outputs"]
    sizes: Float64[Tensor, "leaves outputs"]
    base: Float64[Tensor, "outputs"]
    divisor: int
    terms: int
    leaf: Int64[Tensor, "conditions"]
    feature: Int64[Tensor, "conditions"]
    above: Float64[Tensor, "conditions"]
    most: Float64[Tensor, "conditions"]

    @property
    def tree_count(self) -> int:
        """Return how many trees there are."""
        return int(self.tree.max()) + 1

    def is_known(self, ends: Interval) -> Bool[Tensor, "batch"]:
        """Return whether all that is asked for are numbers, as far as is known: NaN goes where no number does."""
        lower, upper = ends
        return (lower.isfinite() & upper.isfinite())[:, self.feature].all(1)

    def reached(self, ends: Interval) -> Iterator[Int64[Tensor, "reached"]]:
        """Yield the leaves that each box can reach by numbers, at least one of each tree.

        Args:
            ends: of the features, [batch, features].
        """
        for lower, upper in zip(*ends, strict=True):
            fits = (upper[self.feature] > self.above) & (lower[self.feature] <= self.most)
            is_reached = torch.ones(len(self.tree), dtype=torch.bool)
            is_reached[self.leaf[~fits]] = False
            yield is_reached.nonzero().flatten()

    def total(self, leaves: Tensor, values: Tensor, reduce: str) -> Tensor:
        """Return the sum over trees of the smallest ("amin") or largest value of their leaves.

        Args:
            leaves: some of them, [some].
            values: of these, [some, columns].
            reduce: "amin" or "amax".
        """
        places = self.tree[leaves].unsqueeze(1).expand_as(values)
        start = torch.full((self.tree_count, values.shape[1]), torch.inf if reduce == "amin" else -torch.inf).double()
        return start.scatter_reduce(0, places, values, reduce).sum(0)


@final
@dataclass(frozen=True, slots=True)
class Trees(Unary):
    """What a forest gives for features.

    It reads ends alone and hands no rows on, so that a bound that stops at held values can still go through it.

    Args:
        output: name of what it gives.
        input: name of the features.
        forest: the trees.
    """

    reads_ends: ClassVar[bool] = True
    sends_rows: ClassVar[bool] = False
    output: str
    input: str
    forest: Forest

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        forest, ends = self.forest, flushed(*values[self.input].computed())
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for leaves in forest.reached(ends):
            given = forest.values[leaves]
            low, high = forest.total(leaves, given, "amin"), forest.total(leaves, given, "amax")
            found.append((low, high, forest.total(leaves, forest.sizes[leaves], "amax")))
        lower, upper, size = (torch.stack(part) for part in zip(*found, strict=True))
        own = arithmetic.own_gamma(forest.terms + _FEW)
        magnitude = (size / forest.divisor + forest.base.abs()) * (1 + own)
        magnitude[~forest.is_known(ends)] = torch.inf
        lower, upper = (end / forest.divisor + forest.base for end in (lower, upper))
        lower, upper = clipped(lower - own * magnitude, upper + own * magnitude, magnitude)
        reach = largest(magnitude * forest.divisor).clamp(min=1.0)
        tiny = torch.full_like(reach, arithmetic.underflow(4.0 * (forest.terms + 4)))
        return Enclosure(lower, upper, magnitude, forest.terms + 4, tiny, reach, 1.0).checked()

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        forest = self.forest
        ends, magnitude = flushed(*descent.values[self.input].computed()), descent.values[self.output].magnitude
        wide = rows.double()  # those of drafts are narrower
        least = [
            forest.total(leaves, forest.values[leaves] @ each.T, "amin") / forest.divisor
            for leaves, each in zip(forest.reached(ends), wide, strict=True)
        ]
        descent.add((torch.stack(least) + wide @ forest.base).to(rows.dtype))
        own = arithmetic.own_gamma(forest.terms + rows.shape[-1] + _FEW)
        descent.lose(rows, own * magnitude)
        descent.account(rows, magnitude)
