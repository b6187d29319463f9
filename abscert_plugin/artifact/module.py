"""From a torch module of anyone to an ONNX file that says the same, compared with it before the file gets its name."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from abscert_plugin.artifact.export import logit_difference, traced
from abscert_plugin.artifact.wrap import probe_images
from abscert_plugin.artifact.write import write_checked
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.preprocessing import InputScale, Layout, Preprocessing
from abscert_plugin.wording import one_line

INPUT: Final = "image"
_ALONE: Final = 1e-4  # of the largest logit: float32 sums in another order


def export_module(
    module: nn.Module,
    path: Path,
    image_shape: tuple[int, int, int],
    images: Float32[np.ndarray, "probes channels height width"],
    scale: InputScale | None = None,
    layout: Layout | None = None,
) -> float:
    """Write a module as a classifier of images in ONNX, with a free batch size, and return how far its logits are off.

    A copy of the module in evaluation mode, on the CPU, is what is exported: dropout rests, and batch normalisation
    takes its running statistics. The module itself stays as it is.

    Args:
        module: takes float32 [batch, *input], returns logits [batch, classes]. The input is the image on the pixel
            scale [0, 1], in the order channels, height, width, unless `scale` or `layout` say otherwise.
        path: the file to write.
        image_shape: (channels, height, width).
        images: some real ones (pixel scale), to compare the logits on; others are added.
        scale: what the module reads for a pixel.
        layout: in what order; flat is one axis of all values.

    Raises:
        UnsupportedModelError: if it does not run on such images, gives no logits, gives an image other logits in a
            batch than alone, or cannot be written as ONNX.
        ExportError: if the file gives other logits than the module; nothing is written then.
    """
    preprocessing = _preprocessing(image_shape, scale or InputScale(), layout)
    probes = preprocessing.apply(np.concatenate([images, probe_images(image_shape)]))
    network = _still(module)
    with torch.no_grad():
        together = _logits(network, torch.from_numpy(probes), module)
        alone = torch.cat(
            [_logits(network, torch.from_numpy(probes[row : row + 1]), module) for row in range(len(probes))]
        )
    if not torch.allclose(together, alone, rtol=0, atol=_ALONE * max(1.0, float(alone.abs().max()))):
        raise UnsupportedModelError(
            f"{_name(module)} gives an image other logits in a batch than alone, so a verdict on one image says nothing"
        )
    try:
        model = traced(network, INPUT, preprocessing.input_shape, together.shape[1])
    except Exception as error:  # whatever torch's exporter, or the module's own code under it, raises
        raise UnsupportedModelError(f"torch cannot write {_name(module)} as ONNX: {one_line(error)}") from error

    def compare(paths: Mapping[str, Path]) -> float:
        return logit_difference(paths[path.name], probes, together.numpy())

    return write_checked({path.name: model}, path.parent, compare)


def _preprocessing(image_shape: tuple[int, int, int], scale: InputScale, layout: Layout | None) -> Preprocessing:
    channels, height, width = image_shape
    shapes: Mapping[Layout, tuple[int, ...]] = {
        Layout.NCHW: image_shape,
        Layout.NHWC: (height, width, channels),
        Layout.FLAT: (channels * height * width,),
    }
    chosen = layout or Layout.NCHW
    return Preprocessing(image_shape, chosen is Layout.NHWC, shapes[chosen], "float32", scale)


def _still(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode on the CPU."""
    try:
        return copy.deepcopy(module).eval().cpu()
    except Exception as error:  # whatever the module's own code raises
        raise UnsupportedModelError(f"{_name(module)} cannot be copied: {one_line(error)}") from error


def _logits(network: Callable[[Tensor], Any], inputs: Tensor, module: nn.Module) -> Tensor:
    """Return what a module gives for inputs, where that is logits.

    Raises:
        UnsupportedModelError: if it fails, or gives anything else.
    """
    shape = tuple(inputs.shape[1:])
    try:
        found = network(inputs)
    except Exception as error:  # whatever the module's own code raises
        raise UnsupportedModelError(
            f"{_name(module)} does not run on float32 images of shape {shape}: {one_line(error)}"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs) or found.shape[1] < 2:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UnsupportedModelError(f"expected {_name(module)} to return logits [batch, classes], got {got}")
    if found.dtype != torch.float32:
        raise UnsupportedModelError(f"expected {_name(module)} to return logits of float32, got {found.dtype}")
    return found


def _name(module: nn.Module) -> str:
    return f"the module {type(module).__name__}"
