"""A page on which a guarded classifier of small grey images is tried out, in a browser, by running its file."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, final

import abscert_plugin
from abscert_plugin.claim import Radius
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.errors import DataError
from abscert_plugin.files import read_bytes
from abscert_plugin.grid import Grid
from abscert_plugin.report import web_runtime
from abscert_plugin.report.templates import environment

WEB: Final = "web"
"""The folder beside the page that holds onnxruntime-web."""
_GUARD_LIMIT: Final = 2**28
_IMAGES: Final = 400  # that the page holds


@final
@dataclass(frozen=True, slots=True)
class TryContent:
    """What the page is made of.

    Args:
        guard: the guard's file; the page looks for its name beside itself.
        radii: those of the guard's columns, in rising order, at least two.
        grid: the cells of the classifier.
        data: test images, of one channel; the first 400 can be chosen.
    """

    guard: Path
    radii: Sequence[Radius]
    grid: Grid
    data: DataSet


def render_try_page(content: TryContent) -> str:
    """Return the page. It runs the guard by onnxruntime-web in the folder `web` beside it (`put_runtime`).

    Raises:
        DataError: if the images have more than one channel.
        RecordError: if the guard cannot be read.
    """
    data = content.data
    if data.shape[0] != 1:
        raise DataError(f"expected images of one channel to draw, got {data.shape[0]}")
    return (
        environment()
        .get_template("try.html")
        .render(
            facts=_facts(content),
            data=data,
            cells=content.grid.cells,
            edges=[f"{edge:.4g}" for edge in content.grid.inner_edges],
            guard=content.guard.name,
            runtime=f"{web_runtime.PACKAGE} {web_runtime.VERSION}",
            package=f"{web_runtime.PACKAGE}@{web_runtime.VERSION}",
            files=(web_runtime.SCRIPT, web_runtime.WASM),
            web=WEB,
            version=abscert_plugin.__version__,
        )
    )


def _facts(content: TryContent) -> dict[str, Any]:
    """Return what the page's script has to know."""
    data = content.data.first(min(_IMAGES, len(content.data)))
    (batch,) = data.batches(len(data))
    return {
        "guard": content.guard.name,
        "sha256": hashlib.sha256(read_bytes(content.guard, _GUARD_LIMIT)).hexdigest(),
        "script": f"{WEB}/{web_runtime.SCRIPT}",
        "wasm": f"{WEB}/{web_runtime.WASM}",
        "radii": [_text(radius.pixel) for radius in content.radii],
        "height": data.shape[1],
        "width": data.shape[2],
        "levels": data.levels,
        "edges": content.grid.edges.tolist(),
        "classes": list(data.classes),
        "images": base64.b64encode(batch.images.tobytes()).decode("ascii"),
        "labels": batch.labels.tolist(),
        "index": batch.index.tolist(),
    }


def _text(radius: Fraction) -> str:
    """Return a radius as a decimal number where that is exact, else as the fraction that it is."""
    decimal = f"{float(radius):.4g}"
    return decimal if Fraction(decimal) == radius else str(radius)
