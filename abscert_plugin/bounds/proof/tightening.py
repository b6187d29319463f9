"""Backward passes that bring ends of hidden values closer."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final, TypeAlias, final

import torch
from jaxtyping import Bool
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundTimeError
from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Lines
from abscert_plugin.bounds.proof.affine import Affine, Shift
from abscert_plugin.bounds.proof.descent import Descent, Step
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.lengths import Near
from abscert_plugin.bounds.proof.maps import Scale
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.windows import Windows, open_places, windows_of

_PRODUCTS: Final = 2**33  # of all rows of a narrow tensor: a second or two
_ENTRIES: Final = 2**18  # of rows at once: what a core's cache holds takes half the time

Refine: TypeAlias = Callable[[Step, str, Mapping[str, Enclosure]], Enclosure]
"""From a step, the name of what it reads and what is known so far, to what is known of that."""


@final
class Tightening:
    """Closer enclosures of what nonlinear steps read, by linear bounds of each entry.

    Args:
        before: the steps that each tensor needs, in order, by its name.
        source: the tensor that boxes are of.
        shapes: of all tensors, without the batch.
    """

    def __init__(
        self, before: Mapping[str, Sequence[Step]], source: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._before, self._source, self._shapes = before, source, shapes
        self._windows: dict[str, Windows | None] = {}

    def everywhere(self, until: float = math.inf) -> Refine:
        """Return what tightens wherever it may help.

        Args:
            until: when to stop, by `time.perf_counter`: the passes raise BoundTimeError then.
        """

        def refine(step: Step, name: str, values: Mapping[str, Enclosure]) -> Enclosure:
            is_open = self.open_entries(step, name, values)
            return values[name] if is_open is None else self.tightened(name, values, is_open, until)

        return refine

    def around(self, near: Mapping[str, Near], narrow: int, until: float = math.inf) -> Refine:
        """Return what takes values at single points to lie near what a pass has found, and tightens some of them.

        Args:
            near: what was found, by the names of tensors.
            narrow: tensors of no more entries than this are tightened.
            until: as `everywhere` takes it.
        """

        def refine(step: Step, name: str, values: Mapping[str, Enclosure]) -> Enclosure:
            value = values[name]
            if name in near:
                # where a chain ends, the room is of its ideal value too: it holds what that differs by, and more
                middle, room = near[name].middle.double(), near[name].room.double() * (1 + arithmetic.own_gamma(8))
                room = room + arithmetic.own_gamma(8) * middle.abs()
                ends = torch.maximum(value.lower, middle - room), torch.minimum(value.upper, middle + room)
                value = replace(value, lower=ends[0], upper=ends[1]).checked()
            if value.lower[0].numel() > narrow:
                return value
            known = {**values, name: value}
            is_open = self.open_entries(step, name, known)
            if is_open is None:
                return value
            return self.tightened(name, known, is_open, until, self._back_over(name))

        return refine

    def _back_over(self, name: str) -> Sequence[Step]:
        """Return the steps that a pass from a narrow tensor goes back over: as many of its chains as there is time for.

        What is read of the steps before lies between its ends.
        """
        most = _PRODUCTS / (2 * math.prod(self._shapes[name]))
        chains = list[list[Step]]()
        for step in reversed(self._before[name]):
            if step.ends_chains or not chains:
                chains.append([])
            chains[-1].append(step)
        spent = list(accumulate(sum(map(self._products, chain)) for chain in chains))
        taken = max(1, sum(products <= most for products in spent))
        return [step for chain in chains[:taken] for step in chain][::-1]

    def _products(self, step: Step) -> int:
        return math.prod(self._shapes[step.output]) * step.map.products if isinstance(step, Affine) else 0

    def open_entries(
        self, step: Step, name: str, values: Mapping[str, Enclosure]
    ) -> Bool[Tensor, "batch entries"] | None:
        """Return where linear bounds may tighten what a nonlinear step reads, and help it; None where nowhere."""
        value = values[name]
        lower, upper = value.computed()
        bends = step.function.is_bent(lower, upper) if isinstance(step, Activation) else lower < upper
        is_open = (bends & value.magnitude.isfinite()).flatten(1)
        before = self._before.get(name, ())
        # intervals are as tight where nothing bends and entries meet in one step alone
        is_loose = any(one.ends_chains for one in before) or sum(map(_mixes, before)) > 1
        return is_open if is_loose and bool(is_open.any()) else None

    def tightened(
        self,
        name: str,
        values: Mapping[str, Enclosure],
        is_open: Bool[Tensor, "batch entries"],
        until: float = math.inf,
        steps: Sequence[Step] | None = None,
    ) -> Enclosure:
        """Return an enclosure that is tightened by backward passes at some entries.

        Args:
            name: of the tensor.
            values: what is known so far.
            is_open: the entries.
            until: when to stop, by `time.perf_counter`.
            steps: that passes over whole images go back over; all before where None.

        Raises:
            BoundTimeError: if the time is up before.
        """
        if name not in self._windows:
            self._windows[name] = windows_of(self._before[name], name, self._source, self._shapes)
        windows, value = self._windows[name], values[name]
        bounds = None if windows is None else _by_windows(windows, values, is_open.reshape(value.lower.shape), until)
        if bounds is None:
            bounds = self._bounds_of(name, values, is_open, until, self._before[name] if steps is None else steps)
        lower, upper = (bound.reshape(value.lower.shape) for bound in bounds)
        closer = replace(value, lower=torch.maximum(value.lower, lower), upper=torch.minimum(value.upper, -upper))
        return closer.checked()

    def _bounds_of(
        self,
        name: str,
        values: Mapping[str, Enclosure],
        is_open: Bool[Tensor, "batch entries"],
        until: float,
        steps: Sequence[Step],
    ) -> Tensor:
        """Return lower bounds of the ideal entries, and of their negatives, -inf where none are asked for."""
        images, entries = is_open.shape
        found = torch.full((2, images, entries), -torch.inf, dtype=torch.float64)
        most = int(is_open.sum(1).max())
        order = is_open.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        largest = max(values[each].lower[0].numel() for step in steps for each in (step.output, *step.inputs))
        chunk = max(1, _ENTRIES // (2 * images * largest))
        shape = values[name].lower.shape[1:]
        kept: dict[str, Lines] = {}
        for start in range(0, most, chunk):
            _need_time(until)
            places = order[:, start : start + chunk]
            rows = torch.zeros((images, places.shape[1], entries), dtype=torch.float64)
            rows.scatter_(2, places.unsqueeze(2), 1.0)
            both = torch.cat([rows, -rows], 1).reshape(images, -1, *shape)
            bounds = Descent(values, {}, kept=kept).run_ideal(steps, name, both, {self._source})
            for side, part in enumerate(bounds.chunk(2, 1)):
                found[side].scatter_(1, places, part)
        return found


def _by_windows(
    windows: Windows,
    values: Mapping[str, Enclosure],
    is_open: Bool[Tensor, "batch channels height width"],
    until: float,
) -> Tensor | None:
    """Return such bounds, and those of more entries, by passes over windows; None where whole images take less."""
    asked = [open_places(one.flatten(1)) for one in is_open]
    most = int(is_open.flatten(1).sum(1).max())
    if not windows.are_worth(sum(channels.numel() for _, channels in asked), len(asked) * most):
        return None
    found = torch.full((2, *is_open.flatten(2).shape), -torch.inf, dtype=torch.float64)
    for image, (places, channels) in enumerate(asked):
        if not len(places):
            continue
        one = windows.taken(values, image)
        lines = windows.lines(one)
        chunk = max(1, _ENTRIES // (2 * channels.shape[1] * windows.largest))
        for start in range(0, len(places), chunk):
            _need_time(until)
            some, where = channels[start : start + chunk], places[start : start + chunk]
            for side, part in enumerate(windows.bounds(one, lines, where, some).chunk(2, 1)):
                found[side, image, some, where.unsqueeze(1)] = part
    return found


def _need_time(until: float) -> None:
    if time.perf_counter() > until:
        raise BoundTimeError("the time was up before all hidden values were bounded")


def _mixes(step: Step) -> bool:
    """Return whether entries meet in a step: it does more than move, scale or shift each."""
    is_scaling = isinstance(step, Affine) and isinstance(step.map, Scale)
    return not (is_scaling or isinstance(step, Move | Shift))
