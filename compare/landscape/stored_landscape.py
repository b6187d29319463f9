"""What is kept of a loss landscape beside its picture, and the pictures that a results folder holds; without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec

from abscert_plugin.files import converted, read_json, write_json

LANDSCAPES: Final = "landscapes"
ENDINGS: Final = (".png", ".svg")
SPACES: Final = ("weights", "inputs")


@final
class DrawnNetwork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of a picture.

    Args:
        name: what it is called on the picture.
        run: the run's key, or the name of the training's folder.
        method: the training method.
        cells: number of cells; None where it takes plain images.
        loss: at the middle, the network's own.
        curvature: how sharp the loss is around it (see `Landscape`).
    """

    name: str
    run: str
    method: str
    cells: int | None
    loss: float
    curvature: float

    @property
    def granularity(self) -> float:
        """The paper's d, the width of a cell on the training scale; 0 for plain images."""
        return 0.0 if self.cells is None else 2 / self.cells


@final
class LandscapeRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a picture was made, and its numbers.

    Args:
        title: what it shows.
        space: `weights` or `inputs`.
        unit: what a step is.
        data: name of the data set.
        images: how many of its test images the loss is the mean of.
        span: how far it goes to each side.
        steps: the places along each direction.
        seed: of the directions.
        networks: from left to right.
    """

    title: str
    space: str
    unit: str
    data: str
    images: int
    span: float
    steps: tuple[float, ...]
    seed: int
    networks: tuple[DrawnNetwork, ...]

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            RecordError: if it cannot be written.
        """
        value: dict[str, Any] = msgspec.to_builtins(self)
        write_json(path, value)


@final
@dataclass(frozen=True, slots=True)
class StoredLandscape:
    """A picture of a results folder, and its record where there is one."""

    picture: Path
    record: LandscapeRecord | None


def stored_landscapes(results: Path) -> tuple[StoredLandscape, ...]:
    """Return the pictures in a results folder, by name.

    Raises:
        RecordError: if a record beside one cannot be read.
    """
    pictures = sorted(path for path in (results / LANDSCAPES).glob("*") if path.suffix in ENDINGS)
    return tuple(StoredLandscape(path, _read(path.with_suffix(".json"))) for path in pictures)


def _read(path: Path) -> LandscapeRecord | None:
    fault = f"{path} is not the record of a landscape"
    return converted(read_json(path), LandscapeRecord, fault) if path.exists() else None
