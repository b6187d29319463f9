"""The metadata that an ONNX file of this project carries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import onnx

from abscert_plugin.errors import AbscertError, UnsupportedModelError
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.grid import Grid
from abscert_plugin.records import facts_of
from abscert_plugin.wording import plain_words

DOMAIN: Final = "-1,1"
PIXEL_RANGE: Final = "0,1"
INTERVAL: Final = "interval"
IMAGE: Final = "image"
SCALED: Final = "scaled"
LOGITS: Final = "logits"
CELLS: Final = "abscert.cells"
EDGES: Final = "abscert.edges"
GUARD: Final = "abscert.guard"
"""The key that only a guard has (`abscert guard`): what it is of, as JSON."""
REPRESENTED: Final = "abscert.represented"
TRAINING: Final = "abscert.training"
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
        represented: the point on the pixel scale that a wrapped classifier reads for each cell; empty where that is its
            mid-point, or it reads the ends.
    """

    version: str
    front: Cells | Pixels
    image_shape: tuple[int, int, int]
    classes: int
    network: str
    training: str
    represented: tuple[float, ...] = ()

    @property
    def grid(self) -> Grid | None:
        """The cells; None for a classifier of plain images."""
        return self.front.grid if isinstance(self.front, Cells) else None

    @property
    def trained_on(self) -> str | None:
        """Name of the data set that the network was trained on; None where the file does not say."""
        return self.training_facts.get("data") or None

    @property
    def training_facts(self) -> Mapping[str, str]:
        """How it was trained, by key; no key of which the file does not tell."""
        return facts_of(self.training)

    def as_properties(self) -> Mapping[str, str]:
        """Return the key-value pairs that are stored in the file; `abscert.edges` only where cells differ in width."""
        return {
            "abscert.version": self.version,
            **_cell_properties(self.grid),
            "abscert.pixel_range": PIXEL_RANGE,
            "abscert.image_shape": ",".join(map(str, self.image_shape)),
            "abscert.classes": str(self.classes),
            "abscert.network": self.network,
            TRAINING: self.training,
            **({REPRESENTED: ",".join(map(repr, self.represented))} if self.represented else {}),
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


def training_facts(model: onnx.ModelProto) -> Mapping[str, str]:
    """Return what an ONNX file says of its training, by key; nothing where it does not say."""
    return facts_of(next((entry.value for entry in model.metadata_props if entry.key == TRAINING), ""))


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
        grid = None if is_plain else _read_grid(properties)
        return Metadata(
            version=properties["abscert.version"],
            front=Pixels() if grid is None else Cells(grid),
            image_shape=shape,
            classes=classes,
            network=properties["abscert.network"],
            training=properties[TRAINING],
            represented=_represented(properties, grid),
        )
    except (ValueError, AbscertError) as error:
        raise UnsupportedModelError(f"{path}: its abscert metadata are not valid: {plain_words(error)}") from error


def is_guard(model: onnx.ModelProto) -> bool:
    """Return whether a file says that it is a guard."""
    return any(entry.key == GUARD for entry in model.metadata_props)


def refuse_guard(model: onnx.ModelProto, path: Path) -> None:
    """Raise where a file is a guard, which is no classifier to be verified, wrapped or guarded.

    Raises:
        UnsupportedModelError: if it is one.
    """
    if is_guard(model):
        raise UnsupportedModelError(
            f"{path} is a guard, which certifies by itself; give the classifier that it was made of"
        )


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


def _represented(properties: Mapping[str, str], grid: Grid | None) -> tuple[float, ...]:
    if REPRESENTED not in properties:
        return ()
    points = tuple(float(point) for point in properties[REPRESENTED].split(","))
    if (
        grid is None
        or len(points) != grid.cells
        or not all(
            low <= point <= high for low, point, high in zip(grid.edges[:-1], points, grid.edges[1:], strict=True)
        )
    ):
        raise ValueError(f"{REPRESENTED} is not a point in each cell")
    return points


def write_metadata(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Put the metadata into the model, in place of what it had under these keys."""
    properties = metadata.as_properties()
    ours = {*properties, EDGES, REPRESENTED}
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in ours}
    onnx.helper.set_model_props(model, {**kept, **properties})
