"""From a graph to the steps of a proof, and what of a graph has none."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, final

from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.affine_rules import AFFINE_RULES
from abscert_plugin.bounds.proof.building import Build
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.forest_rules import FOREST_RULES
from abscert_plugin.bounds.proof.formats import NARROW
from abscert_plugin.bounds.proof.lookalikes import has_gates, need_no_lookalike, need_splits_apart
from abscert_plugin.bounds.proof.maps import Convolution, InSingle, LinearMap
from abscert_plugin.bounds.proof.ml_rules import ML_RULES
from abscert_plugin.bounds.proof.normalisation import NORMALISATION_RULES
from abscert_plugin.bounds.proof.other_rules import OTHER_RULES
from abscert_plugin.bounds.proof.pair_rules import PAIR_RULES
from abscert_plugin.bounds.proof.pooling_rules import POOLING_RULES
from abscert_plugin.bounds.proof.product_rules import PRODUCT_RULES
from abscert_plugin.bounds.proof.quantised import QUANTISED_RULES
from abscert_plugin.bounds.proof.reductions import REDUCTIONS
from abscert_plugin.bounds.proof.resizing import RESIZING_RULES
from abscert_plugin.bounds.proof.rows import need_rowwise
from abscert_plugin.bounds.proof.shape_rules import SHAPE_RULES
from abscert_plugin.bounds.proof.smooth_rules import SMOOTH_RULES
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph import walk
from abscert_plugin.graph.nodes import Graph

RULES: Final = {
    **AFFINE_RULES,
    **FOREST_RULES,
    **ML_RULES,
    **NORMALISATION_RULES,
    **OTHER_RULES,
    **POOLING_RULES,
    **PRODUCT_RULES,
    **QUANTISED_RULES,
    **REDUCTIONS,
    **RESIZING_RULES,
    **SHAPE_RULES,
    **SMOOTH_RULES,
    **PAIR_RULES,  # last: of two values, else those above
}
IN_SINGLE: tuple[type[LinearMap], ...] = (Convolution,)
"""Maps that a quick proof computes in float32; matrices have longer sums, and are quick enough in float64."""


@final
@dataclass(frozen=True, slots=True)
class ProofPlan:
    """The steps from the source to the output, in an order in which they can be taken.

    Args:
        steps: the steps.
        source: name of the tensor that boxes are of.
        output: name of the logits.
        held: names at which chains begin: of what nonlinear steps give, and of the source.
        stops: names at whose ends intervals stop: those that are held, and closer ones along chains.
        shapes: of all tensors by name, without the batch.
        has_narrow_logits: whether the logits are in fewer bits than float32.
    """

    steps: tuple[Step, ...]
    source: str
    output: str
    held: frozenset[str]
    stops: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]
    has_narrow_logits: bool

    def in_single(self) -> "ProofPlan":
        """Return the same plan, whose convolutions are in float32: in float64, torch has none that are quick."""
        return replace(self, steps=tuple(map(_in_single, self.steps)))

    def narrow_in_single(self) -> tuple[Step, ...]:
        """Return all steps, those of fewer bits as in `in_single`: quick passes have nothing quicker for them."""
        return tuple(_in_single(step) if _is_narrow(step) else step for step in self.steps)

    @property
    def is_narrow(self) -> bool:
        """Return whether some sums of products are in fewer bits than float32."""
        return any(map(_is_narrow, self.steps))

    def before(self, name: str) -> tuple[Step, ...]:
        """Return the steps that a tensor needs."""
        wanted, needed = {name}, []
        for step in reversed(self.steps):
            if step.output in wanted:
                needed.append(step)
                wanted |= set(step.inputs)
        return tuple(needed[::-1])


def _is_narrow(step: Step) -> bool:
    return isinstance(step, Affine) and step.kind.narrowing > 0


def _in_single(step: Step) -> Step:
    if not isinstance(step, Affine) or not isinstance(step.map, IN_SINGLE):
        return step
    is_known = step.map.weights.radius is None and not step.map.weights.roundings
    return replace(step, map=InSingle(step.map)) if is_known else step


def unsupported(graph: Graph, source: str) -> list[str]:
    """Return a line for each node between a tensor and the output whose operator the proof does not know."""
    return walk.unsupported(graph, source, RULES)


def plan(graph: Graph, source: str, shape: tuple[int, ...], classes: int, wide_sums: bool = False) -> ProofPlan:
    """Return the steps of a graph; `wide_sums` as `Build` takes it.

    Raises:
        UnsupportedModelError: if an operator, or a way of using it, is not known; names all operators at once.
    """
    if 0 in shape:
        raise UnsupportedModelError(f"this file has no proof in float32: its input of shape {shape} holds nothing")
    try:
        need_splits_apart(graph)
    except walk.UnsupportedNodeError as error:
        raise UnsupportedModelError(f"this file has no proof in float32: {error}") from error
    need_plain = partial(need_no_lookalike, has_gates=has_gates(graph, source))
    build = Build(graph, source, shape, RULES, need_plain, need_rowwise, wide_sums)
    # of a file of others, what it reads may be cast from what is fed
    casts = [node.attributes["to"] for node in graph.nodes if node.operator == "Cast" and source in node.outputs]
    for kind in [graph.input_type] if source == graph.input else casts:
        try:
            build.set_type(source, kind)
        except (KeyError, walk.UnsupportedNodeError) as error:
            raise UnsupportedModelError(f"this file has no proof in float32: its input: {error}") from error
    build.run(RULES, classes, "this file has no proof in float32")
    holding = frozenset({step.output for step in build.steps if step.ends_chains} | {source})
    stops = holding | {step.output for step in build.steps if step.is_closer}
    shapes = {name: tuple(value.lower.shape[1:]) for name, value in build.values.items()}
    is_narrow = build.types.get(graph.output) in NARROW
    return ProofPlan(tuple(build.steps), source, graph.output, holding, stops, shapes, is_narrow)
