"""Galleries of counterexamples: what is shown of whom, with and without the data set, and how much at most."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from stored_records import RUN, store

from abscert_plugin.data import Split, load_data
from abscert_plugin.data.dataset import DataSet
from abscert_plugin.files import write_array
from abscert_plugin.records import RunInfo, read_records, write_records
from abscert_plugin.report.changes import COLOURS
from compare.page import falsified as module
from compare.page.falsified import MOST_ITEMS, RunGallery, falsified_galleries
from compare.plans.planned_run import Run
from compare.results.verified_run import verified_runs

DIGITS = msgspec.structs.replace(RUN, data="digits", network="fc-3", radius="0.1", certify=("0.1",), claims=("ball",))


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits", Split.TEST)


def falsify(results: Path, data: DataSet, count: int, run: Run = DIGITS, **facts: object) -> Path:
    """Store a run whose first images are falsified: the last of them by itself, the others by a change of one pixel.

    `facts` are what its verifications say otherwise of the data set.
    """
    folder = store(results, run, {"ball": count}, count)
    batch = data.take(np.arange(count))
    for out in (folder / name for name in run.questions):
        rows = []
        for place, (row, index, image, label) in enumerate(
            zip(
                read_records(out / "records.jsonl"),
                batch.index,
                data.pixels(batch.images),
                batch.labels.tolist(),
                strict=True,
            )
        ):
            name = f"counterexamples/{index:08d}.npy" if place < count - 1 else "itself"
            if name != "itself":
                changed = image.copy()
                changed[0, 4, 4] += np.float32(-0.05 if image[0, 4, 4] > 0.5 else 0.05)
                write_array(out / name, changed)
            rows.append(
                msgspec.structs.replace(
                    row,
                    index=int(index),
                    label=label,
                    prediction=label if name != "itself" else -1,
                    method="gradient attack",
                    counterexample=name,
                )
            )
        write_records(out / "records.jsonl", rows)
        info = RunInfo.read(out / "run.json")
        replace(info, data={**(info.data or {}), "sha256": data.sha256, **facts}).write(out / "run.json")
    return folder


def galleries(results: Path, data_dir: Path | None = None) -> list[RunGallery]:
    return [one for hall in falsified_galleries(verified_runs(results)[0], data_dir) for one in hall.galleries]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_an_item_is_the_image_what_is_mislabelled_and_the_difference(tmp_path: Path, digits: DataSet) -> None:
    falsify(tmp_path, digits, 4)
    (gallery,) = galleries(tmp_path)
    assert gallery.name == "abstrain, 6 cells"
    assert gallery.radius == "radius 0.1 (0.2)"
    assert gallery.counts == "4 of 4 images falsified, 1 of them mislabelled without a change"
    assert [item.index for item in gallery.items] == digits.index[:3].tolist()
    assert [item.label for item in gallery.items] == [digits.classes[label] for label in digits.labels[:3]]
    for item, image in zip(gallery.items, digits.pixels(digits.take(np.arange(3)).images), strict=True):
        assert [picture.caption for picture in item.pictures] == ["image", "counterexample", "difference"]
        clean, changed, difference = (pixels(picture.uri) for picture in item.pictures)
        np.testing.assert_array_equal(clean, np.rint(255 * image[0]).astype(np.uint8))
        assert np.argwhere(clean != changed).tolist() == [[4, 4]]
        # the greatest change gets the full colour, whatever the radius is
        assert tuple(difference[4, 4]) == COLOURS["up" if changed[4, 4] > clean[4, 4] else "down"]
        assert {tuple(colour) for colour in difference.reshape(-1, 3)} == {tuple(difference[4, 4]), COLOURS["none"]}
        assert item.note == "1 pixel changed, by at most 0.05"
        assert item.prediction == ""  # the deployed file is not at hand


def test_a_verification_shows_a_handful_and_a_page_has_a_limit(
    tmp_path: Path, digits: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    falsify(tmp_path, digits, 20, msgspec.structs.replace(DIGITS, certify=("0.1", "0.2")))
    assert [len(gallery.items) for gallery in galleries(tmp_path)] == [MOST_ITEMS, MOST_ITEMS]
    size = sum(len(picture.uri) for picture in galleries(tmp_path)[0].items[0].pictures)
    monkeypatch.setattr(module, "MOST_BYTES", 7 * size)
    limited = galleries(tmp_path)
    assert sum(len(picture.uri) for one in limited for item in one.items for picture in item.pictures) <= 7 * size
    assert all(1 <= len(gallery.items) <= 4 for gallery in limited)


def test_galleries_are_in_the_order_of_their_radius_and_of_the_first_seed(tmp_path: Path, digits: DataSet) -> None:
    for seed in (1, 0):
        run = msgspec.structs.replace(DIGITS, seed=seed, certify=("1/5", "0.1", "0.3", "0.05"))
        falsify(tmp_path, digits, 3 + seed, run)
    found = galleries(tmp_path)
    assert [gallery.radius.split()[1] for gallery in found] == ["0.05", "0.1", "0.2", "0.3"]
    assert all(len(gallery.items) == 2 for gallery in found)


@pytest.mark.parametrize(("name", "sha256"), [("mnist", "0"), ("digits", "0"), ("digits", None)])
def test_without_the_data_set_counterexamples_stand_alone_and_the_page_says_so(
    tmp_path: Path, digits: DataSet, name: str, sha256: str | None
) -> None:
    falsify(tmp_path, digits, 4, msgspec.structs.replace(DIGITS, data=name), sha256=sha256)
    (gallery,) = galleries(tmp_path, tmp_path / "nothing")
    assert gallery.missing.startswith("The counterexamples stand alone, since ")
    assert [[picture.caption for picture in item.pictures] for item in gallery.items] == [["counterexample"]] * 3


def test_a_file_that_is_no_image_of_the_ball_is_not_shown(tmp_path: Path, digits: DataSet) -> None:
    out = falsify(tmp_path, digits, 4) / "verify-ball-0.1"
    first, second = digits.index[:2]
    write_array(out / f"counterexamples/{first:08d}.npy", np.ones(digits.shape, dtype=np.float32))
    (out / f"counterexamples/{second:08d}.npy").write_bytes(b"no array")
    (gallery,) = galleries(tmp_path)
    shown = {item.index: item for item in gallery.items}
    for index, words in ((first, "not an image of the ball"), (second, "damaged")):
        assert shown[index].pictures == ()
        assert words in shown[index].note
    assert len(shown[digits.index[2]].pictures) == 3


def test_what_is_mislabelled_by_itself_or_not_falsified_makes_no_gallery(tmp_path: Path, digits: DataSet) -> None:
    falsify(tmp_path, digits, 1)
    store(tmp_path, RUN, {"cell": 3})
    assert galleries(tmp_path) == []
