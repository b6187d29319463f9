"""Looking for an input that satisfies a query: points of its boxes, run and held against what is written."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.query.exact import exact_output
from abscert_plugin.query.formula import Atom, Conjunction, Every, Formula
from abscert_plugin.query.gradients import Gradients, Penalty, gradients
from abscert_plugin.query.network import Network, exactly
from abscert_plugin.query.query import Case, Query
from abscert_plugin.query.terms import Values

_STEPS: Final = 40
_STARTS: Final = 256
_FOLLOWED: Final = 16  # of the starts
_LOOK_EVERY: Final = 5  # steps
_NEAR: Final = 1e-4  # of the two sides of a constraint


@final
@dataclass(frozen=True)
class Witness:
    """An input that satisfies a query, and its output, both row-major.

    Args:
        inputs: float32.
        outputs: as the file gives them.
    """

    inputs: Float32[np.ndarray, "entries"]
    outputs: np.ndarray


@final
class Attack:
    """Points that are tried.

    Args:
        network: the file.
        query: the query.
    """

    def __init__(self, network: Network, query: Query) -> None:
        self._network = network
        self._query = query
        self._random = np.random.default_rng(0)

    @cached_property
    def _gradients(self) -> Gradients | None:
        return gradients(self._network)

    def holds(self, point: Float32[np.ndarray, "entries"]) -> Witness | None:
        """Return a point as an answer if it is one: the file is run, and all that is written is checked exactly.

        Of a query about real numbers, the exact output is computed in rationals where that can be done; else each
        constraint has to hold of all that an enclosure of the output holds, which the exact output is in.
        """
        outputs = self._network.run(point)
        if not np.isfinite(outputs).all() or not self._may_hold(point, outputs):
            return None
        if self._query.is_real:
            values = exactly(point), exactly(outputs)
            is_near = all(_nearly(formula, values) for formula in self._query.assertions)
            return Witness(point, outputs) if is_near and self._holds_for_reals(point) else None
        return Witness(point, outputs) if self._query.holds(exactly(point), exactly(outputs)) else None

    def _may_hold(self, point: np.ndarray, outputs: np.ndarray) -> bool:
        """Return whether a point satisfies the query but for what rounding may do; this takes far less than to be sure.

        Of a query about real numbers, outputs are another's that are near those of the file.
        """
        given, found = (np.stack([values, values]).astype(np.float64)[:, None] for values in (point, outputs))
        room = _NEAR * (1 + np.abs(found[0])) if self._query.is_real else 0.0
        inputs, results = (given[0], given[1]), (found[0] - room, found[1] + room)
        return any(
            not any(bool(atom.fails_between(inputs, results).any()) for atom in (*case.inputs, *conjunction))
            for case in self._query.cases
            for conjunction in case.outputs
        )

    def _holds_for_reals(self, point: np.ndarray) -> bool:
        outputs = exact_output(self._network.graph, point.reshape(self._network.input_shape))
        if outputs is not None and len(outputs) == math.prod(self._network.output_shape):
            return self._query.holds(exactly(point), outputs)
        try:
            proof = self._network.proof
        except (UnsupportedModelError, VerifierError):
            return False
        ends = torch.from_numpy(point).double().reshape(1, *proof.input_shape)
        values = proof.intervals(ends, ends)
        given = exactly(point)
        lower, upper = (end.numpy() for end in values[proof.output].computed())
        single = point.astype(np.float64)[None], point.astype(np.float64)[None]

        def is_sure(atom: Atom) -> bool:
            if not any(variable.is_output for variable in atom.variables()):
                return atom.holds((given, ()), False)
            _, most = atom.left.between(single, (lower, upper))
            least, _ = atom.right.between(single, (lower, upper))
            return bool((most < least).all() if atom.is_strict else (most <= least).all())

        return any(
            all(is_sure(atom) for atom in (*case.inputs, *conjunction))
            for case in self._query.cases
            if bool(((case.inner[0] <= point) & (point <= case.inner[1])).all())
            for conjunction in case.outputs
        )

    def first(self, points: Sequence[np.ndarray] | np.ndarray, until: float) -> Witness | None:
        """Return the first of some points that is an answer, if one is found in time."""
        for point in points:
            found = self.holds(point)
            if found is not None or time.monotonic() > until:
                return found
        return None

    def sample(self, case: Case, count: int, until: float) -> Witness | None:
        """Try the middle of a box, its corners, and points between."""
        low, high = case.inner
        if not bool((low <= high).all()):
            return None
        share = self._random.random((count, len(low)))
        corners = count // 2
        share[:corners] = share[:corners] < 0.5
        share[0] = 0.5
        share[1 : min(3, count)] = np.arange(min(3, count) - 1)[:, None]
        return self.first(self.between(case, share), until)

    def between(self, case: Case, share: np.ndarray) -> np.ndarray:
        """Return float32 points of a box, at shares of its sides."""
        low, high = (end.astype(np.float64) for end in case.inner)
        points = (low + share * (high - low)).astype(np.float32)
        return np.clip(points, case.inner[0], case.inner[1])

    def into(self, case: Case, points: np.ndarray) -> np.ndarray:
        """Return the points of a box that are nearest to given ones."""
        return np.clip(points.astype(np.float32), case.inner[0], case.inner[1])

    def descend(self, case: Case, until: float) -> Witness | None:
        """Follow gradients from points of a box, for each conjunction, where the network has some."""
        low, high = case.inner
        if not bool((low <= high).all()) or self._gradients is None:
            return None
        for place, conjunction in enumerate(case.outputs):
            share = self._random.random((_STARTS if len(low) <= _STARTS else _FOLLOWED, len(low)))
            share[0] = 0.5
            points = self.between(case, share)
            loss, _ = self._gradients(torch.from_numpy(points), _penalty((*case.inputs, *conjunction)))
            best = points[loss.argsort()[:_FOLLOWED].numpy()]
            found = self.follow(case, place, best, (high - low) / 4, _STEPS, until)
            if found is not None:
                return found
        return None

    def follow(
        self, case: Case, conjunction: int, points: np.ndarray, size: np.ndarray, steps: int, until: float
    ) -> Witness | None:
        """Follow gradients from given points, against what breaks a conjunction.

        Args:
            case: whose box is not left.
            conjunction: its place in the case.
            points: float32, [points, entries].
            size: of the first step, for each entry or for each of each point; the last one is small.
            steps: how many are taken.
            until: when to stop.
        """
        low, high = (torch.from_numpy(end) for end in case.inner)
        if self._gradients is None or not bool((low <= high).all()):
            return None
        penalty = _penalty((*case.inputs, *case.outputs[conjunction]))
        found, pace = torch.from_numpy(points), torch.from_numpy(size.astype(np.float32))
        for step in range(steps):
            if time.monotonic() > until:
                return None
            loss, gradient = self._gradients(found, penalty)
            chosen = int(loss.argmin())
            if step % _LOOK_EVERY == 0 or bool(loss[chosen] <= 0):
                answer = self.holds(self.into(case, found[chosen].numpy()))
                if answer is not None:
                    return answer
            found = torch.clamp(found - pace * (1 - step / steps) * torch.nan_to_num(gradient).sign(), low, high)
        return self.first(self.into(case, found.numpy()), until)


def _nearly(formula: Formula, values: Values) -> bool:
    """Return whether a formula holds but for what rounding may do, so that looking closer is worth the time."""
    if isinstance(formula, Atom):
        left, right = float(formula.left.exact(values)), float(formula.right.exact(values))
        return left - right <= _NEAR * (1 + abs(left) + abs(right))
    found = (_nearly(part, values) for part in formula.parts)
    return all(found) if isinstance(formula, Every) else any(found)


def _penalty(conjunction: Conjunction) -> Penalty:
    """Return by how much points and their outputs break the constraints of a conjunction; 0 or less where they hold."""

    def penalty(inputs: Tensor, outputs: Tensor) -> Tensor:
        parts = [atom.left.tensor(inputs, outputs) - atom.right.tensor(inputs, outputs) for atom in conjunction]
        whole = torch.stack([part.expand(len(inputs)) for part in parts] or [outputs[:, 0] * 0])
        return whole.clamp(min=0).sum(0) + whole.amax(0).clamp(max=0)

    return penalty
