"""An ONNX file's network opened up: a torch module for gradients, and bounds of it."""

import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.bounds.bounder import Bounder
from abscert_plugin.bounds.gradients import Gradients
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.reading.network import convert, largest_difference


@final
@dataclass(frozen=True)
class WhiteBox:
    """The network inside a deployed classifier.

    Args:
        network: takes interval images, or plain images where there are no cells, on the training scale; on the CPU, in
            evaluation mode.
        bounder: bounds of its margins; `Gradients` where there are none.
        unbounded: why there are none; empty where there are.
    """

    network: nn.Module
    bounder: Bounder
    unbounded: str = ""


def open_white_box(artifact: Artifact, network: nn.Module | None = None) -> WhiteBox:
    """Return the network of an ONNX file, opened up.

    Soundness: logits are compared with those of the file, run by onnxruntime, whichever network is taken.

    Args:
        artifact: the file.
        network: the network that the file was exported from, such as a checkpoint's; None reads it from the file alone.

    Raises:
        UnsupportedModelError: if it cannot be read as a torch module, or its logits are not those of the file.
    """
    metadata, unbounded = artifact.metadata, ""
    if network is None:
        converted = convert(artifact)
        network, unbounded = converted.network.eval(), converted.unbounded
    else:
        network = copy.deepcopy(network).cpu().eval()
        largest_difference(network, artifact)
    network.requires_grad_(False)
    if not unbounded:
        try:
            shape = metadata.front.input_shape(metadata.image_shape)
            return WhiteBox(network, LirpaBounder(network, shape, metadata.classes, torch.device("cpu")))
        except (ConfigError, UnsupportedModelError) as error:
            unbounded = str(error)
    return WhiteBox(network, Gradients(network, f"no bounds by auto_LiRPA: {unbounded}"), unbounded)
