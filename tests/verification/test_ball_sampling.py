"""Certified balls of a trained network, against half a million random images of them."""

import operator
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from command_line import abscert, train

from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.records import RECORDS, read_records

LIMIT = 40
BATCH = 2048
TOTAL = 400_000
RADIUS = Fraction(1, 20)


def float32_ends(centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest float32 of each pixel's ball, by exact arithmetic on its few values."""
    table = {}
    for value in np.unique(centers):
        low, high = max(Fraction(0), Fraction(float(value)) - RADIUS), min(Fraction(1), Fraction(float(value)) + RADIUS)
        ends = []
        for end, inward, is_outside in ((low, 2, operator.lt), (high, -2, operator.gt)):
            found = np.float32(float(end))
            while is_outside(Fraction(float(found)), end):
                found = np.nextafter(found, np.float32(inward))
            ends.append(found)
        table[float(value)] = ends
    both = np.array([table[float(value)] for value in centers.ravel()], dtype=np.float32)
    return both[:, 0].reshape(centers.shape), both[:, 1].reshape(centers.shape)


def samples(low: np.ndarray, high: np.ndarray, edges: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return images of a ball: a quarter each uniform, corners, next to edges, and all of these mixed."""
    draw = random.random((BATCH, *low.shape), dtype=np.float32)
    quarter = BATCH // 4
    images = np.empty_like(draw)
    images[:quarter] = np.clip(low + draw[:quarter] * (high - low), low, high)
    images[quarter : 2 * quarter] = np.where(draw[quarter : 2 * quarter] < 0.5, low, high)
    near = edges[(draw[2 * quarter : 3 * quarter] * len(edges)).astype(np.int8)]
    images[2 * quarter : 3 * quarter] = np.where((low <= near) & (near <= high), near, images[quarter : 2 * quarter])
    kind = (draw[3 * quarter :] * 3).astype(np.int8)
    images[3 * quarter :] = np.choose(kind, images[: 3 * quarter].reshape(3, quarter, *low.shape))
    return images


def mislabelled(path: Path, balls: Iterator[tuple[np.ndarray, np.ndarray, int]], grid: Grid, total: int) -> int:
    """Return how many random images of some balls the file mislabels; `total` images are run in all."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random, inner, wrong = np.random.default_rng(0), grid.edges[1:-1], 0
    edges = np.concatenate([np.nextafter(inner, np.float32(0)), inner])
    for _ in range(0, total, BATCH):
        low, high, label = next(balls)
        (logits,) = session.run(None, {"image": samples(low, high, edges, random)})
        wrong += int((logits.argmax(axis=1) != label).sum())
    return wrong


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    options = ("--cells", 2, "--method", "reachable", "--radius", RADIUS, "--epochs", 2, "--regulariser", 0)
    deploy = train(folder / "run", *options, "--learning-rate", "5e-3", "--batch-size", 128) / "deploy.onnx"
    ball = ("--data", "digits", "--claim", "ball", "--radius", RADIUS, "--limit", LIMIT, "--timeout", 0.1)
    abscert("verify", deploy, *ball, "--out", folder / "out", "--json")
    return folder


def balls_of(run: Path, verdict: str) -> list[tuple[np.ndarray, np.ndarray, int]]:
    data = load_data("digits", Split.TEST, None).first(LIMIT)
    (batch,) = data.batches(LIMIT)
    low, high = float32_ends(data.pixels(batch.images))
    records = read_records(run / "out" / RECORDS)
    return [
        (low[place], high[place], row.label)
        for place, row in enumerate(records)
        if row.verdict == verdict and (verdict == "certified" or row.counterexample != "itself")
    ]


def endless(balls: list[tuple[np.ndarray, np.ndarray, int]]) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    while True:
        yield from balls


@pytest.mark.slow
def test_no_sampled_image_of_a_certified_ball_is_mislabelled(run: Path) -> None:
    certified = balls_of(run, "certified")
    assert len(certified) > LIMIT / 4
    assert mislabelled(run / "run" / "deploy.onnx", endless(certified), Grid(2), TOTAL) == 0


@pytest.mark.slow
def test_samples_of_falsified_balls_find_mislabelled_images(run: Path) -> None:
    """Without this, the samples above might be too tame to find anything."""
    falsified = balls_of(run, "falsified")
    assert mislabelled(run / "run" / "deploy.onnx", endless(falsified), Grid(2), 200_000) > 0
