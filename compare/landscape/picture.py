"""Pictures of loss landscapes: contours and surfaces of several networks on one scale."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from abscert_plugin.errors import ConfigError
from abscert_plugin.wording import plain_words
from compare.landscape.loss_plane import Landscape


def draw(landscapes: Mapping[str, Landscape], unit: str, path: Path) -> None:
    """Write one picture: a row of contours above a row of surfaces, all with one scale of losses.

    Args:
        landscapes: by the name of each network.
        unit: what a step is, for the axes.
        path: where it goes; its ending says the format, such as .png or .svg.

    Raises:
        ConfigError: if matplotlib is not installed, or the file cannot be written.
    """
    try:
        matplotlib: Any = import_module("matplotlib")
        matplotlib.use("Agg")
        plot: Any = import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        raise ConfigError("pictures need matplotlib; run `pip install matplotlib`") from error
    low = min(float(one.losses.min()) for one in landscapes.values())
    high = max(float(one.losses.max()) for one in landscapes.values())
    levels = np.linspace(low, high if high > low else low + 1e-6, 21)
    count = len(landscapes)
    figure = plot.figure(figsize=(4.2 * count, 7.6), layout="constrained")
    for place, (name, one) in enumerate(landscapes.items(), start=1):
        across, along = np.meshgrid(one.steps, one.steps)
        flat = figure.add_subplot(2, count, place)
        filled = flat.contourf(across, along, one.losses, levels=levels, cmap="viridis", extend="both")
        flat.set_title(f"{name}\ncurvature {one.curvature:.3g}")
        flat.set_xlabel(unit)
        flat.set_ylabel(unit)
        flat.set_aspect("equal")
        solid = figure.add_subplot(2, count, count + place, projection="3d")
        solid.plot_surface(across, along, one.losses, cmap="viridis", vmin=low, vmax=high)
        solid.set_zlim(low, high if high > low else low + 1e-6)
        solid.set_zlabel("loss")
        solid.tick_params(labelsize=8)  # its steps are those of the contours above
    figure.colorbar(filled, ax=figure.axes[::2], label="loss", shrink=0.8, format="%.3g")
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot write {path}: {plain_words(error)}; choose another --into, such as landscape.png"
        ) from error
    finally:
        plot.close(figure)
