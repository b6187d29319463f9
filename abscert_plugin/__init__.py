"""Train classifiers on pixel intervals, export them as ONNX, and verify the ONNX file by running it."""

from abscert_plugin.errors import AbscertError
from abscert_plugin.grid import Grid

__all__ = ["AbscertError", "Grid", "__version__"]

__version__ = "0.1.0"
