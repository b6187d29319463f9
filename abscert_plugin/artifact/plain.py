"""From a trained network of plain images to its ONNX file: the scaling of pixels is part of the file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import Float32
from torch import nn

import abscert_plugin
from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.export import Exported, logit_difference, traced, with_random
from abscert_plugin.artifact.metadata import SCALED, Metadata, write_metadata
from abscert_plugin.artifact.scaling import prepend_scaling
from abscert_plugin.artifact.write import DEPLOY, write_checked
from abscert_plugin.front import Pixels
from abscert_plugin.networks import NetworkConfig


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
    network = network.eval().cpu()
    model = traced(network, SCALED, config.image_shape, config.classes)
    prepend_scaling(model.graph, config.image_shape)
    metadata = Metadata(
        version=abscert_plugin.__version__,
        front=Pixels(),
        image_shape=config.image_shape,
        classes=config.classes,
        network=config.title,
        training=training,
    )
    write_metadata(model, metadata)
    images = with_random(probes)

    def compare(paths: Mapping[str, Path]) -> float:
        check_artifact(onnx.load_model(str(paths[DEPLOY]), load_external_data=False), paths[DEPLOY])
        with torch.inference_mode():
            expected = network(2 * torch.from_numpy(images) - 1).numpy()
        return logit_difference(paths[DEPLOY], images, expected)

    return Exported(None, folder / DEPLOY, write_checked({DEPLOY: model}, folder, compare))
