"""imagenet: train/ and val/ of class folders, colour images of one size, found where the other data sets are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError, DataError

CLASSES = ("n01440764", "n01443537")


def write_images(root: Path, count: int, mode: str = "RGB") -> None:
    """Write JPEG files of two classes, wider than high, each of one colour."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for place in range(count):
            Image.new(mode, (60, 40), 50 * label + place).save(root / name / f"{name}_{place}.JPEG")


def write_imagenet(root: Path, mode: str = "RGB") -> Path:
    write_images(root / "train", 10, mode)
    write_images(root / "val", 3, mode)
    return root


def test_val_is_the_test_split_whatever_else_is_there(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "ILSVRC2012_test_00000001.JPEG").touch()
    parts = {split: load_data("imagenet", split, tmp_path) for split in Split}
    assert [len(part) for part in parts.values()] == [18, 2, 6]
    for part in parts.values():
        assert (part.name, part.classes, part.shape, part.is_resident) == ("imagenet", CLASSES, (3, 224, 224), False)
    assert parts[Split.TEST].labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_it_is_found_beside_the_other_data_sets(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "imagenet")
    (tmp_path / "mnist").mkdir()
    assert load_data("imagenet", Split.TEST, tmp_path).sha256 == (
        load_data("imagenet", Split.TEST, tmp_path / "imagenet").sha256
    )


def test_grey_images_are_colour_images_and_a_size_can_be_asked_for(tmp_path: Path) -> None:
    data = load_data("imagenet", Split.TEST, write_imagenet(tmp_path, mode="L"), image_size=16)
    images = data.take(np.arange(len(data))).images
    assert images.shape == (6, 3, 16, 16)
    assert (images == images[:, :1]).all()
    assert images[:, 0, 8, 8].tolist() == pytest.approx([0, 1, 2, 50, 51, 52], abs=1)  # JPEG rounds


def test_where_it_is_not_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/ and val/ of the data set imagenet in .*--data-dir") as caught:
        load_data("imagenet", Split.TEST, tmp_path)
    assert "\n" not in str(caught.value)
    write_images(tmp_path / "train", 2)
    with pytest.raises(DataError, match="val"):
        load_data("imagenet", Split.TEST, tmp_path)


def test_a_size_below_one_pixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        load_data("imagenet", Split.TEST, tmp_path, image_size=0)
