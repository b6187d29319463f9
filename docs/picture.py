"""Draw docs/picture.png: an image, its cells, the pixels that a ball moves over an edge, and the verdict on it.

    abscert train --data mnist --network cnn-2layer --cells 2 --method reachable --radius 0.1 --epochs 3 --out RUN
    abscert verify RUN/deploy.onnx --data mnist --claim ball --radius 0.1 --limit 150 --timeout 3 --out RUN/ball
    python docs/picture.py RUN/deploy.onnx RUN/ball docs/picture.png

It takes the first certified image that the ball moves at least 20 pixels of, and the first falsified one that the file
labels rightly as it is. Needs matplotlib, and MNIST in $ABSCERT_DATA.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float32
from matplotlib import pyplot

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Verdict
from abscert_plugin.data import Split, load_data
from abscert_plugin.records import Record, read_records
from abscert_plugin.report.counterexamples import ball_of, read_counterexample

_TITLES: Final = ("the image", "its cells", "what the ball moves", "the verdict")
_CLASHING: Final = 20  # pixels
_MOVED: Final = (0.82, 0.29, 0.36)
_INK: Final = "#222222"


def main(model: Path, folder: Path, out: Path) -> None:
    """Draw two images of a verification: one that is certified, one that is falsified."""
    artifact = Artifact.open(model, Provider.CPU)
    rows = read_records(folder / "records.jsonl")
    certified = next(row for row in rows if row.verdict == Verdict.CERTIFIED and (row.reachable_log2 or 0) >= _CLASHING)
    falsified = next(row for row in rows if row.verdict == Verdict.FALSIFIED and row.prediction == row.label)
    figure, axes = pyplot.subplots(2, len(_TITLES), figsize=(9, 5.5), facecolor="white")
    for line, row in zip(axes, (certified, falsified), strict=True):
        _draw(line, row, artifact, folder)
    for place, title in zip(axes[0], _TITLES, strict=True):
        place.set_title(title, fontsize=12, color=_INK)
    figure.tight_layout(h_pad=1.5)
    figure.savefig(out, dpi=100)


def _draw(line: Sequence[Any], row: Record, artifact: Artifact, folder: Path) -> None:
    data = load_data("mnist", Split.TEST)
    image = data.take(np.array([row.index])).images[0].astype(np.float32) / np.float32(data.levels)
    assert artifact.grid is not None
    radius = ball_of(row).radius
    lowest, highest = artifact.grid.reachable(image, radius.outward)
    cells = artifact.grid.interval_image(image)
    middle = (cells[:1] + cells[1:]) / 4 + 0.5  # of the two ends, on the pixel scale
    moved = (lowest != highest)[0]
    _show(line[0], image[0], f"a {row.label}")
    _show(line[1], middle[0], f"{artifact.grid.cells} cells a pixel: all that\nthe network sees")
    tinted = np.repeat(image[0][..., None] * 0.55 + 0.35, 3, axis=-1)
    tinted[moved] = _MOVED
    _show(line[2], tinted, f"{moved.sum()} pixels cross an edge:\n$2^{{{moved.sum()}}}$ inputs")
    if row.verdict == Verdict.CERTIFIED:
        arithmetic, length = str(row.arithmetic).replace("-", " "), f"{float(radius.given):g}"
        text = f"certified\n\nevery image within\n{length} of each pixel\nis a {row.label} to the file,\n"
        text += f"in {arithmetic} of\nits float32 sums"
        line[3].text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color="#1b7837")
        line[3].set_axis_off()
        line[3].set_box_aspect(1)
        return
    other = read_counterexample(folder, row, image)
    label = int(artifact.run_images(other[None])[0].argmax())
    _show(line[3], other[0], f"falsified: an image of the\nball that the file calls a {label}", "#b2182b")


def _show(place: Any, pixels: Float32[np.ndarray, "height width *rgb"], caption: str, ink: str = _INK) -> None:
    place.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    place.set(xticks=[], yticks=[])
    place.set_xlabel(caption, fontsize=10.5, color=ink)
    for side in place.spines.values():
        side.set_color("#999999")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
