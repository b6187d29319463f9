"""`abscert.torch_module`: a model as a torch module with a gradient, as attacks and other libraries take it."""

import tempfile
from pathlib import Path
from typing import Unpack

from abscert_plugin.api.models import Model, as_file, open_model
from abscert_plugin.api.radii import RadiusLike, as_radius
from abscert_plugin.api.reading import Reading, opening_of
from abscert_plugin.api.wording import in_python
from abscert_plugin.blackbox import Provider
from abscert_plugin.choices import member
from abscert_plugin.errors import ConfigError
from abscert_plugin.reading.differentiable import DeployedModule, Gradient
from abscert_plugin.reading.network import convert


@in_python
def torch_module(
    model: Model,
    *,
    gradient: str = "straight-through",
    radius: RadiusLike | None = None,
    radius_scale: str = "pixel",
    **reading: Unpack[Reading],
) -> DeployedModule:
    """Return a model as a torch module of images, with a gradient for attacks, also where it has cells.

        module = abscert.torch_module("runs/own", gradient="cells", radius=0.1)
        module(images).max(1).values.sum().backward()  # images: [count, channels, height, width], pixels in [0, 1]

    It gives the logits of the deployed file, which was run beside it on random images, to 1e-4 of the largest; of a
    file with a Softmax or its like at its end those before it. Its weights are frozen; it is on the CPU, `to` moves it.

    Args:
        model: as of `verify`; of a torch module, name `image_shape=(channels, height, width)` too.
        gradient: what stands for the gradient of phi, whose own is zero: `straight-through`, as if both ends of a
            pixel's cell moved with the pixel; or `cells`, the mean slope of each end over the ball of `radius`, which
            is zero where the ball stays in the pixel's cell. A plain model has its own.
        radius: of the ball, with `cells`.
        radius_scale: `pixel` (of pixels in [0, 1]) or `training` (of [-1, 1]).
        **reading: how a model of others reads pixels, see `Reading`.

    Returns:
        The module; `network` is what it feeds, on the training scale, `grid` its cells.

    Raises:
        ConfigError: if an option has no meaning, or a radius above 0 is missing.
        UnsupportedModelError: if the model cannot be read, exported, run or opened.
        ExportError: if a torch module's file gives other logits than it.
    """
    kind, opening = member(Gradient, "gradient", gradient), opening_of(reading)
    ball = None if radius is None else as_radius(radius, radius_scale)
    if kind is Gradient.CELLS and (ball is None or not ball.pixel):
        raise ConfigError(f"expected a --radius above 0 with --gradient cells, got {radius}")
    with tempfile.TemporaryDirectory(prefix="abscert-") as folder:
        artifact = open_model(model, as_file(model, Path(folder), None, opening), opening, Provider.CPU)
        if kind is Gradient.CELLS and artifact.grid is None:
            raise ConfigError(f"expected a model with cells with --gradient cells, got {artifact.path} without")
        network = convert(artifact).network.eval().requires_grad_(False)
        return DeployedModule(network, artifact.front, kind, 0.0 if ball is None else float(ball.pixel)).eval()
