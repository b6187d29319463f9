"""Pictures of phi: ends of cells, and the pixels that straddle, against every image of the ball."""

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image
from report_rows import picture_data, row, run_info

from abscert_plugin.grid import Grid
from abscert_plugin.report.gallery import Picture, take_images
from abscert_plugin.report.phi_pictures import STRADDLE_COLOURS, chosen_rows, phi_items

DATA = picture_data((1, 3, 4), 6)
GRID = Grid.from_inner_edges([0.25, 0.375, 0.75])
TOLD = {"claim": "ball", "radius": "20/255", "radius_scale": "pixel", "inputs": "uint8"}


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))))


def test_ends_and_straddling_pixels_are_those_of_all_images_of_the_ball() -> None:
    rows = [row(int(index), claim="ball") for index in DATA.index]
    items = phi_items(run_info(configuration=TOLD), rows, DATA, GRID, None)
    images = take_images(DATA, [item.record.index for item in items])
    assert len(items) == 2
    for item in items:
        levels = np.rint(images[item.record.index][0] * 255).astype(int)
        _, lower, upper, straddling = map(pixels, item.pictures)
        counts = np.zeros(levels.shape, dtype=int)
        for place in itertools.product(*map(range, levels.shape)):
            cell = np.searchsorted(GRID.inner_edges, levels[place] / 255, side="right")
            ends = np.rint(255 * GRID.edges[cell : cell + 2])
            assert [lower[place], upper[place]] == ends.tolist()
            near = np.clip(np.arange(levels[place] - 20, levels[place] + 21), 0, 255)
            counts[place] = len(np.unique(GRID.cell((near / 255).astype(np.float32))))
        assert set(counts.ravel()) >= {1, 2}
        for count, name in ((2, "two"), (3, "more")):
            marked = (straddling == STRADDLE_COLOURS[name]).all(axis=-1)
            np.testing.assert_array_equal(marked, counts == count)
        assert item.text.startswith(f"{(counts > 1).sum()} of 12 pixels")
        assert item.log2_count == pytest.approx(np.log2(counts).sum(), rel=1e-12)


def test_a_cell_has_no_straddling_pixels() -> None:
    (item, *_) = phi_items(run_info(), [row(5)], DATA, GRID, ("a", "b", "c"))
    assert [picture.caption for picture in item.pictures] == ["image", "lower ends", "upper ends"]
    assert (item.text, item.label) == ("", "a")


def test_two_of_each_verdict_are_shown_those_nearest_to_the_edge() -> None:
    rows = [
        row(0, "falsified", margin=-0.1, counterexample="itself"),
        row(1, "falsified", margin=-3.0, counterexample="counterexamples/1.npy"),
        row(2, "falsified", margin=-2.0, counterexample="counterexamples/2.npy"),
        row(3, "unknown", margin=None),
        row(4, margin=5.0),
        row(5, margin=0.5),
        row(6, margin=1.0),
        row(7, margin=0.01),
    ]
    chosen = [record.index for record in chosen_rows(rows, frozenset(range(7)))]
    assert chosen == [2, 1, 3, 5, 6]
