"""Whether a file's logits of an image can depend on the other images of a batch, told from its graph alone."""

from typing import Final

import onnx
from google.protobuf.message import EncodeError
from onnx import helper

from abscert_plugin.graph.carried import Carried, Fixed, NotShownError, Scope, Sizes, Unknown, Value, small
from abscert_plugin.graph.nodes import Graph, Node
from abscert_plugin.graph.rules import RULES, SIZE_RULES

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
    shapes = _shapes(graph, model, batch or _PROBED_BATCH)
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
    if node.domain not in _DOMAINS:
        raise NotShownError(f"{node} is an operator of {node.domain}")
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


def _shapes(graph: Graph, model: onnx.ModelProto, batch: int) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of all tensors that onnx can infer; what the file itself says of them counts for nothing.

    Large constants are left out, so that neither memory nor protobuf's 2 GiB are in the way.
    """
    light = onnx.ModelProto(ir_version=max(model.ir_version, 8), opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.node.extend(model.graph.node)
    source = next(value for value in model.graph.input if value.name == graph.input)
    kind = source.type.tensor_type.elem_type
    others = (graph.input_shape or ())[1:]
    sizes = [batch, *(f"size_{place}" if size is None else size for place, size in enumerate(others))]
    light.graph.input.append(helper.make_tensor_value_info(graph.input, kind, sizes))
    found: dict[str, tuple[int | None, ...]] = {}
    for name, tensor in graph.tensors.items():
        found[name] = tuple(tensor.dims)
        if small(tensor) is None:
            light.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    light.graph.output.append(onnx.ValueInfoProto(name=graph.output))
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, EncodeError):
        return found
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(size.dim_value if size.HasField("dim_value") else None for size in dims)
    return found
