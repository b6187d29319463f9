"""An ONNX file's interval network opened up: a torch module for gradients, and bounds of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import onnx
import torch
from torch import nn

from abscert_plugin.artifact.metadata import read_metadata
from abscert_plugin.lirpa.bounds import IntervalBounder
from abscert_plugin.lirpa.convert import convert


@final
@dataclass(frozen=True)
class WhiteBox:
    """The interval network inside a deployed classifier.

    Args:
        network: takes interval images on the training scale; on the CPU, in evaluation mode.
        bounder: bounds of its margins.
        difference: the largest difference of its logits from onnxruntime's that was seen.
    """

    network: nn.Module
    bounder: IntervalBounder
    difference: float


def open_white_box(model: onnx.ModelProto, path: Path) -> WhiteBox:
    """Return the interval network of an ONNX file of this project, read from the file alone.

    Raises:
        UnsupportedModelError: if it cannot be read as a torch module, or auto_LiRPA cannot bound it.
        ConfigError: if auto_LiRPA is not installed.
    """
    converted = convert(model, path)
    network = converted.network.eval().requires_grad_(False)
    metadata = read_metadata(model, path)
    channels, height, width = metadata.image_shape
    bounder = IntervalBounder(network, (2 * channels, height, width), metadata.classes, torch.device("cpu"))
    return WhiteBox(network, bounder, converted.largest_difference)
