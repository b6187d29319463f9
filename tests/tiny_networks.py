"""Interval networks and data sets small enough to enumerate, and onnxruntime without this project in between."""

from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

from abscert_plugin.artifact.export import Exported, export
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig

SHAPE = (1, 2, 2)
CLASSES = 3


def tiny_network(seed: int, classes: int = CLASSES) -> nn.Sequential:
    """Return a network of interval images of 2 x 2 pixels whose prediction differs from cell to cell."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes))
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.normal_(0, 1, generator=generator)
    return network


def constant_network(logits: list[float]) -> nn.Sequential:
    """Return a network that gives these logits, whatever the image."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, len(logits)))
    with torch.no_grad():
        cast(nn.Linear, network[1]).weight.zero_()
        cast(nn.Linear, network[1]).bias.copy_(torch.tensor(logits))
    return network


def export_tiny(network: nn.Module, cells: int, folder: Path, classes: int = CLASSES) -> Exported:
    """Write both ONNX files of a tiny network; the configuration only tells the shapes."""
    config = NetworkConfig("fc-3", Activation.RELU, SHAPE, classes)
    return export(network, config, Grid(cells), "none", np.zeros((1, *SHAPE), dtype=np.float32), folder)


def images_in_every_cell(grid: Grid, count: int, seed: int) -> np.ndarray:
    """Return `count` random images in each of the cells**4 combinations of cells: [combination, count, 1, 2, 2].

    The first of each combination lies on the lower edges, the others anywhere in the cells.
    """
    cells = np.array(list(product(range(grid.cells), repeat=4)))[:, None, :]
    low, high = grid.edges[:-1][cells], grid.edges[1:][cells]
    share = np.random.default_rng(seed).random((len(cells), count, 4), dtype=np.float32)
    share[:, 0] = 0
    below_high = np.where(high == 1, high, np.nextafter(high, np.float32(0)))
    return np.clip(low + share * (high - low), low, below_high).reshape(-1, count, *SHAPE)


def run_onnx(path: Path, inputs: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    """Return what onnxruntime itself gives for a file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(outputs, {session.get_inputs()[0].name: inputs})


def with_weight(path: Path, name: str, values: np.ndarray) -> Path:
    """Write a copy of an ONNX file in which one tensor has other values, and return its path."""
    model = onnx.load_model(str(path))
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    changed = path.with_name(f"changed-{path.name}")
    onnx.save_model(model, str(changed))
    return changed


def tiny_data(count: int, seed: int = 0) -> DataSet:
    """Return a data set of random images of 2 x 2 pixels; its index starts at 100 and skips every other place."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (100 + 2 * count, *SHAPE), dtype=np.uint8)
    return DataSet(
        name="tiny",
        split=Split.TEST,
        classes=tuple(map(str, range(CLASSES))),
        shape=SHAPE,
        levels=255,
        source=ArraySource(images),
        labels=random.integers(0, CLASSES, count),
        index=100 + 2 * np.arange(count),
        sha256=f"seed {seed}",
    )
