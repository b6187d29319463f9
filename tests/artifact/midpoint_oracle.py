"""The mid-points of cells, of 8-bit images in whole numbers, without `Grid` and without this project's ONNX nodes."""

from pathlib import Path

import numpy as np
import onnx_graphs as graphs

from abscert_plugin.artifact.wrap import Wrapped


def stored_images(count: int, shape: tuple[int, int, int], seed: int = 3) -> np.ndarray:
    """Return random 8-bit images, black and white among their pixels."""
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, -1] = 0, 255
    return images


def pixels(stored: np.ndarray) -> np.ndarray:
    """Return what `deploy.onnx` reads for 8-bit images."""
    return stored.astype(np.float32) / np.float32(255)


def stored_cells(stored: np.ndarray, cells: int) -> np.ndarray:
    """Return the cell of each value v: the largest k, below `cells`, with k / cells <= v / 255."""
    return np.minimum(stored.astype(np.int64) * cells // 255, cells - 1)


def midpoints(stored: np.ndarray, cells: int) -> np.ndarray:
    """Return the mid-point of each value's cell on the pixel scale, in float64."""
    return (stored_cells(stored, cells) + 0.5) / cells


def intervals(stored: np.ndarray, cells: int) -> np.ndarray:
    """Return the lower ends, then the upper ends, on the training scale: what `abstract.onnx` reads."""
    index = stored_cells(stored, cells)
    return (np.concatenate([index, index + 1], axis=1) * 2 / cells - 1).astype(np.float32)


def both_logits(wrapped: Wrapped, stored: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what onnxruntime gives for `deploy.onnx` and for `abstract.onnx`."""
    (deployed,) = graphs.run(wrapped.deploy, pixels(stored), ["logits"])
    (abstract,) = graphs.run(wrapped.abstract, intervals(stored, cells), ["logits"])
    return deployed, abstract


def assert_logits(wrapped: Wrapped, stored: np.ndarray, cells: int, expected: np.ndarray) -> None:
    """Check that both files give `expected`, to 1e-5 of the largest: float32 sums in another order."""
    for logits in both_logits(wrapped, stored, cells):
        assert logits.dtype == np.float32
        assert logits.shape == expected.shape
        assert np.allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def listed(folder: Path) -> list[str]:
    """Return the names of everything in a folder, hidden files as well; none if it is not there."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
