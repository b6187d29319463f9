"""Whether a file's logits of an image can depend on the other images of a batch, told from its graph alone."""

from typing import Final

import onnx

from abscert_plugin.graph.carried import Carried, Fixed, NotShownError, Scope, Sizes, Unknown, Value, small
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.rules import RULES
from abscert_plugin.graph.shapes import inferred
from abscert_plugin.graph.size_rules import SIZE_RULES

_PROBED_BATCH: Final = 7919  # what a free batch is to shape inference: a prime, so unlike other sizes
_DOMAINS: Final = ("", "ai.onnx.ml")
# What a rule may raise at a node that is not as ONNX defines it.
_BROKEN: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def batch_obstacle(graph: Graph, model: onnx.ModelProto) -> str | None:
    """Return what keeps it from being shown that each image gets the logits it gets alone; None where it is shown.

    Shown means: by the definitions of ONNX's operators, row k of the output is a function of image k alone, the same
    one for every k and every size of the batch. What a backend's sums in another order may move is not part of it.

    Args:
        graph: the graph, with the images along the first axis of its input.
        model: the model that the graph was read from.
    """
    if not graph.input_shape:
        return "the rank of its input is not given"
    batch = graph.input_shape[0]
    if batch == 1:
        return None  # there are no other images
    shapes = {name: value.sizes for name, value in inferred(graph, model, batch or _PROBED_BATCH).items()}
    values: dict[str, Value] = {name: Fixed(small(tensor)) for name, tensor in graph.tensors.items()}
    values[graph.input] = Carried(0)
    for node in graph.nodes:
        try:
            given = _outputs(node, values, shapes, batch)
        except NotShownError as error:
            given = [Unknown(str(error) or _mixes(node))]
        except _BROKEN:
            given = [Unknown(_mixes(node))]
        given += [Unknown(_mixes(node))] * (len(node.outputs) - len(given))  # those that a rule says nothing of
        values.update(zip(node.outputs, given, strict=True))
    found = values.get(graph.output)
    if isinstance(found, Unknown):
        return found.reason
    return None if found == Carried(0) else f"the batch is not the first axis of {graph.output!r}"


def _mixes(node: Node) -> str:
    return f"{node} is not known to keep the images of a batch apart"


def _outputs(
    node: Node, values: dict[str, Value], shapes: dict[str, tuple[int | None, ...]], batch: int | None
) -> list[Value]:
    inputs = [values.get(name, Unknown(f"{node} reads {name!r}, which nothing gives")) for name in node.inputs if name]
    reads = [*inputs, *(values[name] for name in node.captured if name in values)]
    for value in reads:
        if isinstance(value, Unknown):
            raise NotShownError(value.reason)
    domain = node.operator.rpartition(".")[0]
    if domain not in _DOMAINS:
        raise NotShownError(f"{node} is an operator of {domain}")
    scope = Scope(node, {name: values[name] for name in node.inputs if name}, shapes, batch)
    carried = any(isinstance(value, Carried) for value in reads)
    fixed = not carried and not any(isinstance(value, Sizes) and value.with_batch for value in reads)
    if not carried and node.operator in SIZE_RULES:
        try:
            return SIZE_RULES[node.operator](scope)
        except (NotShownError, *_BROKEN):
            if not fixed:
                raise
    if fixed:
        return [Fixed() for _ in node.outputs]
    if node.captured or node.operator not in RULES:
        raise NotShownError
    return RULES[node.operator](scope)
