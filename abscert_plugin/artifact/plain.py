"""From a trained network of plain images to its ONNX file: the scaling of pixels is part of the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

import abscert_plugin
from abscert_plugin.artifact.export import DEPLOY, Exported, logit_difference, traced
from abscert_plugin.artifact.metadata import IMAGE, PlainMetadata, write_metadata
from abscert_plugin.artifact.write import write_checked
from abscert_plugin.networks import NetworkConfig


@final
class PixelNetwork(nn.Module):
    """A network of plain images as a function of pixels on the pixel scale.

    Args:
        network: takes images on the training scale [-1, 1].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float32[Tensor, "batch channels height width"]) -> Float32[Tensor, "batch classes"]:
        """Return the logits of images on the pixel scale [0, 1]."""
        return self.network(2 * images - 1)


def export_plain(
    network: nn.Module,
    config: NetworkConfig,
    training: str,
    probes: Float32[np.ndarray, "probes channels height width"],
    folder: Path,
) -> Exported:
    """Write `deploy.onnx` for a network of plain images.

    Args:
        network: takes images on the training scale; it is left in evaluation mode, on the CPU.
        config: how it was built.
        training: what to say of the training in the metadata.
        probes: real images (pixel scale) to compare the logits on; random ones are added.
        folder: where the file goes.

    Raises:
        ExportError: if torch and the file disagree beyond 1e-4; nothing is written then.
        UnsupportedModelError: if the network cannot be written as ONNX.
    """
    pixels = PixelNetwork(network.eval().cpu()).eval()
    model = traced(pixels, IMAGE, config.image_shape, config.classes)
    metadata = PlainMetadata(
        version=abscert_plugin.__version__,
        image_shape=config.image_shape,
        classes=config.classes,
        network=f"{config.name}-{config.activation}",
        training=training,
    )
    write_metadata(model, metadata)
    random = np.random.default_rng(0).random((8, *config.image_shape), dtype=np.float32)
    images = np.concatenate([random, probes])
    differences: list[float] = []

    def compare(paths: Mapping[str, Path]) -> None:
        with torch.inference_mode():
            expected = pixels(torch.from_numpy(images)).numpy()
        differences.append(logit_difference(paths[DEPLOY], images, expected))

    write_checked({DEPLOY: model}, folder, compare)
    return Exported(None, folder / DEPLOY, differences[0])
