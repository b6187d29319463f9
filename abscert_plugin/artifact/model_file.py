"""Reading an ONNX file without trusting it: whether it is one, and where it keeps its tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.files import byte_limit, raise_limit, read_bytes, sha256_of
from abscert_plugin.graph.chance import refuse_chance
from abscert_plugin.graph.shapes import MEMORY_LIMIT
from abscert_plugin.wording import plain_words

_FILE_LIMIT: Final = 2**31  # bytes: protobuf's own limit


@final
@dataclass(frozen=True, slots=True)
class ModelFile:
    """An ONNX file as it was read.

    Args:
        path: the file.
        sha256: its checksum, with that of the files that hold its tensors.
        files: all of these.
        model: the model, with all its tensors.
    """

    path: Path
    sha256: str
    files: frozenset[Path]
    model: onnx.ModelProto


def read_whole(path: Path, model: onnx.ModelProto | None = None) -> ModelFile:
    """Read an ONNX file that anyone may have made, packed by gzip or not, with all its tensors.

    Args:
        path: the file.
        model: what `read_model` gives of it, which may be changed; it is read where None.

    Raises:
        UnsupportedModelError: if it cannot be read, draws random numbers or is in training mode.
    """
    model = read_model(path) if model is None else model
    refuse_chance(model, path)
    folder = path.resolve().parent
    files = {path.resolve(), *((folder / location).resolve() for location in external_locations(model))}
    return ModelFile(path, model_sha256(path, model), frozenset(files), with_tensors(model, path))


def need_content(path: Path) -> None:
    """Refuse what is no file, or an empty one.

    Raises:
        UnsupportedModelError: if it is.
    """
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is not there" if not path.exists() else f"{path} is not a file")
    if path.stat().st_size == 0:
        raise UnsupportedModelError(f"{path} is empty")


def read_model(path: Path) -> onnx.ModelProto:
    """Return the graph of an ONNX file, packed by gzip or not, without the tensors that it keeps in other files.

    Raises:
        UnsupportedModelError: if the file is missing, empty or not an ONNX model, or if it points at external
            data outside its own folder or at data that is not there.
    """
    need_content(path)
    if path.stat().st_size >= _FILE_LIMIT:
        raise UnsupportedModelError(f"{path} holds {_FILE_LIMIT:,} bytes or more, which no ONNX file can")
    try:
        if path.suffix == ".gz":
            packed = read_bytes(path, _FILE_LIMIT, error=UnsupportedModelError, is_packed=True)
            model = onnx.load_model_from_string(packed)
        else:
            # whatever its name: onnx would read JSON or text where that ends so, and onnxruntime would not
            model = onnx.load_model(str(path), "protobuf", load_external_data=False)
    except DecodeError as error:
        raise UnsupportedModelError(f"{path} is not an ONNX model, or is cut short; export it again") from error
    except OSError as error:
        raise UnsupportedModelError(f"cannot read {path}: {error.strerror}") from error
    if not all(isinstance(text, str) for text in _texts(model)):
        raise UnsupportedModelError(f"{path} is not an ONNX model: a name in it is not UTF-8; export it again")
    if not model.opset_import or not model.graph.output:
        raise UnsupportedModelError(f"{path} is not an ONNX model: it has no operator set or no output")
    for location in external_locations(model):
        _check_location(location, path)
    _check_external_sizes(model, path)
    return model


def external_locations(model: onnx.ModelProto) -> list[str]:
    """Return the paths, as the model writes them, of the files that hold its tensors."""
    return sorted(
        {entry.value for tensor in _external(model) for entry in tensor.external_data if entry.key == "location"}
    )


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    inner = (tensor for function in model.functions for node in function.node for tensor in _node_tensors(node))
    for tensor in (*_tensors(model.graph), *inner):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _check_external_sizes(model: onnx.ModelProto, path: Path) -> None:
    """Raise where a tensor lies outside its file, or the tensors or their files take more memory than MEMORY_LIMIT."""
    files = {location: (path.parent / location).stat().st_size for location in external_locations(model)}
    total = 0
    for tensor in _external(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = files.get(entries.get("location", ""), 0)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", size - offset))
        except ValueError:
            offset = length = -1
        if not 0 <= offset <= offset + length <= size:
            where = f"{entries.get('length', 'all')[:40]} bytes from {entries.get('offset', '0')[:40]} on"
            raise UnsupportedModelError(
                f"{path}: cannot read its tensors: {tensor.name!r} lies at {where} of "
                f"{entries.get('location', '')!r}, which holds {size:,}; export it again"
            )
        total += length
    largest = max(total, sum(files.values()))
    if largest > byte_limit(MEMORY_LIMIT):
        raise UnsupportedModelError(
            f"{path} keeps {largest:,} bytes in other files; if it is to be trusted, {raise_limit()}"
        )


def model_sha256(path: Path, model: onnx.ModelProto) -> str:
    """Return the checksum of an ONNX file; with files that hold its tensors, of them all, by name."""
    beside = [path.parent / location for location in external_locations(model)]
    return sha256_of([path, *beside])


def _check_location(location: str, path: Path) -> None:
    if "\0" in location:
        raise UnsupportedModelError(f"{path} keeps tensors at {location!r}, which names no file; export it again")
    folder = path.resolve().parent
    target = (folder / location).resolve()  # an absolute location replaces the folder, a link is followed
    if not target.is_relative_to(folder) or ".." in Path(location).parts:
        raise UnsupportedModelError(f"{path} keeps tensors at {location!r}, outside its own folder; this is refused")
    if not target.is_file():
        raise UnsupportedModelError(
            f"{path} keeps tensors in {location!r}, which is not there; copy it beside the model"
        )


def _texts(message: Message) -> Iterator[str | bytes]:
    """Return all strings of a message, as bytes where they are not UTF-8; of a tensor its name alone."""
    if isinstance(message, onnx.TensorProto):
        yield message.name
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in [value] if isinstance(value, Message) else value:
                yield from _texts(part)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ]:
            yield from (sparse.values, sparse.indices)
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _tensors(graph)


def with_tensors(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return a model with the tensors that it keeps in other files.

    Args:
        model: as `read_model` returned it.
        path: the file that it was read from.

    Raises:
        UnsupportedModelError: if they cannot be read.
    """
    if not external_locations(model):
        return model
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    try:
        onnx.load_external_data_for_model(whole, str(path.resolve().parent))
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        reason = plain_words(error)
        raise UnsupportedModelError(f"{path}: cannot read its tensors: {reason}") from error
    return whole
