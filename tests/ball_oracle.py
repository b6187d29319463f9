"""What a ball reaches, by exact rational arithmetic, and verdicts on it, by running every combination of cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import cast

import numpy as np
import onnxruntime
from tiny_networks import CLASSES, SHAPE, run_onnx, tiny_network
from torch import nn

from abscert_plugin.artifact.export import export
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.deployed import Deployed

load_lirpa()  # it raises the recursion limit, which hypothesis must not see happen
LEVELS = [np.float32(value) / np.float32(255) for value in range(256)]


def exact(value: np.floating | float) -> Fraction:
    return Fraction(float(value))


def exact_cell(grid: Grid, value: Fraction) -> int:
    """Return the cell of a number, by comparing it with every edge."""
    return sum(exact(edge) <= value for edge in grid.edges[1:-1])


def float32_below(value: Fraction) -> np.float32:
    """Return the largest float32 that is not above a number."""
    found = np.float32(float(value))
    while exact(found) > value:
        found = np.nextafter(found, np.float32(-2))
    while exact(up := np.nextafter(found, np.float32(2))) <= value:
        found = up
    return found


def float32_above(value: Fraction) -> np.float32:
    """Return the least float32 that is not below a number."""
    return -float32_below(-value)


@cache
def level_cells(grid: Grid) -> list[int]:
    """Return the cell of each 8-bit value."""
    return [exact_cell(grid, exact(pixel)) for pixel in LEVELS]


def levels_within(pixel: np.float32, radius: Fraction) -> list[int]:
    """Return the 8-bit values within the radius of a pixel that is one."""
    own, most = LEVELS.index(pixel), math.floor(255 * radius)
    return list(range(max(0, own - most), min(255, own + most) + 1))


def ball_ends(pixel: np.float32, radius: Fraction) -> tuple[Fraction, Fraction]:
    return max(Fraction(0), exact(pixel) - radius), min(Fraction(1), exact(pixel) + radius)


def true_cells(grid: Grid, pixel: np.float32, ball: Ball) -> list[int]:
    """Return the cells that images of the ball have at a pixel; 8-bit images may jump over cells."""
    radius = ball.radius.pixel
    if ball.inputs is Inputs.UINT8:
        return sorted({level_cells(grid)[level] for level in levels_within(pixel, radius)})
    low, high = ball_ends(pixel, radius)
    ends = exact_cell(grid, exact(float32_above(low))), exact_cell(grid, exact(float32_below(high)))
    return list(range(ends[0], ends[1] + 1))


def outer_cells(grid: Grid, pixel: np.float32, ball: Ball) -> list[int]:
    """Return the most cells that may be added to `true_cells`: those of rounded ends, or, of 8 bits, those between."""
    radius = ball.radius.pixel
    if ball.inputs is Inputs.UINT8:
        cells = true_cells(grid, pixel, ball)
        return list(range(cells[0], cells[-1] + 1))
    above = exact(float(radius)) if exact(float(radius)) >= radius else exact(math.nextafter(float(radius), 2))
    low, high = ball_ends(pixel, above)
    ends = exact_cell(grid, exact(float32_below(low))), exact_cell(grid, exact(float32_above(high)))
    return list(range(ends[0], ends[1] + 1))


def in_ball(image: np.ndarray, center: np.ndarray, ball: Ball) -> bool:
    """Return whether an image lies in the ball and in the pixel range, pixel by pixel."""
    for value, middle in zip(image.ravel(), center.ravel(), strict=True):
        if not 0 <= value <= 1:
            return False
        if ball.inputs is Inputs.UINT8:
            if value not in LEVELS:
                return False
            distance = Fraction(abs(LEVELS.index(value) - LEVELS.index(middle)), 255)
        else:
            distance = abs(exact(value) - exact(middle))
        if distance > ball.radius.pixel:
            return False
    return True


@dataclass(frozen=True)
class Tiny:
    """A tiny deployed classifier, and the logits of every combination of cells: [cell, cell, cell, cell, class]."""

    artifact: Artifact
    deployed: Deployed
    white_box: WhiteBox
    table: np.ndarray

    @property
    def grid(self) -> Grid:
        return cast(Grid, self.artifact.metadata.grid)

    def verifier(self, ball: Ball, budget: Budget | None = None, *, white_box: bool = True) -> BallVerifier:
        deployed = self.deployed if white_box else self.black_box
        return BallVerifier(deployed, self.white_box if white_box else None, ball, budget or Budget(60.0))

    @cached_property
    def black_box(self) -> Deployed:
        return Deployed(self.artifact, is_black_box=True)

    def labels(self, images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return what the file predicts, and every eighth time any class."""
        predictions = run_onnx(self.artifact.path, images)[0].argmax(axis=1)
        anything = random.integers(0, CLASSES, len(images))
        return np.where(random.random(len(images)) < 1 / 8, anything, predictions).astype(np.int64)


def new_folder() -> Path:
    """Return a folder that goes with this process."""
    return Path(mkdtemp(dir=_process_folder().name))


@cache
def _process_folder() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="abscert-oracle-")  # Python removes it when it ends


def tiny(network: nn.Module, grid: Grid, classes: int = CLASSES) -> Tiny:
    """Return the exported network with its table, by onnxruntime itself on images of the lower edges."""
    config = NetworkConfig("fc-3", Activation.RELU, SHAPE, classes)
    path = export(network, config, grid, "none", np.zeros((1, *SHAPE), dtype=np.float32), new_folder()).deploy
    cells = np.array(list(product(range(grid.cells), repeat=4)))
    (logits,) = run_onnx(path, grid.edges[:-1][cells].reshape(-1, *SHAPE))
    artifact = Artifact.open(path, Provider.CPU, threads=1)
    white_box = open_white_box(artifact)
    deployed = Deployed(artifact)
    return Tiny(artifact, deployed, white_box, logits.reshape(*[grid.cells] * 4, classes))


GRIDS = (
    Grid(2),
    Grid(3),
    Grid(5),
    Grid(6),
    Grid.from_inner_edges([0.3]),
    Grid.from_inner_edges([0.1, 0.11, 0.5, 0.9]),
    Grid.from_inner_edges([1 / 255, 0.5, 0.5 + 2**-20]),
)


@cache
def tiny_case(number: int) -> Tiny:
    return tiny(tiny_network(number), GRIDS[number % len(GRIDS)])


def margins(logits: np.ndarray, label: int) -> np.ndarray:
    others = np.delete(logits, label, axis=-1)
    return logits[..., label] - others.max(axis=-1)


ROOM = 1e-3  # of margins of order 1: what rounding in any order may undo, and more


def check_decided(
    case: Tiny, ball: Ball, images: np.ndarray, labels: np.ndarray, decided: Sequence[Decided], floor: float = ROOM
) -> None:
    """Assert that every verdict is true, and that none is `unknown` without need."""
    assert len(decided) == len(images)
    for item, image, label in zip(decided, images, labels.tolist(), strict=True):
        true = [true_cells(case.grid, value, ball) for value in image.ravel()]
        outer = [outer_cells(case.grid, value, ball) for value in image.ravel()]
        reached = margins(case.table[np.ix_(*true)], label)
        if item.record.verdict == "certified":
            assert reached.min() > 0, "certified, but a reachable combination is mislabelled"
        elif item.record.verdict == "falsified":
            assert reached.min() < 0, "falsified, but no reachable combination is mislabelled"
            assert item.counterexample is not None
            assert in_ball(item.counterexample, image, ball), "a counterexample lies outside the ball"
            (logits,) = run_onnx_cached(case.artifact.path, item.counterexample[None])
            assert margins(logits[0], label) < 0, "a counterexample gets its label"
        else:
            assert item.counterexample is None
            assert reached.min() >= -floor  # else there is an image to be found
            assert margins(case.table[np.ix_(*outer)], label).min() <= floor  # else all could be certified


@cache
def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx_cached(path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Return what onnxruntime itself gives, with one session for each file."""
    return _session(path).run(None, {"image": images})
