"""A model as it is given, a file, an ONNX model in memory or a torch module, as the ONNX file that is opened."""

import sys
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from jaxtyping import Float32

from abscert_plugin.api.looking import model_in
from abscert_plugin.artifact.foreign import open_classifier
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.write import write_checked
from abscert_plugin.blackbox import Provider
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.preprocessing import Layout, Opening

if TYPE_CHECKING:
    import onnx
    from torch import nn

Model: TypeAlias = "str | PathLike[str] | onnx.ModelProto | nn.Module"
"""The path of an ONNX file or of a training's folder, an ONNX model in memory, or a torch module, which is exported: in
evaluation mode, reading pixels in [0, 1] unless `mean`, `std`, `input_range` or `layout` say otherwise."""

MODEL: Final = "model.onnx"
_PROBES: Final = 8


def is_module(model: Any) -> bool:
    """Return whether a model is a torch module, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def as_file(
    model: Model,
    folder: Path,
    image_shape: tuple[int, int, int] | None,
    opening: Opening | None,
    images: Float32[np.ndarray, "n channels height width"] | None = None,
) -> Path:
    """Return the ONNX file of a model; of one in memory it is written into a folder first.

    Args:
        model: see `Model`.
        folder: where a file is written that is not there yet.
        image_shape: (channels, height, width); needed of a torch module.
        opening: how it reads images.
        images: some real ones (pixel scale), to hold an export of a torch module against it.

    Raises:
        UnsupportedModelError: if it cannot be written as a file, or is no model.
        ConfigError: if the shape of images is not known, or a folder holds no ONNX file or several.
        ExportError: if the file gives other logits than the module.
    """
    if isinstance(model, str | PathLike):
        return model_in(Path(model))[0]
    if is_module(model):
        module: Any = model
        module_as_file(module, folder / MODEL, image_shape, opening, images)
        return folder / MODEL
    return _saved(model, folder / MODEL)


def module_as_file(
    module: "nn.Module",
    path: Path,
    image_shape: tuple[int, int, int] | None,
    opening: Opening | None,
    images: Float32[np.ndarray, "n channels height width"] | None = None,
) -> float:
    """Write the ONNX file of a torch module, and return how far its logits are from the module's; see `as_file`."""
    from abscert_plugin.artifact.module import export_module

    shape = image_shape or (None if opening is None else opening.image_shape)
    if shape is None:
        raise ConfigError("expected image_shape=(channels, height, width) with a torch module, got none")
    probes = np.zeros((0, *shape), dtype=np.float32) if images is None else images[:_PROBES]
    how = opening or Opening()
    return export_module(module, path, shape, probes, how.scale, how.layout)


def _saved(model: Any, path: Path) -> Path:
    import onnx

    if not isinstance(model, onnx.ModelProto):
        raise UnsupportedModelError(
            f"expected a path, an onnx.ModelProto or a torch.nn.Module as the model, got {type(model).__name__}"
        )
    write_checked({path.name: model}, path.parent, lambda _: None)
    return path


def module_opening(opening: Opening | None) -> Opening:
    """Return how the export of a torch module is read; its layout is never guessed."""
    given = opening or Opening()
    return replace(given, layout=given.layout or Layout.NCHW)


def open_model(
    model: Model,
    path: Path,
    opening: Opening | None,
    provider: Provider,
    shape: tuple[int, int, int] | None = None,
    labels: int | None = None,
    read: "onnx.ModelProto | None" = None,
) -> Artifact:
    """Return a model opened from the file that `as_file` gave; `read` is what was read of it already.

    Raises:
        AbscertError: as `open_classifier`.
    """
    how = module_opening(opening) if is_module(model) else opening
    return open_classifier(path, provider, how, shape, labels, read)
