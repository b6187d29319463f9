"""Reading an ONNX classifier that this project did not make: its one input, its logits, a current operator set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.metadata import refuse_guard
from abscert_plugin.artifact.model_file import ModelFile, read_model, read_whole
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.graph.nodes import DEFAULT_DOMAINS, all_nodes, inner_graphs, opsets_of

OLDEST_OPSET: Final = 13
_OPSET_OF_COORDINATES: Final = 11  # from it on, Resize says how coordinates are meant
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE: Final = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64)
_INPUTS: Final = (*_FLOATS, *_WHOLE)


@final
@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph.

    Args:
        name: its name.
        element_type: a value of `onnx.TensorProto.DataType`; 0 where it is not a tensor.
        shape: sizes, batch first, None for each that is free; None where even the rank is unknown.
        batch_symbol: the graph's name for a free batch size.
    """

    name: str
    element_type: int
    shape: tuple[int | None, ...] | None
    batch_symbol: str

    def __str__(self) -> str:
        kinds = {number: kind.lower() for kind, number in TensorProto.DataType.items() if number}
        sizes = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} ({kinds.get(self.element_type, 'not a tensor')} [{sizes}])"

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the graph demands, None where it is free."""
        return self.shape[0] if self.shape else None

    @property
    def may_be_logits(self) -> bool:
        """Whether it looks like logits [batch, classes], perhaps with two sizes of 1 behind them."""
        fits = self.shape is None or len(self.shape) == 2 or (len(self.shape) == 4 and self.shape[2:] == (1, 1))
        return self.element_type in _FLOATS and fits

    @property
    def may_be_an_answer(self) -> bool:
        """Whether it can hold scores in any shape, or labels."""
        return self.element_type in (*_FLOATS, *_WHOLE)


@final
@dataclass(frozen=True, slots=True)
class ThirdParty:
    """A classifier as its file holds it.

    Args:
        file: the file; its model has no output but the logits.
        input: its one input.
        logits: its one output.
        labels: other outputs that the file had, of whole numbers, which may be the classes that it says.
    """

    file: ModelFile
    input: Port
    logits: Port
    labels: tuple[onnx.ValueInfoProto, ...]


def is_of_this_project(model: onnx.ModelProto) -> bool:
    """Return whether a file says that this project wrote it."""
    return any(entry.key == "abscert.version" for entry in model.metadata_props)


def read_third_party(
    path: Path,
    output: str | None = None,
    constants: Mapping[str, float] = MappingProxyType({}),
    model: onnx.ModelProto | None = None,
) -> ThirdParty:
    """Return the classifier that an ONNX file holds.

    Args:
        path: the file.
        output: name of the output that holds the logits; found by its type and shape where None.
        constants: values of inputs that are no image, by their names.
        model: what `read_model` gives of the file, which is changed; it is read where None.

    Raises:
        UnsupportedModelError: if the file cannot be read, is under abstraction already, draws random numbers, or
            has not one input and logits.
        ConfigError: if `output` is not there, or is needed to choose between several.
    """
    model = read_model(path) if model is None else model
    refuse_guard(model, path)
    if is_of_this_project(model):
        raise UnsupportedModelError(f"{path} is under abstraction already; wrap the classifier that it was made from")
    for name, value in constants.items():  # first: a Dropout may be off by it
        _fix_input(model.graph, name, value, path)
    file = read_whole(path, model)
    model = file.model
    _add_default_domain(model, path)
    _skip_zip_maps(model.graph, output, path)
    source = _input(model.graph, path)
    logits = _choose_output(_outputs(model), output, path)
    outputs = list(model.graph.output)
    del model.graph.output[:], model.training_info[:]
    model.graph.output.extend(value for value in outputs if value.name == logits.name)
    others = (value for value in outputs if value.name != logits.name)
    labels = tuple(value for value in others if value.type.tensor_type.elem_type in _WHOLE)
    return ThirdParty(file, source, logits, labels)


def brought_up(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return the model with opset 13 or later and no initializer among its inputs.

    Raises:
        UnsupportedModelError: if onnx's version converter cannot convert it, or makes another function of it.
    """
    version = next(entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS)
    changed = next((node for node in all_nodes(model.graph.node) if _is_changed(node, version)), None)
    if changed is not None:
        raise UnsupportedModelError(
            f"{path} has opset {version}, and onnx makes another function of its {changed.op_type} in bringing it to "
            f"{OLDEST_OPSET}; export it again with opset {OLDEST_OPSET} or later"
        )
    converted = onnx.ModelProto()
    try:
        converted.CopyFrom(
            onnx.version_converter.convert_version(model, OLDEST_OPSET) if version < OLDEST_OPSET else model
        )
    except (onnx.version_converter.ConvertError, RuntimeError, IndexError, ValueError, EncodeError) as error:
        raise UnsupportedModelError(
            f"{path} has opset {version}, and onnx cannot bring it up to {OLDEST_OPSET}: "
            f"{' '.join(str(error).split())[:200]}; export it again with opset {OLDEST_OPSET} or later"
        ) from error
    constants = {tensor.name for tensor in converted.graph.initializer}
    inputs = [value for value in converted.graph.input if value.name not in constants]
    del converted.graph.input[:]
    converted.graph.input.extend(inputs)
    converted.ir_version = max(
        converted.ir_version, helper.find_min_ir_version_for(converted.opset_import, ignore_unknown=True)
    )
    return converted


def _is_changed(node: onnx.NodeProto, version: int) -> bool:
    """Return whether onnx's converter changes what a node of an old set of operators computes.

    Coordinates of Upsample and of the tenth set's Resize are divided by the scale, those of what it makes of them are
    of pixels' centres; the old Hardmax flattens from its axis on.
    """
    mode = next((attribute.s for attribute in node.attribute if attribute.name == "mode"), b"nearest")
    is_scaled = node.op_type == "Upsample" or (node.op_type == "Resize" and version < _OPSET_OF_COORDINATES)
    return (node.op_type == "Hardmax" and version < OLDEST_OPSET) or (is_scaled and mode != b"nearest")


def prefix_names(graph: onnx.GraphProto, prefix: str) -> None:
    """Put `prefix` before every name in the graph and the graphs inside it, so that no name of ours is among them.

    `onnx.compose.add_prefix` misses an initializer of the outer graph that an inner graph reads.
    """
    tensors = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
    for named in [*graph.node, *graph.input, *graph.output, *graph.value_info, *tensors]:
        named.name = _prefixed(prefix, named.name)
    for node in graph.node:
        node.input[:] = [_prefixed(prefix, name) for name in node.input]
        node.output[:] = [_prefixed(prefix, name) for name in node.output]
        for inner in inner_graphs(node):
            prefix_names(inner, prefix)
    del graph.quantization_annotation[:]  # advice to tools, by names that are gone


def _prefixed(prefix: str, name: str) -> str:
    return prefix + name if name else name  # an empty name stands for an argument left out


def _add_default_domain(model: onnx.ModelProto, path: Path) -> None:
    """Name the default domain once: files of ai.onnx.ml alone leave it out, others name it twice.

    Raises:
        UnsupportedModelError: if a domain has two versions.
    """
    versions = opsets_of(model, path)
    versions.setdefault("", OLDEST_OPSET)
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())


def _skip_zip_maps(graph: onnx.GraphProto, output: str | None, path: Path) -> None:
    """Give out the tensor of probabilities, of the same name, where skl2onnx makes dictionaries of it.

    Raises:
        UnsupportedModelError: if these name other whole numbers than the places of classes, and it was not asked for.
    """
    names = set()
    for node in graph.node:
        if (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap"):
            for attribute in node.attribute:
                told = list(attribute.ints)
                if output is None and told != list(range(len(told))):
                    raise UnsupportedModelError(
                        f"{path}: its output {node.output[0]!r} names its classes {told[:10]}, and not 0 to "
                        f"{len(told) - 1}; name it with --output: places are the classes"
                    )
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
            names.update(node.output)
    for value in graph.output:
        if value.name in names:
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None, None]))


def _input(graph: onnx.GraphProto, path: Path) -> Port:
    constants = {tensor.name for tensor in graph.initializer}
    ports = [_port(value) for value in graph.input if value.name not in constants]
    if len(ports) != 1:
        raise UnsupportedModelError(
            f"{path}: expected one input, an image, got {len(ports)}: {', '.join(map(str, ports)) or 'none'}"
            + ("; fix the others with --constant NAME=VALUE" if len(ports) > 1 else "")
        )
    if ports[0].element_type not in _INPUTS:
        raise UnsupportedModelError(f"{path}: expected an input of floats, bytes or other integers, got {ports[0]}")
    return ports[0]


def _fix_input(graph: onnx.GraphProto, name: str, value: float, path: Path) -> None:
    """Make a constant of an input that is no image."""
    places = [place for place, given in enumerate(graph.input) if given.name == name]
    if not places:
        listed = ", ".join(str(_port(given)) for given in graph.input)
        raise ConfigError(f"{path}: expected --constant of one of its inputs, got {name!r}; it has {listed}")
    port = _port(graph.input[places[0]])
    try:
        kind = helper.tensor_dtype_to_np_dtype(port.element_type)
        if not _holds(kind, value):
            raise ValueError(f"{value} is none of {kind}")
        tensor = numpy_helper.from_array(np.full([size or 1 for size in port.shape or ()], value).astype(kind), name)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: the input {port} cannot be {value:g}") from error
    del graph.input[places[0]]
    kept = [given for given in graph.initializer if given.name != name]
    del graph.initializer[:]
    graph.initializer.extend([*kept, tensor])


def _holds(kind: np.dtype, value: float) -> bool:
    """Return whether a type of numbers or truth values has a finite value, or one near it where it is one of floats."""
    if kind.kind in "iu":
        return float(value).is_integer() and np.iinfo(kind).min <= value <= np.iinfo(kind).max
    return value in (0, 1) if kind.kind == "b" else kind.kind == "f" and math.isfinite(value)


def _outputs(model: onnx.ModelProto) -> list[Port]:
    ports = [_port(value) for value in model.graph.output]
    if all(port.shape is not None for port in ports if port.element_type):
        return ports
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, EncodeError):
        return ports  # then the shapes show when the model runs
    return [_port(value) for value in inferred.graph.output]


def _choose_output(ports: list[Port], name: str | None, path: Path) -> Port:
    listed = ", ".join(map(str, ports))
    if name is not None:
        found = [port for port in ports if port.name == name]
        if not found:
            raise ConfigError(f"{path}: expected the output that holds the logits, got {name!r}; it has {listed}")
    else:
        found = [port for port in ports if port.may_be_logits]
        found = found or [port for port in ports if port.element_type in _FLOATS]
        found = found or [port for port in ports if port.may_be_an_answer]
    if len(found) > 1:
        raise ConfigError(f"{path} has several outputs that may be the logits; name one with --output: {listed}")
    if not found or not found[0].may_be_an_answer:
        raise UnsupportedModelError(f"{path}: expected an output of float logits [batch, classes], got {listed}")
    return found[0]


def _port(value: onnx.ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        return Port(value.name, 0, None, "")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Port(value.name, tensor.elem_type, None, "")
    sizes = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
    return Port(value.name, tensor.elem_type, sizes, tensor.shape.dim[0].dim_param if sizes else "")
