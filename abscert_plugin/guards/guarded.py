"""From a classifier to its guard: the file's own nodes, and beside them those that say what is certified."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final, final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

import abscert_plugin
from abscert_plugin.artifact.metadata import GUARD
from abscert_plugin.artifact.model_file import with_tensors
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.tails import kept_margins
from abscert_plugin.choices import expected_one_of
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import Graph, read_graph
from abscert_plugin.graph.tail import Tail, without_tail
from abscert_plugin.graph.walk import UnsupportedNodeError
from abscert_plugin.guards.answers import answer
from abscert_plugin.guards.bends import facts_and_sums
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.front import fed, inside
from abscert_plugin.guards.rules import RULES
from abscert_plugin.guards.walk import GuardWalk
from abscert_plugin.telling import Tell, nobody

LOGITS: Final = "logits"
LABEL: Final = "label"
CERTIFIED: Final = "certified"
MARGIN: Final = "margin"
RADIUS: Final = "radius"
NOTHING_KNOWN: Final = np.finfo(np.float32).min
"""The margin of an image with a pixel outside the pixel range, or NaN."""

BOUNDS: Final = (BoundMethod.IBP, BoundMethod.CROWN_IBP)
"""What margins can be bounded by inside a file."""

_LEAST_OPSET: Final = 13
_REFUSAL: Final = "this file has no guard"
_WRITING: Final = "nodes that are written"
_OF_ORDER: Final = (Tail.SOFTMAX, Tail.LOG_SOFTMAX)


@final
@dataclass(frozen=True, slots=True)
class Guarded:
    """A guard in memory.

    Args:
        model: the file.
        balls: what it is about, as its columns go.
        logits: name of the logits, as the classifier gives them.
        tail: what stands between them and what margins are of; None where nothing does.
    """

    model: onnx.ModelProto
    balls: tuple[Ball, ...]
    logits: str
    tail: Tail | None


def guarded(
    artifact: Artifact,
    balls: Sequence[Ball],
    has_largest: bool = False,
    bound: BoundMethod = BoundMethod.IBP,
    tell: Tell = nobody,
) -> Guarded:
    """Return the guard of a classifier: it answers logits, label, margin and what is certified.

    Soundness: where `certified` is true, every image of the ball gets the label from the file that is guarded, in any
    order of its sums, and whatever order the guard's own sums are computed in (`layers`, `answers`).

    Args:
        artifact: the classifier.
        balls: one, or several: each has a column then.
        has_largest: whether to answer the largest radius that is certified too, `radius`, 0 where none is.
        bound: IBP, or CROWN-IBP, which certifies no less and takes longer.
        tell: told of the nodes.

    Raises:
        UnsupportedModelError: if it has an operator without enclosure, a fixed batch, is no classifier of images, its
            numbers are too large, or CROWN-IBP has no ReLU before the last layer to go back through.
        ConfigError: if a radius is 0, or given twice, or the bound is another one.
    """
    _check_balls(balls)
    named_bound(bound)
    graph, model = _graph(artifact), onnx.ModelProto()
    model.CopyFrom(with_tensors(artifact.model, artifact.path))
    cut = without_tail(graph)
    needed = 0.0 if cut is None else _needed(cut.tail, artifact.metadata.classes)
    inner = graph if cut is None else cut.graph
    proof = Proof(
        inner, artifact.held, artifact.front.input_shape(artifact.metadata.image_shape), artifact.metadata.classes
    )
    emitter = Emitter(_names(model), graph.opset)
    ends, is_backward = fed(emitter, artifact, balls), bound is BoundMethod.CROWN_IBP
    everything = artifact.front.held_ends(*artifact.front.everything(artifact.metadata.image_shape))
    facts, sums = facts_and_sums(proof, *map(torch.from_numpy, everything))
    walk = GuardWalk(inner, artifact.held, ends, emitter, facts, proof.shapes, RULES, is_backward, sums)
    walk.run(RULES, artifact.metadata.classes, _REFUSAL, partial(tell, _WRITING))
    try:
        found = answer(walk, graph.output, inner.output, artifact.metadata.classes, len(balls), is_backward)
    except UnsupportedNodeError as error:
        raise UnsupportedModelError(f"{_REFUSAL}: its logits: {error}") from error
    _give_answers(emitter, artifact, balls, found.label, found.margin, needed, has_largest)
    _keep_needed(model, graph)
    model.graph.node.extend(emitter.nodes)
    model.graph.initializer.extend(emitter.initializers)
    fed_images = artifact.front.file_input(np.zeros((1, *artifact.metadata.image_shape), dtype=np.float32))
    _set_input(model, graph.input, fed_images.shape[1:])
    logits = _logits(model, graph.output)
    _set_outputs(model, graph.output, logits, len(balls), has_largest)
    _keep_read(model)
    _set_metadata(model, artifact, balls, bound)
    return Guarded(model, tuple(balls), logits, None if cut is None else cut.tail)


def named_bound(name: str) -> BoundMethod:
    """Return the bound of a guard that an option names.

    Raises:
        ConfigError: if a guard has none by that name; the message lists those that it has.
    """
    if name not in BOUNDS:
        raise ConfigError(expected_one_of("--bound", BOUNDS, name))
    return BoundMethod(name)


def _check_balls(balls: Sequence[Ball]) -> None:
    radii = [ball.radius.pixel for ball in balls]
    if not radii or not all(0 < radius <= 1 for radius in radii):
        raise ConfigError("expected a radius above 0 and at most 1 (pixel scale): at 0 the label is the whole answer")
    if len(set(radii)) < len(radii):
        raise ConfigError("expected each radius once")


def _graph(artifact: Artifact) -> Graph:
    """Return the graph of a classifier that can be guarded.

    Raises:
        UnsupportedModelError: if it cannot.
    """
    path = artifact.path
    if not artifact.takes_images:
        raise UnsupportedModelError(f"{path} takes interval images; guard the deploy.onnx beside it")
    graph = read_graph(with_tensors(artifact.model, path), path)
    if graph.opset < _LEAST_OPSET:
        raise UnsupportedModelError(
            f"{path}: expected version {_LEAST_OPSET} of ONNX's operators or later, got {graph.opset}; export it again"
        )
    if graph.input_shape and graph.input_shape[0] is not None:
        raise UnsupportedModelError(f"{path}: expected a batch of any size; export it with a dynamic batch")
    obstacle = batch_obstacle(graph, artifact.model)
    if obstacle is not None or artifact.classifier.one_by_one:
        told = obstacle or "its graph does not show it"
        raise UnsupportedModelError(f"{_REFUSAL}, whose images have to be computed apart: {told}")
    if artifact.metadata.classes < 2:
        raise UnsupportedModelError(f"{path}: expected at least 2 classes, got {artifact.metadata.classes}")
    return graph


def _needed(tail: Tail, classes: int) -> float:
    """Return what the margin of the logits has to be above so that the label stays first behind the tail.

    Raises:
        UnsupportedModelError: if that depends on where the logits lie.
    """
    if tail not in _OF_ORDER:
        raise UnsupportedModelError(f"{_REFUSAL}: it ends in {tail}; guard the file that gives the logits before it")
    nothing = torch.zeros((1, classes - 1), dtype=torch.float64)
    return -2 * float(kept_margins(tail, nothing, None, torch.zeros(1, dtype=torch.int64)).min())


def _keep_needed(model: onnx.ModelProto, graph: Graph) -> None:
    """Leave out nodes that the logits do not need, and refuse names of the guard's own among the others.

    Raises:
        UnsupportedModelError: if a tensor has one.
    """
    needed = {name for node in graph.between(graph.input) for name in node.outputs if name}
    kept = [node for node in model.graph.node if needed & set(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    taken = (needed | {graph.input, *graph.tensors}) & {LABEL, CERTIFIED, MARGIN, RADIUS}
    if taken:
        raise UnsupportedModelError(f"{_REFUSAL}: a tensor of it is called {min(taken)}, as an answer of the guard is")


def _keep_read(model: onnx.ModelProto) -> None:
    """Leave out nodes and constants that no output needs: runtimes would compute what a closer sum made needless."""
    needed, kept = {value.name for value in model.graph.output}, list[onnx.NodeProto]()
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _read_by(node)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    for field, items in ((model.graph.node, kept[::-1]), (model.graph.initializer, constants)):
        del field[:]
        field.extend(items)


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, in its branches too."""
    branches = [branch for attribute in node.attribute for branch in (attribute.g, *attribute.graphs)]
    given = {value.name for branch in branches for value in branch.output}
    return {*node.input, *given, *(name for branch in branches for inner in branch.node for name in _read_by(inner))}


def _names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
    return names


def _give_answers(
    emitter: Emitter,
    artifact: Artifact,
    balls: Sequence[Ball],
    label: str,
    margin: str,
    needed: float,
    has_largest: bool,
) -> None:
    """Write the outputs; margins of several balls become columns."""
    is_inside, count = inside(emitter, artifact), len(balls)
    if count > 1:
        column = emitter.constant(np.array([count, -1], dtype=np.int64))
        margin = emitter.node("Transpose", [emitter.node("Reshape", [margin, column])], perm=[1, 0])
        is_inside = emitter.widened(is_inside, 1)
    # of other images a margin may have overflowed, or be NaN
    margin = emitter.node("Where", [is_inside, margin, emitter.constant(np.array(NOTHING_KNOWN))])
    certified = emitter.node("Greater", [margin, emitter.number(needed)])
    largest = ""
    if has_largest:
        radii = np.array([_within(ball.radius.pixel) for ball in balls], dtype=np.float32)
        names = emitter.constant(radii if count > 1 else radii.reshape(()))
        shown = emitter.node("Where", [certified, names, emitter.exactly(0.0)])
        largest = emitter.reduced("ReduceMax", shown, [1]) if count > 1 else shown
    for name, source in ((LABEL, label), (MARGIN, margin), (CERTIFIED, certified), (RADIUS, largest)):
        if source:
            emitter.give(name, source)


def _within(radius: Fraction) -> np.float32:
    """Return the largest float32 that is not above a radius: a larger one was not proven."""
    nearest = np.float32(float(radius))
    return nearest if Fraction(float(nearest)) <= radius else np.nextafter(nearest, np.float32(0))


def _set_input(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    """Let images be of the one shape that bounds are of, and constants be no inputs, which a caller may set."""
    (image,) = [value for value in model.graph.input if value.name == name]
    batch, kind = image.type.tensor_type.shape.dim[0].dim_param or "batch", image.type.tensor_type.elem_type
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(name, kind, [batch, *shape]))


def _logits(model: onnx.ModelProto, found: str) -> str:
    """Return the name of the answer of logits: `logits`, but where another tensor of the file has that name."""
    if LOGITS not in _names(model):
        model.graph.node.append(helper.make_node("Identity", [found], [LOGITS], LOGITS))
        return LOGITS
    copies = [node for node in model.graph.node if node.op_type == "Identity" and found in node.output]
    return LOGITS if copies and LOGITS in copies[0].input else found


def _set_outputs(model: onnx.ModelProto, output: str, logits: str, count: int, has_largest: bool) -> None:
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(next(value for value in model.graph.output if value.name == output))
    kept.name = logits
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param or "batch"
    shape = [batch] if count == 1 else [batch, count]
    del model.graph.output[:]
    outputs = [
        kept,
        helper.make_tensor_value_info(LABEL, TensorProto.INT64, [batch]),
        helper.make_tensor_value_info(CERTIFIED, TensorProto.BOOL, shape),
        helper.make_tensor_value_info(MARGIN, TensorProto.FLOAT, shape),
    ]
    if has_largest:
        outputs.append(helper.make_tensor_value_info(RADIUS, TensorProto.FLOAT, [batch]))
    model.graph.output.extend(outputs)
    model.graph.name = "guard"


def _set_metadata(model: onnx.ModelProto, artifact: Artifact, balls: Sequence[Ball], bound: BoundMethod) -> None:
    facts: dict[str, Any] = {
        "version": abscert_plugin.__version__,
        "radii": [ball.radius.as_options() for ball in balls],
        "inputs": str(balls[0].inputs),
        "bound": str(bound),
        "arithmetic": "any-order",
        "guards_sha256": artifact.sha256,
    }
    if artifact.opening:
        facts["preprocessing"] = dict(artifact.opening)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, {**kept, GUARD: json.dumps(facts, default=str)})
