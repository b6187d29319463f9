"""Data of the user's own: every form gives the same images, and what is wrong is said in one line."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import abscert, refused

from abscert_plugin.api.arrays import as_data_set
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.data.arrays import ArrayFile
from abscert_plugin.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 4, 4), dtype=np.uint8)
LABELS = np.arange(40) % 3
FLOATS = (IMAGES / np.float32(255)).astype(np.float32)


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_csv(path: Path, images: np.ndarray, labels: Any, heading: bool = True) -> Path:
    lines = [",".join(["label", *(f"p{place}" for place in range(16))])] if heading else []
    lines += [",".join(map(str, [label, *image.ravel().tolist()])) for image, label in zip(images, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def pixels(data: DataSet) -> np.ndarray:
    return data.take(np.arange(len(data))).images


def whole(name: object) -> tuple[np.ndarray, np.ndarray]:
    """Return all images and labels of data without parts, in the order of the file."""
    parts = [load_data(str(name), split) for split in Split]
    order = np.argsort(np.concatenate([part.index for part in parts]))
    images = np.concatenate([pixels(part) for part in parts])
    return images[order], np.concatenate([part.labels for part in parts])[order]


def test_every_form_gives_the_same_images(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", FLOATS[..., None])
    np.save(tmp_path / "labels.npy", LABELS[:, None])
    forms = [
        save_npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS),
        save_npz(tmp_path / "b.npz", X=IMAGES.reshape(40, 16).astype(np.float64), y=LABELS.astype(np.float32)),
        tmp_path / "images.npy",
        save_csv(tmp_path / "a.csv", IMAGES, LABELS),
        save_csv(tmp_path / "b.csv", IMAGES, LABELS, heading=False),
        save_csv(tmp_path / "words.csv", IMAGES, [("cat", "dog", "eel")[label] for label in LABELS]),
        save_csv(tmp_path / "floats.csv", FLOATS, LABELS),
    ]
    checksums: dict[tuple[str, ...], set[str]] = {}
    for form in forms:
        images, labels = whole(form)
        np.testing.assert_array_equal(images[:, 0], IMAGES)
        np.testing.assert_array_equal(labels, LABELS)
        data = load_data(str(form), Split.TEST)
        checksums.setdefault(data.classes, set()).add(data.sha256)
    assert checksums.keys() == {("0", "1", "2"), ("cat", "dog", "eel")}
    assert all(len(found) == 1 for found in checksums.values())  # what records know data by
    assert load_data(str(forms[5]), Split.TEST).classes == ("cat", "dog", "eel")
    assert [len(load_data(str(forms[0]), split)) for split in Split] == [29, 3, 8]


def test_levels_and_names_of_classes_are_part_of_the_checksum(tmp_path: Path) -> None:
    """Rows about images of other levels are rows about other pixels: a run of them is not gone on with."""
    images, plain = IMAGES // 16, ArrayFile("a", ("0", "1", "2"), 255, IMAGES[:, None] // 16, LABELS)
    names = [list("abc"), list("acb"), list("012")]
    told: list[dict[str, Any]] = [{}, {"levels": 16}, {"levels": 32}, *({"classes": name} for name in names)]
    sums = [
        load_data(str(save_npz(tmp_path / f"{number}.npz", images=images, labels=LABELS, **more)), Split.TEST).sha256
        for number, more in enumerate(told)
    ]
    # what files without levels and classes had before is what they have
    assert sums[0] == sums[-1] == plain.checksum(load_data(str(tmp_path / "0.npz"), Split.TEST).index)
    assert len(set(sums)) == len(sums) - 1
    assert as_data_set(images[:, None] / np.float32(16), LABELS).sha256 != as_data_set(images[:, None], LABELS).sha256


def test_parts_are_those_of_the_file(tmp_path: Path) -> None:
    keras = save_npz(tmp_path / "k.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:6], y_test=LABELS[:6])
    medmnist = save_npz(
        tmp_path / "m.npz",
        **{f"{part}_images": IMAGES[: 10 * size] for part, size in (("train", 3), ("val", 2), ("test", 1))},
        **{f"{part}_labels": LABELS[: 10 * size, None] for part, size in (("train", 3), ("val", 2), ("test", 1))},
    )
    folder = tmp_path / "two"
    folder.mkdir()
    save_npz(folder / "train.npz", images=IMAGES, labels=LABELS)
    save_npz(folder / "test.npz", images=IMAGES[:6], labels=LABELS[:6])
    assert [len(load_data(str(keras), split)) for split in Split] == [36, 4, 6]
    assert [len(load_data(str(folder), split)) for split in Split] == [36, 4, 6]
    assert [len(load_data(str(medmnist), split)) for split in Split] == [30, 20, 10]
    assert load_data("./two", Split.TEST, tmp_path).sha256 == load_data(str(keras), Split.TEST).sha256
    named = load_data(str(save_npz(tmp_path / "n.npz", x=IMAGES // 16, y=LABELS, levels=16)), Split.TEST)
    assert named.levels == 16


BAD: list[tuple[dict[str, Any], str]] = [
    ({"images": IMAGES, "labels": LABELS[:-1]}, "label for each image"),
    ({"images": IMAGES, "labels": LABELS * 2}, "without a gap, got 0 to 4 and no 1"),
    ({"images": IMAGES, "labels": LABELS - 1}, "without a gap, got -1"),
    ({"images": IMAGES, "labels": np.eye(3)[LABELS]}, "one number or word for each image"),
    ({"images": IMAGES, "labels": LABELS + 0.5}, "whole numbers or words"),
    ({"images": IMAGES, "labels": np.array([None] * 40)}, "write the file again"),
    ({"images": FLOATS * 2 - 1, "labels": LABELS}, "undo the scaling"),
    ({"images": FLOATS * 0.999, "labels": LABELS}, "whole numbers of 1/255, got .* in image 0"),
    ({"images": np.where(FLOATS > 0.9, np.nan, FLOATS), "labels": LABELS}, "got nan in image"),
    ({"images": IMAGES.astype(np.int64) + 1, "labels": LABELS}, "from 0 to 255, got 1 to 256|got .* to 256"),
    ({"images": IMAGES[:, None, None], "labels": LABELS}, r"got \[40, 1, 1, 4, 4\]"),
    ({"images": IMAGES.reshape(40, 16)[:, :15], "labels": LABELS}, r"got \[40, 15\]"),
    ({"images": np.zeros((40, 3, 4, 1)), "labels": LABELS}, "may be either"),
    ({"images": IMAGES[:0], "labels": LABELS[:0]}, "got 0"),
    ({"pictures": IMAGES}, "got pictures; rename"),
    ({"images": IMAGES, "labels": LABELS, "levels": 0}, "levels"),
]


@pytest.mark.parametrize(("arrays", "said"), BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    path = save_npz(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        load_data(str(path), Split.TEST)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"PK\3\4"), ("images.npy", b"\x93NUMPY"), ("a.csv", b"\xff\xfe"), ("b.csv", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            load_data(str(tmp_path / name), Split.TEST)
    for text in ("label,a\n1,2,3\n", "label,class\n1,2\n", "a,b\n1,2\n", "1,x\n2,y\n", "1\n2\n"):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(DataError):
            load_data(str(tmp_path / "c.csv"), Split.TEST)
    with pytest.raises(DataError, match="no such file"):
        load_data("nowhere.npz", Split.TEST)
    (tmp_path / "images.npy").unlink()
    with pytest.raises(DataError, match="--data folder --data-dir"):
        load_data(str(tmp_path), Split.TEST)


@pytest.mark.skipif(find_spec("datasets") is not None, reason="the library is installed")
def test_hugging_face_without_its_library_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="pip install datasets"):
        load_data(str(tmp_path), Split.TEST)


@pytest.mark.skipif(find_spec("datasets") is None, reason="the library `datasets` is not installed")
@pytest.mark.parametrize("form", ["saved", "saved parts", "parquet"])
def test_hugging_face_data_are_the_same_images(tmp_path: Path, form: str) -> None:
    library: Any = import_module("datasets")
    from PIL import Image

    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog", "eel"])})
    rows = {"image": [Image.fromarray(image) for image in IMAGES], "label": LABELS.tolist()}
    data = library.Dataset.from_dict(rows, features=features)
    if form == "saved":
        data.save_to_disk(tmp_path / "d")
    elif form == "saved parts":
        library.DatasetDict({"train": data, "test": data.select(range(6))}).save_to_disk(tmp_path / "d")
    else:
        (tmp_path / "d").mkdir()
        data.to_parquet(tmp_path / "d" / "train-00000-of-00001.parquet")
        data.select(range(6)).to_parquet(tmp_path / "d" / "test-00000-of-00001.parquet")
    if form == "saved":
        images, labels = whole(tmp_path / "d")
        np.testing.assert_array_equal(images[:, 0], IMAGES)
        np.testing.assert_array_equal(labels, LABELS)
    test = load_data(str(tmp_path / "d"), Split.TEST)
    assert test.classes == ("cat", "dog", "eel")
    np.testing.assert_array_equal(pixels(test)[:, 0], IMAGES[test.index])
    assert len(test) == (8 if form == "saved" else 6)


@pytest.mark.slow
def test_commands_take_a_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_npz(tmp_path / "own.npz", images=IMAGES, labels=LABELS)
    (train, _, test) = abscert("data", path, "--json").json["splits"]
    assert (train["images"], test["images"], train["shape"]) == (29, 8, [1, 4, 4])
    assert "a fifth of it, drawn by a fixed seed, is test" in caplog.text
    options = ("--data", path, "--network", "fc-3-code", "--cells", 2, "--epochs", 1)
    abscert("train", *options, "--out", tmp_path / "run", "--json")
    told = abscert("verify", tmp_path / "run" / "deploy.onnx", "--json").json  # the file says where its data lie
    assert told["images"] == 8
    assert "images and labels" in refused("data", save_npz(tmp_path / "x.npz", pictures=IMAGES))
