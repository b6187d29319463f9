"""Linear bounds of parts of a box, in which more is known of what activations read, by lines that steps make better.

A bound is differentiable in the shares that choose lines, the lower slopes of unstable ReLUs (alpha-CROWN, Xu et al.
2021) and the places of tangents of sigmoids and tanh, and in the multipliers of what is known (beta-CROWN, Wang et al.
2021; Shi et al. 2024 for cuts at any value). Any shares from 0 to 1 and any multipliers are sound, so
parts begin with those of the part that they were cut out of. Drafts in float32 find them; a proof in float64 decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from abscert_plugin.bounds.ascent import Ascent
from abscert_plugin.bounds.bounder import BoundMethod, as_memory_error
from abscert_plugin.bounds.part import LEVELS, Cuts, Known, Part
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.activations import Function
from abscert_plugin.bounds.proof.descent import Multipliers
from abscert_plugin.bounds.proof.enclosure import Enclosure

_ENTRIES: Final = 2**24  # of all tensors, in one pass
_PATIENCE: Final = 5  # steps without a gain that is worth them
_WORTH: Final = 1e-3  # of what is missing

_Found = TypeVar("_Found")


@final
@dataclass(frozen=True, slots=True)
class Drafts:
    """Drafts of bounds of parts.

    Args:
        bounds: of the rows of each part; -inf of rows that were not wanted.
        parts: the parts with the lines that gave these.
        pulls: how the bound of each part's worst row depends on what each activation gives, in order.
        at_source: and on each entry of the box.
    """

    bounds: Float32[np.ndarray, "part row"]
    parts: list[Part]
    pulls: Float32[Tensor, "part entry"]
    at_source: Float32[Tensor, "part *shape"]


@final
class PartBounds:
    """Bounds of some rows of logits over parts of one box.

    Args:
        proof: of the network.
        values: enclosures of the whole box, in a batch of one.
        rows: what is to be bounded from below.
        bent: the activations that have shares in parts, by their places; those with a choice in the whole box where
            None. Places count the entries of `Proof.free`.
        limits: of the rows, which are taken off their bounds; 0 where None.
    """

    def __init__(
        self,
        proof: Proof,
        values: Mapping[str, Enclosure],
        rows: Float64[Tensor, "row classes"],
        bent: Int64[np.ndarray, "bent"] | None = None,
        limits: Float64[Tensor, "row"] | None = None,
    ) -> None:
        self._proof, self._values, self._rows = proof, values, rows
        self._limits = torch.zeros(len(rows), dtype=torch.float64) if limits is None else limits
        self._draft = proof.draft(values)
        self._shapes = {read: proof.shapes[read] for read in proof.free}
        ends = [(step.function, *values[read].computed()) for read, step in proof.free.items()]
        none = torch.zeros(0, dtype=torch.float64)

        def joined(of: Callable[[Function, Tensor, Tensor], Tensor]) -> Tensor:
            return torch.cat([none, *(of(*one).flatten() for one in ends)])

        self.lower = joined(lambda _, low, __: low)
        """Of what each activation reads in the whole box, in order."""
        self.upper = joined(lambda _, __, high: high)
        is_bent = joined(lambda function, low, high: function.is_bent(low, high)) > 0
        self.bent = is_bent.nonzero().flatten().numpy() if bent is None else bent
        self._first = joined(lambda function, low, high: function.first_share(low, high))
        self._gaps = [joined(lambda function, *ends, side=side: function.gaps(*ends)[side]) for side in (0, 1)]
        self._functions = [step.function for step in proof.free.values()]
        self._starts = np.cumsum([0, *(int(np.prod(shape)) for shape in self._shapes.values())])
        self._most = max(1, _ENTRIES // max(1, proof.entries))

    def whole(self) -> Part:
        """Return the whole box, with the lines of CROWN."""
        shares = (self._first * LEVELS).round().byte().numpy()[self.bent]
        return Part(np.tile(shares, (len(self._rows), 1)), {}, np.zeros((len(self._rows), 0), dtype=np.float32))

    def known(self, cuts: Cuts, place: int) -> tuple[float, float]:
        """Return ends of what an activation reads in a part."""
        low, high, _ = cuts.get(place, Known(-np.inf, np.inf, False))
        return max(low, float(self.lower[place])), min(high, float(self.upper[place]))

    def where_to_cut(self, cuts: Cuts, place: int) -> float | None:
        """Return the value at which a part is cut by what an activation reads; None where it cannot be.

        What has a kink is cut there, once, and others in the middle. Any value is sound.
        """
        kink = self._function(place).kink
        if kink is not None:
            return None if place in cuts else kink
        low, high = self.known(cuts, place)
        middle = float(np.float32(low / 2 + high / 2))
        return middle if low < middle < high else None

    def gaps(self, cuts: Cuts) -> tuple[Float64[Tensor, "entry"], Float64[Tensor, "entry"]]:
        """Return about how far lines lie below activations in a part, and above them; 0 where no cut helps."""
        below, above = (gaps.clone() for gaps in self._gaps)
        for place in cuts:
            function = self._function(place)
            if function.kink is None:
                low, high = (torch.tensor([[end]], dtype=torch.float64) for end in self.known(cuts, place))
                below[place], above[place] = (gap[0, 0] for gap in function.gaps(low, high))
            else:
                below[place] = above[place] = 0.0
        return below, above

    def _function(self, place: int) -> Function:
        return self._functions[int(np.searchsorted(self._starts, place, side="right")) - 1]

    def improved(self, parts: Sequence[Part], wanted: Bool[np.ndarray, "part row"], steps: int) -> Drafts:
        """Return drafts of parts after some steps that make the lines of the wanted rows better.

        Args:
            parts: the parts.
            wanted: the rows whose bounds are wanted, at least one of each part.
            steps: how many at most; 0 leaves the lines as they are.
        """
        pairs = np.argwhere(wanted)
        groups, found = self._in_groups(pairs, lambda group: self._optimised(_Lines.of(parts, group), group, steps))
        bounds = np.full(wanted.shape, -np.inf, dtype=np.float32)
        bounds[wanted] = torch.cat([one.bounds for one in found]).numpy()
        made = list(parts)
        for group, one in zip(groups, found, strict=True):
            one.lines.write(made, group)
        worst = np.where(wanted, bounds, np.inf).argmin(axis=1)
        chosen = np.flatnonzero(worst[pairs[:, 0]] == pairs[:, 1])
        pulls, at_source = (torch.cat([getattr(one, name) for one in found])[chosen] for name in ("pulls", "at_source"))
        return Drafts(bounds, made, pulls, at_source)

    def proven(self, parts: Sequence[Part]) -> Float64[np.ndarray, "part row"]:
        """Return proven bounds of all rows of parts, by their lines; -inf where nothing is known."""

        def of_group(group: np.ndarray) -> np.ndarray:
            lines = _Lines.of(parts, group)
            ends, rows = self._ends(lines, torch.float64), self._rows[group[:, 1]].unsqueeze(1)
            slopes, multipliers = self._spread(lines, torch.float64)
            crown = BoundMethod.CROWN
            bounds = self._proof.lower_bounds(self._values, rows, crown, slopes, ends, multipliers)[:, 0]
            return (bounds - self._limits[group[:, 1]]).numpy()

        _, found = self._in_groups(np.argwhere(np.ones((len(parts), len(self._rows)), dtype=bool)), of_group)
        return np.concatenate([np.zeros(0), *found]).reshape(len(parts), len(self._rows))

    def _in_groups(
        self, pairs: np.ndarray, compute: Callable[[np.ndarray], _Found]
    ) -> tuple[list[np.ndarray], list[_Found]]:
        """Return groups of pairs, as large as memory allows, and what is computed of each."""
        groups, found, start = [], [], 0
        while start < len(pairs):
            group = pairs[start : start + self._most]
            try:
                found.append(compute(group))
            except (RuntimeError, MemoryError) as error:
                if len(group) == 1 or as_memory_error(error, BoundMethod.CROWN, len(group)) is None:
                    raise
                self._most = len(group) // 2
                continue
            groups.append(group)
            start += len(group)
        return groups, found

    def _optimised(self, lines: "_Lines", group: np.ndarray, steps: int) -> "_Best":
        rows, limits = self._rows[group[:, 1]].float().unsqueeze(1), self._limits[group[:, 1]].float()
        chords = self._draft.chords(self._ends(lines, torch.float32))
        best, waited = lines, 0
        bounds = torch.full((len(group),), -torch.inf)
        steps = steps if lines.slopes.numel() + lines.multipliers.numel() else 0
        if steps:
            lines = lines.free()
            ascent = Ascent([lines.slopes, lines.multipliers])
        for _ in range(steps):
            found = self._draft.bounds(rows, chords, *self._spread(lines, torch.float32)).bounds[:, 0] - limits
            gain = (found.detach() - bounds).clamp(min=0) > _WORTH * bounds.abs()
            best, bounds = best.better(lines, found.detach() > bounds), torch.maximum(bounds, found.detach())
            waited = 0 if bool((gain & (bounds <= 0)).any()) else waited + 1
            is_moved = found.requires_grad  # not where rows end before they get to what has lines, such as at a Mod
            if waited >= _PATIENCE or bool((bounds > 0).all()) or not is_moved:
                break
            ascent.step(found.sum())
            lines.clamp()
        best = best.stored()
        with torch.no_grad():
            last = self._draft.bounds(rows, chords, *self._spread(best, torch.float32))
        of_layers = [
            last.seen[step.output].flatten(1)
            if step.output in last.seen
            else torch.zeros(len(group), int(np.prod(self._shapes[read])))
            for read, step in self._proof.free.items()
        ]
        pulls = torch.cat([torch.zeros(len(group), 0), *of_layers], 1)
        source, shape = self._proof.source, self._proof.input_shape
        at_source = last.seen[source][:, 0] if source in last.seen else torch.zeros(len(group), *shape)  # behind trees
        return _Best(last.bounds[:, 0] - limits, best, pulls, at_source)

    def _ends(self, lines: "_Lines", dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what the cuts of parts say of the ends of what activations read."""
        least = torch.full((len(lines.places), len(self.lower)), -torch.inf, dtype=dtype)
        most = torch.full_like(least, torch.inf)
        least.scatter_reduce_(1, lines.places, lines.low.to(dtype), "amax")
        most.scatter_reduce_(1, lines.places, lines.high.to(dtype), "amin")
        below, above = self._layers(least), self._layers(most)
        return {name: (below[name], above[name]) for name in below}

    def _spread(self, lines: "_Lines", dtype: torch.dtype) -> tuple[dict[str, Tensor], Multipliers]:
        """Return the shares of all activations, and the multipliers of cuts, by the names of what they read."""
        none = torch.zeros((len(lines.places), len(self.lower)), dtype=dtype)
        slopes = none.index_copy(1, torch.from_numpy(self.bent), lines.slopes.to(dtype))
        signed = lines.multipliers.to(dtype) * lines.signs.to(dtype)
        is_low = torch.where(signed == 0, lines.signs, signed) > 0
        end = torch.where(is_low, lines.low, lines.high).where(lines.signs != 0, 0.0).to(dtype)
        spread, ends = (self._layers(none.scatter_add(1, lines.places, each)) for each in (signed, end))
        return self._layers(slopes), {name: (spread[name], ends[name]) for name in spread}

    def _layers(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [int(np.prod(shape)) for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), flat.split(sizes, dim=1), strict=True)
        return {name: of_layer.reshape(len(flat), *shape) for (name, shape), of_layer in parts}


@final
@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of pairs of a part and a row.

    Args:
        slopes: shares of the bent activations, from 0 to 1.
        multipliers: of cuts, at least 0 of the end that the last one made, and at most 0 of the other one where that is
            known; parts have different numbers of cuts, and the rest are 0.
        places: the activations that are cut.
        signs: 1 where it reads at least the end that the last cut made, -1 where at most, 0 where nothing is known.
        low, high: the ends that are known of it.
    """

    slopes: Float32[Tensor, "pair bent"]
    multipliers: Float32[Tensor, "pair cut"]
    places: Int64[Tensor, "pair cut"]
    signs: Float32[Tensor, "pair cut"]
    low: Float32[Tensor, "pair cut"]
    high: Float32[Tensor, "pair cut"]

    @classmethod
    def of(cls, parts: Sequence[Part], pairs: np.ndarray) -> "_Lines":
        most = max(len(part.cuts) for part in parts)
        known = np.zeros((len(parts), 4, most))
        known[:, 2], known[:, 3] = -np.inf, np.inf
        for row, part in enumerate(parts):
            for column, (place, (low, high, is_above)) in enumerate(part.cuts.items()):
                known[row, :, column] = place, 1.0 if is_above else -1.0, low, high
        places, *rest = torch.from_numpy(known[pairs[:, 0]]).unbind(1)
        slopes = np.stack([parts[part].slopes[row] for part, row in pairs])
        multipliers = [np.pad(parts[part].multipliers[row], (0, most - len(parts[part].cuts))) for part, row in pairs]
        return cls(
            torch.from_numpy(slopes).float() / LEVELS,
            torch.from_numpy(np.stack(multipliers)),
            places.long(),
            *(each.float() for each in rest),
        )

    def free(self) -> "_Lines":
        """Return them with gradients."""
        slopes, multipliers = (lines.clone().requires_grad_() for lines in (self.slopes, self.multipliers))
        return replace(self, slopes=slopes, multipliers=multipliers)

    @torch.no_grad()
    def clamp(self) -> None:
        """Put what a step has moved too far back to what is sound."""
        self.slopes.clamp_(0, 1)
        other = torch.where(self.signs > 0, self.high, self.low)
        self.multipliers.clamp_(min=torch.where(other.isfinite(), -torch.inf, 0.0))

    def better(self, other: "_Lines", is_better: Bool[Tensor, "pair"]) -> "_Lines":
        """Return the lines of another where these are better."""
        chosen = is_better.unsqueeze(1)
        slopes = torch.where(chosen, other.slopes.detach(), self.slopes)
        return replace(
            self, slopes=slopes, multipliers=torch.where(chosen, other.multipliers.detach(), self.multipliers)
        )

    def stored(self) -> "_Lines":
        """Return them as parts keep them."""
        return replace(self, slopes=(self.slopes * LEVELS).round() / LEVELS)

    def write(self, parts: list[Part], pairs: np.ndarray) -> None:
        """Replace parts by those with these lines."""
        slopes = (self.slopes * LEVELS).round().byte().numpy()
        multipliers = self.multipliers.numpy()
        for place, (part, row) in enumerate(pairs.tolist()):
            old = parts[part]
            lines = Part(old.slopes.copy(), old.cuts, old.multipliers.copy())
            lines.slopes[row], lines.multipliers[row] = slopes[place], multipliers[place, : len(old.cuts)]
            parts[part] = lines


@final
@dataclass(frozen=True, slots=True)
class _Best:
    """What a group of pairs came to."""

    bounds: Float32[Tensor, "pair"]
    lines: _Lines
    pulls: Float32[Tensor, "pair entry"]
    at_source: Float32[Tensor, "pair *shape"]
