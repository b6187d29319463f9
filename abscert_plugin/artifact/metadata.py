"""The metadata that an ONNX file of this project carries, and reading an ONNX file without trusting it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from abscert_plugin.errors import AbscertError, UnsupportedModelError
from abscert_plugin.files import sha256_of
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.grid import Grid

DOMAIN: Final = "-1,1"
PIXEL_RANGE: Final = "0,1"
INTERVAL: Final = "interval"
IMAGE: Final = "image"
SCALED: Final = "scaled"
LOGITS: Final = "logits"
CELLS: Final = "abscert.cells"
EDGES: Final = "abscert.edges"
_FIXED: Final[Mapping[str, str]] = MappingProxyType({"abscert.domain": DOMAIN, "abscert.pixel_range": PIXEL_RANGE})


@final
@dataclass(frozen=True, slots=True)
class Metadata:
    """What `metadata_props` of an ONNX file say about it.

    Args:
        version: version of abscert-plugin that wrote the file.
        front: what stands between an image and the network: the cells, or the scaling of plain images.
        image_shape: (channels, height, width) of an image, before the front.
        classes: number of classes.
        network: name of the network, or of the wrapped file.
        training: how it was trained (method, claim, radius, seed, epochs), as `key=value` pairs joined by `;`.
    """

    version: str
    front: Cells | Pixels
    image_shape: tuple[int, int, int]
    classes: int
    network: str
    training: str

    @property
    def grid(self) -> Grid | None:
        """The cells; None for a classifier of plain images."""
        return self.front.grid if isinstance(self.front, Cells) else None

    def as_properties(self) -> Mapping[str, str]:
        """Return the key-value pairs that are stored in the file; `abscert.edges` only where cells differ in width."""
        return {
            "abscert.version": self.version,
            **_cell_properties(self.grid),
            "abscert.pixel_range": PIXEL_RANGE,
            "abscert.image_shape": ",".join(map(str, self.image_shape)),
            "abscert.classes": str(self.classes),
            "abscert.network": self.network,
            "abscert.training": self.training,
        }


def _cell_properties(grid: Grid | None) -> Mapping[str, str]:
    if grid is None:
        return {}
    edges = {} if grid.is_uniform else {EDGES: ",".join(map(repr, grid.inner_edges))}
    return {CELLS: str(grid.cells), **edges, "abscert.domain": DOMAIN}


_KEYS: Final = tuple(Metadata("", Pixels(), (1, 1, 1), 1, "", "").as_properties())
_CELL_KEYS: Final = tuple(_cell_properties(Grid(1)))


def _properties(model: onnx.ModelProto, path: Path, keys: tuple[str, ...]) -> Mapping[str, str]:
    """Return the metadata of an ONNX file as text, after checking that they are there."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    missing = [key for key in keys if key not in properties]
    if missing:
        raise UnsupportedModelError(
            f"{path} lacks the metadata {', '.join(missing)}: it was not written by `abscert export`; "
            "put any other classifier under abstraction with `abscert wrap`"
        )
    for key, expected in _FIXED.items():
        if key in keys and properties[key] != expected:
            raise UnsupportedModelError(f"{path}: expected {key} = {expected!r}, got {properties[key]!r}")
    return properties


def _sizes(properties: Mapping[str, str]) -> tuple[tuple[int, int, int], int]:
    """Return image shape and number of classes.

    Raises:
        ValueError: if they have no meaning.
    """
    channels, height, width = (int(size) for size in properties["abscert.image_shape"].split(","))
    classes = int(properties["abscert.classes"])
    if min(channels, height, width, classes) < 1:
        raise ValueError("a size is less than 1")
    return (channels, height, width), classes


def read_metadata(model: onnx.ModelProto, path: Path) -> Metadata:
    """Return the metadata of an ONNX file of this project.

    A file that says all but its cells is a classifier of plain images.

    Raises:
        UnsupportedModelError: if a key is missing or its value has no meaning; the message names the key.
    """
    keys = {entry.key for entry in model.metadata_props}
    is_plain = keys >= set(_KEYS) and not keys & set(_CELL_KEYS)
    wanted = _KEYS if is_plain else (*_KEYS, *_CELL_KEYS)
    properties = _properties(model, path, wanted)
    try:
        shape, classes = _sizes(properties)
        return Metadata(
            version=properties["abscert.version"],
            front=Pixels() if is_plain else Cells(_read_grid(properties)),
            image_shape=shape,
            classes=classes,
            network=properties["abscert.network"],
            training=properties["abscert.training"],
        )
    except (ValueError, AbscertError) as error:
        raise UnsupportedModelError(f"{path}: its abscert metadata are not valid: {error}") from error


def _read_grid(properties: Mapping[str, str]) -> Grid:
    cells = int(properties[CELLS])
    if EDGES not in properties:
        return Grid(cells)
    text = properties[EDGES]
    written = [float(edge) for edge in text.split(",")] if text else []  # a single cell has no inner edge
    grid = Grid.from_inner_edges(written)
    if grid.cells != cells or list(grid.inner_edges) != written:
        raise ValueError(f"{EDGES} are not {cells - 1} multiples of 2^-24")
    return grid


def write_metadata(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Put the metadata into the model, in place of what it had under these keys."""
    properties = metadata.as_properties()
    ours = {*properties, EDGES}
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in ours}
    onnx.helper.set_model_props(model, {**kept, **properties})


def read_model(path: Path) -> onnx.ModelProto:
    """Return the graph of an ONNX file, without the tensors that it keeps in other files.

    Raises:
        UnsupportedModelError: if the file is missing, empty or not an ONNX model, or if it points at external
            data outside its own folder or at data that is not there.
    """
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is not there" if not path.exists() else f"{path} is not a file")
    if path.stat().st_size == 0:
        raise UnsupportedModelError(f"{path} is empty")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
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
    return model


def external_locations(model: onnx.ModelProto) -> list[str]:
    """Return the paths, as the model writes them, of the files that hold its tensors."""
    found = {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for function in model.functions:
        found |= {
            entry.value
            for node in function.node
            for tensor in _node_tensors(node)
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
    return sorted(found)


def model_sha256(path: Path, model: onnx.ModelProto) -> str:
    """Return the checksum of an ONNX file and of the files that hold its tensors, in the order of their names."""
    return sha256_of([path, *(path.parent / location for location in external_locations(model))])


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
