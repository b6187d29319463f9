"""A deployed classifier in fewer bits: its network in float16, or in whole numbers of 8 bits, behind the same front."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import LOGITS, Metadata
from abscert_plugin.artifact.model_file import with_tensors
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.write import write_checked
from abscert_plugin.blackbox import BlackBox, Provider, quantised
from abscert_plugin.errors import ConfigError, ExportError, UnsupportedModelError

PRECISION: Final = "abscert.precision"
SOURCE: Final = "abscert.source_sha256"
_LARGEST: Final = float(np.finfo(np.float16).max)
_SUMMING: Final = ("Conv", "Gemm", "MatMul")
_NARROW: Final = MappingProxyType({TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"})
_MOVING: Final = "Concat Dropout Flatten Identity MaxPool Reshape Squeeze Transpose Unsqueeze"
_COMPUTING: Final = (
    "Add AveragePool Clip Conv Gemm GlobalAveragePool GlobalMaxPool MatMul Mul Neg ReduceMean Relu Sigmoid Sub Tanh"
)
_OF_HALVES: Final = frozenset([*_MOVING.split(), *_COMPUTING.split()])
"""Operators whose numbers are all of one type, float16 as well as float32; shapes and axes are whole numbers."""


class FilePrecision(StrEnum):
    """What a network computes in."""

    FLOAT16 = "float16"
    INT8 = "int8"


@final
@dataclass(frozen=True, slots=True)
class Narrowed:
    """What was written, and how far its logits are from those of the file that it was made of, at most, on images."""

    path: Path
    largest_difference: float


def narrow(
    source: Artifact, precision: FilePrecision, folder: Path, images: Float32[np.ndarray, "batch channels height width"]
) -> Narrowed:
    """Write a classifier in fewer bits, `<name>-<precision>.onnx`, into a folder.

    The front stays as it is, in float32: the file reads the same cells. Its metadata name the precision and the
    checksum of the file that it was made of.

    Args:
        source: the file.
        precision: of its network.
        folder: where the new file goes.
        images: to compare the two on; those by which ranges of whole numbers are found, of the training split.

    Raises:
        ConfigError: if there are no images.
        UnsupportedModelError: if the file is not one of float32, or has a node that is not known in fewer bits.
        ExportError: if a weight does not fit, or the new file's logits are no finite numbers.
    """
    if not len(images):
        raise ConfigError("expected images to compare the files on, got none")
    model = onnx.ModelProto()
    model.CopyFrom(with_tensors(source.model, source.path))
    _refuse_narrow(model, source.path)
    made = _MAKERS[precision](model, source, images)
    old = source.metadata
    network = {"abscert.network": f"{old.network} in {precision}", PRECISION: str(precision), SOURCE: source.sha256}
    kept = {entry.key: entry.value for entry in source.model.metadata_props}
    helper.set_model_props(made, {**kept, **network})
    name = f"{source.path.stem}-{precision}.onnx"
    difference = write_checked({name: made}, folder, lambda paths: _compare(paths[name], old, source, images))
    return Narrowed(folder / name, difference)


def _refuse_narrow(model: onnx.ModelProto, path: Path) -> None:
    """Raise if a file has tensors or casts of fewer bits, or is quantised."""
    types = {tensor.data_type for tensor in model.graph.initializer}
    types |= {one.i for node in model.graph.node for one in node.attribute if node.op_type == "Cast"}
    operators = {node.op_type for node in model.graph.node}
    narrow = sorted({"QuantizeLinear", "DequantizeLinear"} & operators)
    narrow += [name for number, name in _NARROW.items() if number in types]
    if narrow:
        raise UnsupportedModelError(f"{path}: expected a file of float32, got one with {' and '.join(narrow)}")


def _split(graph: onnx.GraphProto, read: str) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes that do not depend on a tensor, and those that do."""
    behind, parts = {read}, (list[onnx.NodeProto](), list[onnx.NodeProto]())
    for node in graph.node:
        depends = bool(behind & set(node.input))
        behind |= set(node.output) if depends else set()
        parts[depends].append(node)
    return parts


def _in_halves(model: onnx.ModelProto, source: Artifact, _: np.ndarray) -> onnx.ModelProto:
    """Return the model with a Cast to float16 before its network, float16 weights, and a Cast back to the logits."""
    graph = model.graph
    front, network = _split(graph, source.read)
    others = sorted({node.op_type for node in network if node.op_type not in _OF_HALVES or node.domain})
    if others:
        raise UnsupportedModelError(f"{source.path}: {', '.join(others)} cannot be written in float16")
    read = {name for node in network for name in node.input}
    constants = [node for node in front if node.op_type == "Constant" and set(node.output) & read]
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    tensors += [attribute.t for node in constants for attribute in node.attribute if attribute.name == "value"]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_half(tensor))
    given, answer = f"{source.read}/{FilePrecision.FLOAT16}", f"{LOGITS}/{FilePrecision.FLOAT16}"
    renamed = {source.read: given, LOGITS: answer}
    for node in network:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    ahead = helper.make_node("Cast", [source.read], [given], given, to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", [answer], [LOGITS], answer, to=TensorProto.FLOAT)
    nodes, known = [*front, ahead, *network, back], [one for one in graph.value_info if one.name == source.read]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    made.graph.value_info.extend(known)
    return made


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a tensor rounded to float16."""
    values = numpy_helper.to_array(tensor)
    most = float(np.abs(values).max(initial=0.0))
    if not most <= _LARGEST:
        raise ExportError(f"expected weights up to {_LARGEST:g} for float16, got {most:.6g} in {tensor.name!r}")
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def _in_whole_numbers(model: onnx.ModelProto, source: Artifact, images: np.ndarray) -> onnx.ModelProto:
    """Return the model with QuantizeLinear and DequantizeLinear before each node that sums products."""
    summing = [node for node in _split(model.graph, source.read)[1] if node.op_type in _SUMMING]
    if not summing or not source.takes_images:
        raise UnsupportedModelError(f"{source.path}: expected a deploy.onnx with {', '.join(_SUMMING)} to quantise")
    for place, node in enumerate(summing):
        node.name = f"summing_{place}"  # a file may have no names, or the same name twice
    names = [node.name for node in summing]
    made = quantised(model, images, names)
    if "QuantizeLinear" not in {node.op_type for node in made.graph.node}:
        raise UnsupportedModelError(f"{source.path}: onnxruntime finds nothing to quantise")
    return made


_MAKERS: Final = MappingProxyType({FilePrecision.FLOAT16: _in_halves, FilePrecision.INT8: _in_whole_numbers})


def _compare(path: Path, old: Metadata, source: Artifact, images: np.ndarray) -> float:
    """Return the largest difference of logits from those of the source.

    Raises:
        ExportError: if a logit is no finite number, or the front is not the source's.
    """
    new = check_artifact(onnx.load_model(str(path)), path)
    if (new.front, new.image_shape, new.classes) != (old.front, old.image_shape, old.classes):
        raise ExportError(f"{path.name} would not have the front of {source.path.name}; nothing was written")
    logits = BlackBox(path, Provider.CPU).run(source.front.file_input(images))
    difference = float(np.abs(logits - source.run_images(images)).max())
    if not math.isfinite(difference):
        raise ExportError(f"the logits of {path.name} are no finite numbers: they overflow; nothing was written")
    return difference
