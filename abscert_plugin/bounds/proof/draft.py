"""Drafts of linear bounds: in float32, with nothing taken off for rounding, and differentiable. They prove nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float32
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.activations import RELU, Function
from abscert_plugin.bounds.proof.descent import Descent, Lines, Multipliers, Part, Slopes, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure


@final
@dataclass(frozen=True, slots=True)
class Drafted:
    """What a draft says.

    Args:
        bounds: of rows @ logits, [batch, row].
        seen: the rows by which they depend on the source and on what activations give, by its name.
    """

    bounds: Float32[Tensor, "batch row"]
    seen: Mapping[str, Tensor]


@final
class Draft:
    """Linear bounds over one box, in drafts.

    Args:
        steps: those that the output needs, in order.
        output: name of the logits.
        source: name of the tensor that boxes are of.
        values: enclosures of a single box.
    """

    def __init__(self, steps: Sequence[Step], output: str, source: str, values: Mapping[str, Enclosure]) -> None:
        self._steps, self._output, self._source = steps, output, source
        self._values = values
        self._ends = {name: (low.float(), high.float()) for name, (low, high) in _computed(values).items()}

    def chords(self, part: Part) -> "Chords":
        """Return what drafts of some parts have in common, whatever slopes and multipliers they have."""
        return Chords(self._ends, part)

    def bounds(self, rows: Tensor, chords: "Chords", slopes: Slopes, multipliers: Multipliers) -> Drafted:
        """Return bounds of rows @ logits in some parts, differentiable in slopes and multipliers.

        Args:
            rows: [batch, row, classes], float32.
            chords: of the parts.
            slopes: lower slopes of ReLUs, [batch, *shape], from 0 to 1; those of the lines of `Descent` elsewhere.
            multipliers: as `Descent` takes them.
        """
        descent = _Pass(self._values, chords, slopes, multipliers)
        return Drafted(descent.run(self._steps, self._output, rows, {self._source}), descent.rows)


@final
class Chords:
    """The ends of what ReLUs read in some parts, and their upper lines.

    Args:
        whole: ends of what activations read in all parts, [1, *shape] each, by its name.
        part: ends that each part knows, [batch, *shape] each.
    """

    def __init__(self, whole: Mapping[str, tuple[Tensor, Tensor]], part: Part) -> None:
        self.ends = dict(whole)
        self.above: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, (least, most) in part.items():
            lower, upper = torch.maximum(whole[name][0], least), torch.minimum(whole[name][1], most)
            low, high = lower.clamp(max=0), upper.clamp(min=0)
            slope = high / (high - low).clamp(min=1e-30)
            self.ends[name] = lower, upper
            self.above[name] = (lower < 0) & (upper > 0), slope, -slope * low


@final
class _Pass(Descent):
    """One pass of a draft: nothing is lost to rounding, and nothing accounted for."""

    def __init__(
        self, values: Mapping[str, Enclosure], chords: Chords, slopes: Slopes, multipliers: Multipliers
    ) -> None:
        self.rows: dict[str, Tensor] = {}
        super().__init__(values, slopes, multipliers=multipliers, seen=self.rows)
        self._chords = chords

    @override
    def activated(self, name: str) -> tuple[Tensor, Tensor]:
        return self._chords.ends[name]

    @staticmethod
    @override
    def dot(rows: Tensor, values: Tensor) -> Tensor:
        return (rows.flatten(2) @ values.to(rows.dtype).flatten(1).unsqueeze(2)).squeeze(2)

    @override
    def lose(self, rows: Tensor, error: Tensor) -> None:
        del rows, error

    @override
    def account(self, rows: Tensor, size: Tensor) -> Tensor:
        del size
        return rows.new_zeros(rows.shape[:2])

    @override
    def gain(self, rows: Tensor, amount: Tensor) -> None:
        if amount.shape[1] == 1:
            self.add(self.dot(rows, amount[:, 0]))
        else:
            self.add((rows * amount).flatten(2).sum(2))

    @override
    def lines(self, name: str, function: Function, tiny: float) -> Lines:
        if function is not RELU or name not in self._chords.above:
            return super().lines(name, function, tiny)
        is_bent, above, offset = self._chords.above[name]
        given = self._slopes.get(name)
        below = torch.where(is_bent, (above > 0.5).to(above.dtype) if given is None else given, above)
        return below, above, torch.zeros_like(offset[:1]), offset

    @override
    def read(self, name: str, rows: Tensor) -> None:
        self.send(name, rows)


def _computed(values: Mapping[str, Enclosure]) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: value.computed() for name, value in values.items()}
