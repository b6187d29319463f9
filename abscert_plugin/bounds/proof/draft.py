"""Drafts of linear bounds: in float32, with nothing taken off for rounding, and differentiable. They prove nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float32
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof.activations import Function, Lines
from abscert_plugin.bounds.proof.descent import Descent, Multipliers, Part, Slopes, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.nonlinear import Activation


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
        self._activations = [step for step in steps if isinstance(step, Activation)]
        computed = {step.input: values[step.input].computed() for step in self._activations}
        self._ends = {name: (low.float(), high.float()) for name, (low, high) in computed.items()}

    def chords(self, part: Part) -> "Chords":
        """Return what drafts of some parts have in common, whatever lines and multipliers they have."""
        return Chords(self._ends, part, self._activations)

    def bounds(self, rows: Tensor, chords: "Chords", slopes: Slopes, multipliers: Multipliers) -> Drafted:
        """Return bounds of rows @ logits in some parts, differentiable in slopes and multipliers.

        Args:
            rows: [batch, row, classes], float32.
            chords: of the parts.
            slopes: shares that choose lines, [batch, *shape], from 0 to 1; the lines of `Descent` elsewhere.
            multipliers: as `Descent` takes them.
        """
        descent = _Pass(self._values, chords, slopes, multipliers)
        return Drafted(descent.run(self._steps, self._output, rows, {self._source}), descent.rows)


@final
class Chords:
    """What drafts of some parts have in common: what gives lines of activations.

    Args:
        whole: ends of what activations read in all parts, [1, *shape] each, by its name.
        part: ends that each part knows, [batch, *shape] each.
        activations: all of them.
    """

    def __init__(
        self, whole: Mapping[str, tuple[Tensor, Tensor]], part: Part, activations: Sequence[Activation]
    ) -> None:
        ends = dict(whole)
        for name, (least, most) in part.items():
            ends[name] = torch.maximum(whole[name][0], least), torch.minimum(whole[name][1], most)
        self.lines = {step.output: step.function.drafted(*ends[step.input]) for step in activations}


@final
class _Pass(Descent):
    """One pass of a draft: nothing is lost to rounding, and nothing accounted for."""

    def __init__(
        self, values: Mapping[str, Enclosure], chords: Chords, slopes: Slopes, multipliers: Multipliers
    ) -> None:
        self.rows: dict[str, Tensor] = {}
        super().__init__(values, slopes, multipliers=multipliers, seen=self.rows)
        self._chords = chords

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
    def lines(self, output: str, name: str, function: Function, tiny: float) -> Lines:
        del function, tiny
        return self._chords.lines[output](self._slopes.get(name))

    @override
    def read(self, name: str, rows: Tensor) -> None:
        self.send(name, rows)
