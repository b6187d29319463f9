"""folder: class folders of image files, decoded when they are read; each broken file is named."""

import contextlib
import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import ConfigError, DataError

CLASSES = ("bird", "cat")


def picture(seed: int, width: int = 6, height: int = 5, mode: str = "RGB") -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


def write_classes(root: Path, count: int = 10, mode: str = "RGB", classes: tuple[str, ...] = CLASSES) -> None:
    for offset, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * offset + number, mode=mode).save(root / name / f"{number:03}.png")


def all_images(data: DataSet) -> np.ndarray:
    return data.take(np.arange(len(data))).images


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_test_split_is_the_sorted_file_list(tmp_path: Path, test_folder: str) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / test_folder, count=3)
    data = load_data("folder", Split.TEST, tmp_path)
    assert (data.classes, data.shape, data.levels, data.is_resident) == (CLASSES, (3, 5, 6), 255, False)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.index.tolist() == list(range(6))
    expected = [np.asarray(picture(seed)).transpose(2, 0, 1) for seed in (0, 1, 2, 100, 101, 102)]
    assert np.array_equal(all_images(data), np.stack(expected))


def test_test_is_preferred_to_val(tmp_path: Path) -> None:
    for name, count in (("train", 5), ("test", 2), ("val", 3)):
        write_classes(tmp_path / name, count)
    assert len(load_data("folder", Split.TEST, tmp_path)) == 4


def test_validation_comes_out_of_train(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    parts = [load_data("folder", split, tmp_path) for split in (Split.TRAIN, Split.VALIDATION)]
    assert [len(part) for part in parts] == [18, 2]
    assert sorted(np.concatenate([part.index for part in parts])) == list(range(20))


def test_without_official_split_the_parts_cover_the_files(tmp_path: Path) -> None:
    write_classes(tmp_path)
    parts = [load_data("folder", split, tmp_path) for split in Split]
    assert [len(part) for part in parts] == [15, 1, 4]
    assert sorted(np.concatenate([part.index for part in parts])) == list(range(20))
    for part in parts:
        seeds = [index if index < 10 else 90 + index for index in part.index]
        assert np.array_equal(
            all_images(part), np.stack([np.asarray(picture(seed)).transpose(2, 0, 1) for seed in seeds])
        )


def test_images_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    write_classes(tmp_path / "test")
    data = load_data("folder", Split.TEST, tmp_path)
    order = np.array([7, 0, 19, 7])
    assert np.array_equal(data.take(order).images, all_images(data)[order])


def test_loading_opens_no_image_but_the_first(tmp_path: Path) -> None:
    write_classes(tmp_path / "test")
    for path in sorted(tmp_path.rglob("*.png"))[1:]:
        path.write_bytes(b"not yet an image")
    assert len(load_data("folder", Split.TEST, tmp_path)) == 20


def test_grey_first_image_makes_all_grey(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", mode="L")
    picture(3).save(tmp_path / "test" / "cat" / "001.png")
    data = load_data("folder", Split.TEST, tmp_path)
    assert data.shape == (1, 5, 6)
    assert np.array_equal(all_images(data)[11, 0], np.asarray(picture(3).convert("L")))


def test_the_first_training_image_fixes_the_shape_of_test_images_too(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", mode="L")
    assert load_data("folder", Split.TEST, tmp_path).shape == (3, 5, 6)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_are_converted(tmp_path: Path, mode: str) -> None:
    write_classes(tmp_path / "test")
    name = "000.jpg" if mode == "CMYK" else "000.png"
    (tmp_path / "test" / "cat" / "000.png").unlink()
    options = {"transparency": b"\x00\x80"} if mode == "P" else {}
    image = picture(1).convert(mode)
    image.save(tmp_path / "test" / "cat" / name, **cast(Any, options))
    row = all_images(load_data("folder", Split.TEST, tmp_path))[10]
    if mode != "CMYK":  # JPEG loses some
        assert np.array_equal(row, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_suffixes_of_any_case_count_and_other_or_hidden_files_do_not(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", count=1)
    picture(1).save(tmp_path / "test" / "cat" / "a.JPG")
    picture(1).save(tmp_path / "test" / "cat" / "b.Jpeg")
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "test" / "cat" / "._000.png").write_text("no image")
    (tmp_path / "test" / ".cache").mkdir()
    data = load_data("folder", Split.TEST, tmp_path)
    assert data.labels.tolist() == [0, 1, 1, 1]
    assert len(all_images(data)) == 4


@pytest.mark.parametrize("is_tall", [False, True])
def test_image_size_is_a_resize_of_the_short_side_and_a_centre_crop(tmp_path: Path, is_tall: bool) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    image = picture(1, 10, 30) if is_tall else picture(1, 30, 10)
    image.save(tmp_path / "test" / "a" / "0.png")
    data = load_data("folder", Split.TEST, tmp_path, image_size=4)
    resized = np.asarray(image.resize((4, 12) if is_tall else (12, 4), Image.Resampling.BILINEAR))
    cropped = resized[4:8] if is_tall else resized[:, 4:8]
    assert data.shape == (3, 4, 4)
    # Pillow rounds between its two passes, whose order the box may change: one step of 255 at most.
    difference = all_images(data)[0].astype(int) - cropped.transpose(2, 0, 1)
    assert np.abs(difference).max() <= 1


def test_image_size_of_the_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    picture(1, 8, 8).save(tmp_path / "test" / "a" / "0.png")
    data = load_data("folder", Split.TEST, tmp_path, image_size=8)
    assert np.array_equal(all_images(data)[0], np.asarray(picture(1, 8, 8)).transpose(2, 0, 1))


def test_a_long_thin_image_is_not_blown_up(tmp_path: Path) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.new("RGB", (60_000, 1), (9, 9, 9)).save(tmp_path / "test" / "a" / "0.png")
    data = load_data("folder", Split.TEST, tmp_path, image_size=224)
    assert (all_images(data) == 9).all()


def test_checksum_follows_names_sizes_and_split(tmp_path: Path) -> None:
    for copy in ("a", "b", "c"):
        write_classes(tmp_path / copy / "test", count=2)
    (tmp_path / "c" / "test" / "cat" / "001.png").rename(tmp_path / "c" / "test" / "cat" / "002.png")
    first, second, renamed = (load_data("folder", Split.TEST, tmp_path / copy).sha256 for copy in ("a", "b", "c"))
    picture(1, 60, 50).save(tmp_path / "b" / "test" / "cat" / "001.png")
    resized = load_data("folder", Split.TEST, tmp_path / "a", image_size=4).sha256
    assert first == second
    assert len({first, renamed, resized, load_data("folder", Split.TEST, tmp_path / "b").sha256}) == 4


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "test")
    picture(1, 7, 5).save(tmp_path / "test" / "cat" / "003.png")
    data = load_data("folder", Split.TEST, tmp_path)
    with pytest.raises(DataError, match=r"6 x 5 pixels.*got 7 x 5 in .*cat.003\.png; give --image-size"):
        all_images(data)
    assert len(all_images(load_data("folder", Split.TEST, tmp_path, image_size=5))) == 20


def bitmap() -> bytes:
    stream = io.BytesIO()
    picture(1).save(stream, "BMP")
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" + path.read_bytes()[61:]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no image"),
        lambda path: path.write_bytes(bitmap()),
        lambda path: path.unlink(),
    ],
    ids=["cut", "one byte", "empty", "text", "bmp", "gone"],
)
def test_a_broken_image_is_named(tmp_path: Path, damage: Any) -> None:
    write_classes(tmp_path / "test")
    data = load_data("folder", Split.TEST, tmp_path)
    damage(tmp_path / "test" / "cat" / "003.png")
    with pytest.raises(DataError, match=r"read.* .*cat.003\.png.*; replace it$") as caught:
        all_images(data)
    assert "\n" not in str(caught.value)


def test_a_cut_jpeg_is_named(tmp_path: Path) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    path = tmp_path / "test" / "a" / "0.jpg"
    picture(1, 64, 64).save(path)
    data = load_data("folder", Split.TEST, tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"0\.jpg: image file is truncated"):
        all_images(data)


def test_a_broken_first_image_is_named_on_loading(tmp_path: Path) -> None:
    write_classes(tmp_path / "test")
    (tmp_path / "test" / "bird" / "000.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bird.000\.png"):
        load_data("folder", Split.TEST, tmp_path)


def test_16_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test" / "a").mkdir(parents=True)
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save(tmp_path / "test" / "a" / "0.png")
    with pytest.raises(DataError, match=r"8 bits a channel, got the mode I;16 in .*0\.png"):
        load_data("folder", Split.TEST, tmp_path)


@pytest.mark.parametrize("limit", [20, 10])  # 30 pixels: Pillow warns above the limit and raises above twice the limit
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    write_classes(tmp_path / "test", count=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"moderate size, .*bird.000\.png"):
        load_data("folder", Split.TEST, tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_image_is_read_or_named_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("images")
    path = root / "test" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    stream = io.BytesIO()
    picture(1, 9, 9).save(stream, data.draw(st.sampled_from(["PNG", "JPEG"])))
    raw = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        all_images(load_data("folder", Split.TEST, root, image_size=4))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "got no folder in DIR"),
        (("cat",), "got none; add them"),
        (("test",), "one folder per class in .*test"),
        (("test/cat",), "images .* in the class folders of .*test"),
        (("train/cat",), "a folder test or val of class folders"),
        (("train/cat", "test/dog"), "the same classes .* got cat, dog in one"),
    ],
)
def test_a_wrong_layout_is_explained(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=message) as caught:
        load_data("folder", Split.TEST, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_train_has_no_training_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "test")
    with pytest.raises(DataError, match="a folder train of class folders"):
        load_data("folder", Split.TRAIN, tmp_path)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*--data-dir"):
        load_data("folder", Split.TEST, tmp_path / "nowhere")


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_size_below_one_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        load_data("folder", Split.TEST, tmp_path, image_size=size)
