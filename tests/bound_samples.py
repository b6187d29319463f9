"""Bounds of a classifier's margins held against what onnxruntime gives at points of boxes."""

from pathlib import Path

import numpy as np
import onnxruntime
import operator_graphs as graphs
import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.errors import VerifierError
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.reading.network import largest_difference

POINTS = 1000
WIDTHS = (0.0, 1e-2, 0.1, 0.5)  # narrow boxes show a wrong slope, wide ones a wrong relaxation


def points_of(low: np.ndarray, high: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return random points of boxes, half of them corners: [point, box, *feature]."""
    share = random.random((POINTS, *low.shape), dtype=np.float32)
    share[::2] = share[::2].round()
    return np.clip(low + share * (high - low), low, high)


ROUNDING = 1e-5  # of the largest margin, in float32


def excesses(path: Path, seed: int) -> dict[BoundMethod, float]:
    """Return by how much bounds exceed the least margin that onnxruntime gives, for each method that bounds the file.

    Raises:
        UnsupportedModelError: if the file has no bounds.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(seed + 1000)
    shape = tuple(session.get_inputs()[0].shape[1:])
    center = random.random((len(WIDTHS), *shape), dtype=np.float32)
    reach = np.array(WIDTHS, dtype=np.float32).reshape(-1, 1, 1, 1) * random.random(center.shape, dtype=np.float32)
    low, high = np.clip(center - reach, 0, 1), np.clip(center + reach, 0, 1)
    labels = random.integers(0, graphs.CLASSES, len(low))
    (logits,) = session.run(None, {"image": points_of(low, high, random).reshape(-1, *shape)})
    logits = logits.reshape(POINTS, len(low), -1)
    others = np.array([[j for j in range(graphs.CLASSES) if j != label] for label in labels])
    own = np.take_along_axis(logits, labels[None, :, None], axis=2)
    least = (own - np.take_along_axis(logits, others[None], axis=2)).min(axis=0)

    artifact = Artifact.open(path, Provider.CPU)
    white_box = open_white_box(artifact)
    difference = largest_difference(white_box.network, artifact)
    ends = torch.from_numpy(2 * low - 1), torch.from_numpy(2 * high - 1)
    found = {}
    for method in BoundMethod:
        try:
            bounds = white_box.bounder.margins(*ends, torch.from_numpy(labels), method).numpy()
        except VerifierError:  # not written for this network, which claims nothing
            continue
        # a margin is a difference of two logits, each of which may differ by so much; float32 sums are not rounded down
        room = ROUNDING * max(1.0, float(np.abs(least).max()))
        found[method] = float((bounds - least).max()) - 2 * difference - room
    return found
