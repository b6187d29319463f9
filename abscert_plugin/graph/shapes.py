"""The sizes of a graph's tensors, as far as onnx's shape inference tells them, and those that no backend may meet."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final, final

import onnx
from google.protobuf.message import EncodeError
from onnx import helper

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.files import byte_limit, raise_limit
from abscert_plugin.graph.carried import small
from abscert_plugin.graph.nodes import Graph

MEMORY_LIMIT: Final = 2**34
"""Bytes of a model's files, and of what it computes for one image: 16 GiB, eight times protobuf's limit of a file."""
_WINDOWS: Final = ("Conv", "Pool")  # operators with a window, which backends divide by the sizes of
_KEEP_SHAPES: Final = ("Normalizer", "Scaler")
_ENTRY: Final = 4  # bytes, where the type is not known


@final
@dataclass(frozen=True, slots=True)
class Inferred:
    """What is known of a tensor.

    Args:
        sizes: along each axis, None where one is not known.
        bytes_per_entry: of its type.
    """

    sizes: tuple[int | None, ...]
    bytes_per_entry: int

    @property
    def bytes_at_least(self) -> int:
        """How much it takes where each size that is not known is 1."""
        return prod(1 if size is None else size for size in self.sizes) * self.bytes_per_entry


def inferred(
    graph: Graph, model: onnx.ModelProto, batch: int, others: tuple[int, ...] | None = None
) -> dict[str, Inferred]:
    """Return the shapes of all tensors that onnx can infer; what the file itself says of them counts for nothing.

    Large constants are left out, so that neither memory nor protobuf's 2 GiB are in the way.

    Args:
        graph: the graph.
        model: the model that it was read from.
        batch: size of the input along its first axis.
        others: sizes along its other axes; those of the graph where None.
    """
    light = onnx.ModelProto(ir_version=max(model.ir_version, 8), opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.node.extend(map(_with_shape, model.graph.node))
    source = next(value for value in model.graph.input if value.name == graph.input)
    kind = source.type.tensor_type.elem_type
    given = (graph.input_shape or ())[1:] if others is None else others
    sizes = [batch, *(f"size_{place}" if size is None else size for place, size in enumerate(given))]
    light.graph.input.append(helper.make_tensor_value_info(graph.input, kind, sizes))
    found: dict[str, Inferred] = {}
    for name, tensor in graph.tensors.items():
        found[name] = Inferred(tuple(tensor.dims), _bytes_per_entry(tensor.data_type))
        if small(tensor) is None:
            light.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    light.graph.output.append(onnx.ValueInfoProto(name=graph.output))
    try:
        result = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, EncodeError):
        return found
    for value in [*result.input, *result.value_info, *result.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            known = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
            found[value.name] = Inferred(known, _bytes_per_entry(kind.elem_type))
    return found


def _with_shape(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node whose shape onnx infers: it knows none of some of ai.onnx.ml, which give floats as a Cast does."""
    if node.domain != "ai.onnx.ml" or node.op_type not in _KEEP_SHAPES:
        return node
    return helper.make_node("Cast", node.input, node.output, to=onnx.TensorProto.FLOAT)


def check_sizes(graph: Graph, model: onnx.ModelProto, path: Path, others: tuple[int, ...] | None = None) -> bool:
    """Return whether the sizes of all tensors are known for one image, after refusing those that kill a backend.

    onnxruntime ends the whole process, by SIGFPE, at a pooling over 16 channels that has no row left.

    Args:
        graph: the graph.
        model: the model that it was read from.
        path: the file, for messages.
        others: sizes of the input along all axes but the first; those of the graph where None.

    Raises:
        UnsupportedModelError: if a small constant is broken, an operator with a window reads or gives a tensor of no
            entries, a size is negative, or all tensors together take more memory than MEMORY_LIMIT, or than the
            environment variable ABSCERT_MAX_BYTES says.
    """
    for name, tensor in graph.tensors.items():
        try:
            small(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise UnsupportedModelError(
                f"{path}: cannot read its tensors: {name!r} does not hold what its type and shape say"
            ) from error
    batch = (graph.input_shape or (None,))[0] or 1
    known = inferred(graph, model, batch, others)
    for node in graph.nodes:
        has_window = any(part in node.operator for part in _WINDOWS)
        for name in (*node.inputs, *node.outputs):
            sizes = known[name].sizes if name in known else ()
            if any(size is not None and size < (1 if has_window else 0) for size in sizes):
                shape = ", ".join("?" if size is None else str(size) for size in sizes)
                raise UnsupportedModelError(
                    f"{path}: {node} reads or gives {name!r} of shape [{shape}], which holds nothing; "
                    "its window is larger than its input, or its input is empty"
                )
    names = [name for node in graph.nodes for name in node.outputs if name]
    total = sum(known[name].bytes_at_least for name in names if name in known)
    if total > byte_limit(MEMORY_LIMIT):
        raise UnsupportedModelError(
            f"{path} computes tensors of {total:,} bytes for one image; if it is to be trusted, {raise_limit()}"
        )
    return all(name in known and None not in known[name].sizes for name in names)


def _bytes_per_entry(kind: int) -> int:
    try:
        return helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, ValueError, TypeError):
        return _ENTRY
