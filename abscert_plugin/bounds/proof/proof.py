"""Lower bounds of margins that hold for every evaluation of a file in float32."""

import copy
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from abscert_plugin.bounds.bounder import BoundMethod, BoundTimeError
from abscert_plugin.bounds.margin import other_classes
from abscert_plugin.bounds.proof.activations import RELU
from abscert_plugin.bounds.proof.descent import Descent, Multipliers, Part, Slopes, Step
from abscert_plugin.bounds.proof.domain import apart
from abscert_plugin.bounds.proof.draft import Draft
from abscert_plugin.bounds.proof.enclosure import Enclosure, held
from abscert_plugin.bounds.proof.ends import EndsPass
from abscert_plugin.bounds.proof.lengths import LengthsPass
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.bounds.proof.plan import plan
from abscert_plugin.bounds.proof.points import PointsPass
from abscert_plugin.bounds.proof.tightening import Refine, Tightening
from abscert_plugin.errors import VerifierError
from abscert_plugin.graph.nodes import Graph

_ENTRIES: Final = 2**22  # of the widest tensor's rows, over the boxes of one pass
NEARLY: Final = 0.1
"""A margin that is bounded so far below 0 may be shown with more precision; one that is further below is not."""
METHODS: Final = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)


@final
class Proof:
    """Enclosures of every value that a file may compute in float32, and margins that follow from them.

    Soundness: for every evaluation of the graph between the source and the output in binary32, rounded to nearest, in
    any order of its sums, as `enclosure` says; the source's tensor is taken as it is.

    Args:
        graph: the file's graph.
        source: name of the tensor that boxes are of, such as `interval` or `scaled`.
        input_shape: its shape without the batch.
        classes: number of logits.
        quick: float64, or float32 where products are to be quick at the price of a few times the error: see `quick`.
        wide_sums: whether sums of products of float16 are taken to be held in float32, as most runtimes hold them.

    Raises:
        UnsupportedModelError: if the graph has a node that is not known here; names all of them.
    """

    def __init__(
        self,
        graph: Graph,
        source: str,
        input_shape: tuple[int, ...],
        classes: int,
        quick: torch.dtype = torch.float64,
        wide_sums: bool = False,
    ) -> None:
        self.input_shape = input_shape
        self.classes = classes
        self._exact = plan(graph, source, input_shape, classes, wide_sums)
        self._compute_in(quick)
        relus = [step for step in self._plan.steps if isinstance(step, Activation) and step.function is RELU]
        self.relus = {step.input: self._plan.shapes[step.input] for step in relus}
        """What ReLUs read, in order: names, and shapes without the batch."""
        free = [step for step in self._reached() if isinstance(step, Activation) and step.function.has_choice]
        self.free = {step.input: step for step in sorted(free, key=lambda step: step.function is not RELU)}
        """The activations whose lines can be chosen, by what each reads: ReLUs first."""
        self.source, self.output = self._plan.source, self._plan.output
        """Names of the tensor that boxes are of, and of the logits."""
        self.has_products = any(step.is_curved and not isinstance(step, Activation) for step in self._plan.steps)
        """Whether values are multiplied with one another, of which intervals soon lose sight and lines do not."""
        curved = dict.fromkeys(name for step in self._plan.steps if step.is_curved for name in step.inputs)
        self.curved_shapes = [self._plan.shapes[name] for name in curved]
        """Of the tensors that curved steps read, without the batch."""
        self.shapes = self._plan.shapes
        """Of all tensors by name, without the batch."""
        self.steps = self._exact.steps
        """All steps, in order."""
        self._widest = max(map(math.prod, self._plan.shapes.values()))
        self.is_narrow = self._exact.is_narrow
        """Whether some nodes compute in fewer bits than float32."""
        self.has_narrow_logits = self._exact.has_narrow_logits
        """Whether the logits are in fewer bits than float32."""
        self.entries = sum(map(math.prod, self._plan.shapes.values()))
        """How many entries all tensors of one input have together."""

    def _reached(self) -> list[Step]:
        """Return the steps, in order, to which a margin's rows get; none where they do not get to the source."""
        names, found = {self._plan.output}, list[Step]()
        for step in reversed(self._plan.steps):
            if step.output in names:
                found.append(step)
                names.update(step.inputs if step.sends_rows else ())
        return found[::-1] if self._plan.source in names else []

    def in_float32(self) -> "Proof":
        """Return the same proof, whose products are quick: see `quick`, and `maps.InSingle`."""
        quicker = copy.copy(self)
        quicker._compute_in(torch.float32)
        return quicker

    def _compute_in(self, dtype: torch.dtype) -> None:
        exact = self._exact
        self._quick = dtype
        self._plan = exact if dtype is torch.float64 else exact.in_single()
        steps = exact.steps if dtype is torch.float64 else exact.narrow_in_single()
        self._boxes, self._points = EndsPass(steps, dtype), PointsPass(steps, dtype)
        self._lengths = LengthsPass(steps, exact.source, exact.output, dtype)
        self._before = {step.output: self._plan.before(step.output) for step in self._plan.steps}
        self.tightening = Tightening(self._before, self._plan.source, self._plan.shapes)

    @torch.no_grad()
    def intervals(
        self,
        lower: Float[Tensor, "batch *shape"],
        upper: Float[Tensor, "batch *shape"],
        refined: bool = False,
        refine: Refine | None = None,
    ) -> dict[str, Enclosure]:
        """Return what is known of each tensor over boxes, by its name in the file.

        Args:
            lower: lower ends of the boxes.
            upper: upper ends.
            refined: whether the inputs of curved steps are bounded by backward passes too, where it helps.
            refine: what bounds them then; such passes over all entries where None.

        Raises:
            VerifierError: if a box is empty or not finite, or has another shape.
        """
        lower, upper = lower.double(), upper.double()
        self._check(lower, upper)
        values, close = {self._plan.source: held(lower, upper)}, set(self._plan.held)
        for step in self._plan.steps:
            if refined and step.is_curved:
                for name in set(step.inputs) - close:
                    values[name] = (refine or self.tightening.everywhere())(step, name, values)
                    close.add(name)
            values[step.output] = step.forward(values)
        return values

    @torch.no_grad()
    def margins(
        self,
        lower: Float[Tensor, "batch *shape"],
        upper: Float[Tensor, "batch *shape"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
        slopes: Slopes | None = None,
        seconds: Sequence[float] = (),
    ) -> Float64[Tensor, "batch others"]:
        """Return lower bounds of logit[label] - logit[j] over boxes, for all j other than the label, ascending.

        The logits are those that any evaluation computes, their difference is exact: above 0, every evaluation gives
        the label the larger logit. -inf claims nothing.

        Args:
            lower: lower ends of the boxes.
            upper: upper ends; equal to the lower ones where nothing is free.
            labels: the class whose margins are bounded, for each box.
            method: ibp, crown-ibp or crown.
            slopes: lower slopes of activations, by the name of what each reads; any are sound.
            seconds: for each box, how long its hidden values may take by CROWN, which bounds nothing of it after that;
                as long as it takes where empty.

        Raises:
            VerifierError: as `intervals`, or if the method is another, or a label is no class.
        """
        if method not in METHODS:
            raise VerifierError(f"expected a proof by {', '.join(METHODS)}, got {method}")
        self._check_labels(labels, len(lower))
        self._check_precision()
        most = 1 if method is BoundMethod.CROWN else max(1, _ENTRIES // (self._widest * self.classes))
        parts = [torch.zeros((0, self.classes - 1), dtype=torch.float64)]
        for start in range(0, len(lower), most):
            part = slice(start, start + most)
            given = None if slopes is None else {name: values[part] for name, values in slopes.items()}
            until = time.perf_counter() + seconds[start] if len(seconds) and method is BoundMethod.CROWN else math.inf
            try:
                parts.append(self._margins(lower[part], upper[part], labels[part], method, given, until))
            except BoundTimeError:
                parts.append(torch.full((1, self.classes - 1), -torch.inf, dtype=torch.float64))
        return torch.cat(parts)

    @torch.no_grad()
    def margins_at(
        self, points: Float[Tensor, "batch *shape"], labels: Int64[Tensor, "batch"]
    ) -> Float64[Tensor, "batch others"]:
        """Return lower bounds as `margins` does, at single points: quicker, and a little looser, as they share rooms.

        Args:
            points: what the source's tensor holds.
            labels: the classes.

        Raises:
            VerifierError: as `margins`.
        """
        self._check_labels(labels, len(points))
        self._check(points, points)
        self._check_quick(points)
        if not len(points):
            return torch.zeros((0, self.classes - 1), dtype=torch.float64)
        start = points.to(self._quick)
        values = self._points.run(self._plan.source, (start, torch.zeros_like(start[:1])), self._last_chain)
        return self.lower_bounds(values, margin_rows(labels, self.classes), BoundMethod.IBP)

    @torch.no_grad()
    def margins_by_length(
        self, points: Float[Tensor, "batch *shape"], labels: Int64[Tensor, "batch"]
    ) -> Float64[Tensor, "batch others"]:
        """Return bounds as `margins_at`, by how long differences are: of wide layers far better ones (`lengths`)."""
        self._check_labels(labels, len(points))
        self._check(points, points)
        self._check_quick(points)
        found = self._lengths.margins(points, labels)
        unknown = torch.full((len(points), self.classes - 1), -torch.inf, dtype=torch.float64)
        return unknown if found is None else found.where(found.isfinite(), -torch.inf)

    @torch.no_grad()
    def linear_margins_at(
        self,
        points: Float[Tensor, "batch *shape"],
        labels: Int64[Tensor, "batch"],
        narrow: int = 0,
        until: float = math.inf,
    ) -> Float64[Tensor, "batch others"]:
        """Return linear bounds as `margins_at`; what enters activations lies as near as `lengths` finds it.

        Args:
            points: what the source's tensor holds.
            labels: the classes.
            narrow: tensors of no more entries than this are bounded by backward passes too, as by CROWN.
            until: when to stop, by `time.perf_counter`: points that are left have no bounds.

        Raises:
            VerifierError: as `margins`.
        """
        self._check_labels(labels, len(points))
        self._check_quick(points)
        most = 1 if narrow else max(1, _ENTRIES // (self._widest * self.classes))
        found = torch.full((len(points), self.classes - 1), -torch.inf, dtype=torch.float64)
        for start in range(0, len(points), most):
            part = slice(start, start + most)
            refine = self.tightening.around(self._lengths.run(points[part]), narrow, until)
            try:
                values = self.intervals(points[part], points[part], True, refine)
                found[part] = self.lower_bounds(values, margin_rows(labels[part], self.classes), BoundMethod.CROWN)
            except BoundTimeError:
                break
        return found

    @torch.no_grad()
    def apart(self, lower: Float[Tensor, "one *shape"], upper: Float[Tensor, "one *shape"]) -> float:
        """Return how far margins of two evaluations may differ at any one point of a box, infinite where unknown.

        Args:
            lower: lower ends of a single box.
            upper: upper ends.

        Raises:
            VerifierError: if it is empty or not finite, or has another shape.
        """
        self._check(lower, upper)
        return 2 * apart(self._exact.steps, self._plan.output, self._plan.source, lower.double(), upper.double())

    def _margins(
        self, lower: Tensor, upper: Tensor, labels: Tensor, method: BoundMethod, slopes: Slopes | None, until: float
    ) -> Tensor:
        rows = margin_rows(labels, self.classes)
        if method is BoundMethod.IBP:
            return self.lower_bounds(self._held(lower, upper), rows, method)
        values = self.intervals(lower, upper, method is BoundMethod.CROWN, self.tightening.everywhere(until))
        bounds = self.lower_bounds(values, rows, BoundMethod.IBP)
        is_open = bounds <= 0
        if method is BoundMethod.CROWN_IBP:
            # linear bounds are dear: the least margin first, and the others where it is shown, or nearly
            is_least = is_open & functional.one_hot(bounds.argmin(1), bounds.shape[1]).bool()
            self._tighten(bounds, is_least, values, rows, method, slopes)
            is_open &= ~is_least & (torch.where(is_least, bounds, torch.inf).amin(1, keepdim=True) > -NEARLY)
        self._tighten(bounds, is_open, values, rows, method, slopes)
        return bounds

    def _tighten(
        self,
        bounds: Tensor,
        chosen: Bool[Tensor, "batch others"],
        values: Mapping[str, Enclosure],
        rows: Tensor,
        method: BoundMethod,
        slopes: Slopes | None,
    ) -> None:
        """Raise chosen bounds to linear ones; what else is in the batch changes none."""
        images, others = chosen.nonzero(as_tuple=True)
        if not len(images):
            return
        given = {
            name: found[images, others] if found.ndim > values[name].lower.ndim else found[images]
            for name, found in (slopes or {}).items()
        }
        taken = {name: value.take(images) for name, value in values.items()}
        linear = self.lower_bounds(taken, rows[images, others].unsqueeze(1), method, given)
        bounds[images, others] = torch.maximum(bounds[images, others], linear.squeeze(1))

    @torch.no_grad()
    def lower_bounds(
        self,
        values: Mapping[str, Enclosure],
        rows: Float64[Tensor, "batch row classes"],
        method: BoundMethod,
        slopes: Slopes | None = None,
        part: Part | None = None,
        multipliers: Multipliers | None = None,
    ) -> Float64[Tensor, "batch row"]:
        """Return lower bounds of rows @ logits, from enclosures of all tensors; the best of those of weaker methods.

        With `part` they hold for the evaluations alone whose activations read values between these ends, and
        `multipliers` may go with these ends. Enclosures of a single box serve all rows of a batch.
        """
        steps, output = self._before.get(self.output, ()), self.output
        bounds = Descent(values, {}).run(steps, output, rows, self._plan.stops)
        if method is BoundMethod.IBP:
            return bounds
        linear = Descent(values, slopes or {}, part, multipliers).run(steps, output, rows, {self._plan.source})
        return torch.maximum(bounds, linear)

    @torch.no_grad()
    def explained_bounds(
        self, values: Mapping[str, Enclosure], rows: Float64[Tensor, "batch row classes"], part: Part | None = None
    ) -> tuple[Float64[Tensor, "batch row"], dict[str, Tensor]]:
        """Return linear bounds as `lower_bounds`, and how they depend on what is held: rows, by its name.

        Those of the source and of what activations give; they say where to look, and prove nothing.
        """
        seen: dict[str, Tensor] = {}
        descent = Descent(values, {}, part, seen=seen)
        steps = self._before.get(self._plan.output, ())
        return descent.run(steps, self._plan.output, rows, {self._plan.source}), seen

    def draft(self, values: Mapping[str, Enclosure]) -> Draft:
        """Return what drafts linear bounds of rows @ logits, and of no others, from enclosures of a single box."""
        return Draft(self._before.get(self._plan.output, ()), self._plan.output, self._plan.source, values)

    def _held(self, lower: Tensor, upper: Tensor) -> dict[str, Enclosure]:
        """Return enclosures of all that a proof by intervals reads: the output's chain, back to held values."""
        self._check(lower, upper)
        self._check_quick(lower, upper)
        return self._boxes.run(self._plan.source, (lower.to(self._quick), upper.to(self._quick)), self._last_chain)

    @functools.cached_property
    def _last_chain(self) -> frozenset[str]:
        """Return the tensors between the output and those at which intervals stop before it, these included."""
        names, found = [self._plan.output], set()
        by_output = {step.output: step for step in self._plan.steps}
        while names:
            name = names.pop()
            if name not in found:
                found.add(name)
                if name not in self._plan.stops:
                    names += by_output[name].inputs
        return frozenset(found)

    def _check_quick(self, *ends: Tensor) -> None:
        self._check_precision()
        if self._quick is torch.float64:
            return
        if any(end.dtype is not torch.float32 and not torch.equal(end.float().double(), end.double()) for end in ends):
            raise VerifierError("expected boxes whose ends are float32")

    def _check_precision(self) -> None:
        if self._quick is torch.float32 and torch.get_float32_matmul_precision() != "highest":
            raise VerifierError("expected float32 products of full precision; set_float32_matmul_precision('highest')")

    def _check_labels(self, labels: Tensor, count: int) -> None:
        if not bool(((labels >= 0) & (labels < self.classes)).all()) or len(labels) != count:
            raise VerifierError(f"expected a label from 0 to {self.classes - 1} for each box, got {labels.tolist()}")

    def _check(self, lower: Tensor, upper: Tensor) -> None:
        if lower.shape[1:] != self.input_shape or upper.shape != lower.shape:
            raise VerifierError(
                f"expected boxes of shape {self.input_shape}, got {(*lower.shape,)} and {(*upper.shape,)}"
            )
        if not bool(((lower <= upper) & (upper - lower < torch.inf)).all()):
            raise VerifierError("expected boxes with finite ends, lower <= upper; got one that is not")


def margin_rows(labels: Int64[Tensor, "batch"], classes: int) -> Float64[Tensor, "batch others classes"]:
    """Return the rows that take logits to logit[label] - logit[j], for all j other than the label, ascending."""
    unit = torch.eye(classes, dtype=torch.float64)
    return unit[labels].unsqueeze(1) - unit[other_classes(labels, classes)]
