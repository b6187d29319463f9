"""The point that each cell stands for where it is not the mid-point: how it is computed from the cell's ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid

MOST_CELLS: Final = 64
"""Of more cells, points differ from mid-points by less than 1/128, and each cell costs a comparison of each pixel."""

_ABOVE: Final = np.float32(1 + 2.0**-18)  # so that no rounding leaves a step below 1: it is cut there


@final
@dataclass(frozen=True, slots=True)
class Represented:
    """Points of cells, reached by steps from the least cell's: each step is taken whole or not at all.

    The sum of a cell's ends tells which steps lie below it. As a function of that sum they rise, so that intervals of
    what is between two cells are no wider than their points are apart.

    Args:
        grid: the cells.
        points: one for each cell, within it, on the pixel scale.

    Raises:
        ConfigError: if there are more cells than `MOST_CELLS`, or the points are not one in each cell.
    """

    STEPS: ClassVar = (
        ("Unsqueeze", ["last"]),
        ("Sub", ["starts"]),
        ("Mul", ["slopes"]),
        ("Clip", ["zero", "one"]),
        ("MatMul", ["steps"]),
        ("Add", ["first"]),
    )
    """Operators and the names of their constants."""

    grid: Grid
    points: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.grid.cells > MOST_CELLS:
            raise ConfigError(f"expected at most {MOST_CELLS} cells that stand for other points, got {self.grid.cells}")
        edges, points = self.grid.edges, np.array(self.points)
        fits = points.shape == (self.grid.cells,) and bool(((edges[:-1] <= points) & (points <= edges[1:])).all())
        if not fits:
            raise ConfigError(f"expected a point in each of {self.grid.cells} cells, got {self.points}")

    def constants(self) -> Mapping[str, np.ndarray]:
        """Return the constants by name."""
        ends = self.grid.training_edges
        sums = ends[:-1] + ends[1:]  # in float32, as the graph adds them
        to_sums = (4 * np.array(self.points) - 2).astype(np.float32)
        steps = np.diff(to_sums) if len(sums) > 1 else np.zeros(1, dtype=np.float32)
        slopes = _ABOVE / np.diff(sums) if len(sums) > 1 else np.ones(1, dtype=np.float32)
        return {
            "last": np.array([-1], dtype=np.int64),
            "starts": sums[: len(steps)],
            "slopes": slopes.astype(np.float32),
            "zero": np.array(0, dtype=np.float32),
            "one": np.array(1, dtype=np.float32),
            "steps": steps,
            "first": to_sums[0],
        }

    def apply(self, sums: Float32[np.ndarray, "*image"]) -> Float32[np.ndarray, "*image"]:
        """Return twice each cell's point from the sums of the cells' ends, on the training scale, as the graph does."""
        given = self.constants()
        taken = np.clip((sums[..., None] - given["starts"]) * given["slopes"], np.float32(0), np.float32(1))
        found: Float32[np.ndarray, "*image"] = taken @ given["steps"] + given["first"]
        return found
