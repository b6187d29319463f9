"""From a graph to the steps of a proof, and what of a graph has none."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, final

import torch

from abscert_plugin.bounds.proof.affine_rules import AFFINE_RULES
from abscert_plugin.bounds.proof.building import Build, UnsupportedStepError
from abscert_plugin.bounds.proof.constants import ON_CONSTANTS, fold, sizes
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import held
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.other_rules import OTHER_RULES
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.nodes import Graph, Node

RULES: Final = {**AFFINE_RULES, **OTHER_RULES}

# What the arithmetic of a broken graph may raise.
_BROKEN: Final = (IndexError, KeyError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError)


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """The steps from the source to the output, in an order in which they can be taken.

    Args:
        steps: the steps.
        source: name of the tensor that boxes are of.
        output: name of the logits.
        held: names of what nonlinear steps give, and of the source.
        shapes: of all tensors by name, without the batch.
    """

    steps: tuple[Step, ...]
    source: str
    output: str
    held: frozenset[str]
    shapes: Mapping[str, tuple[int, ...]]

    def before(self, name: str) -> tuple[Step, ...]:
        """Return the steps that a tensor needs."""
        wanted, needed = {name}, []
        for step in reversed(self.steps):
            if step.output in wanted:
                needed.append(step)
                wanted |= set(step.inputs)
        return tuple(needed[::-1])


def unsupported(graph: Graph, source: str) -> list[str]:
    """Return a line for each node between a tensor and the output whose operator the proof does not know."""
    dependent, lines = {source}, []
    for node in graph.between(source):
        on_image = bool(dependent & set(node.inputs))
        if on_image:
            dependent |= set(node.outputs)
        known: Collection[str] = {*RULES, "Shape"} if on_image else {*ON_CONSTANTS}
        if node.operator == "Shape":  # what it gives is a constant here
            dependent -= set(node.outputs)
        if node.domain or node.operator not in known or node.captured:
            name = f"{node.domain}.{node.operator}" if node.domain else node.operator
            lines.append(f"node {node.name!r}: no enclosure of {name}{'' if on_image else ' on constants'}")
    return lines


def plan(graph: Graph, source: str, shape: tuple[int, ...], classes: int) -> Plan:
    """Return the steps of a graph.

    Raises:
        UnsupportedModelError: if an operator, or a way of using it, is not known; names all operators at once.
    """
    missing = unsupported(graph, source)
    if missing:
        raise UnsupportedModelError(f"this file has no proof in float32: {'; '.join(missing)}")
    zero = torch.zeros((1, *shape), dtype=torch.float64)
    build = Build({source: held(zero, zero)}, {name: graph.array(name) for name in graph.tensors})
    for node in graph.between(source):
        try:
            _take(build, node, graph)
        except UnsupportedStepError as error:
            raise UnsupportedModelError(f"this file has no proof in float32: {node}: {error}") from error
        except _BROKEN as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UnsupportedModelError(f"this file has no proof in float32: {node}: {reason}") from error
    if graph.output not in build.values or build.values[graph.output].lower.shape[1:] != (classes,):
        raise UnsupportedModelError(f"expected logits [batch, {classes}] that depend on `{source}`")
    holding = {step.output for step in build.steps if isinstance(step, Activation | Largest)}
    shapes = {name: tuple(value.lower.shape[1:]) for name, value in build.values.items()}
    return Plan(tuple(build.steps), source, graph.output, frozenset(holding | {source}), shapes)


def _take(build: Build, node: Node, graph: Graph) -> None:
    names = [name for name in node.inputs if name]
    if node.operator == "Shape" and names[0] in build.values:
        sizes(build, node)
    elif not any(name in build.values for name in names):
        missing = [name for name in names if name not in build.arrays and name not in build.constants]
        if missing:
            raise UnsupportedStepError(f"it reads {missing[0]!r}, which is not known")
        fold(build, node, graph.opset)
    else:
        if build.with_batch & set(names) and node.operator != "Reshape":
            raise UnsupportedStepError("expected the batch size to be used in shapes only")
        RULES[node.operator](build.view(node))
