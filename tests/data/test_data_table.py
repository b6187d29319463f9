"""The table of data sets and the one function that loads them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abscert_plugin.data import DATA_SETS, Split, load_data
from abscert_plugin.errors import ConfigError, DataError

NAMES = ["digits", "mnist", "fashion-mnist", "cifar10", "imagenet", "folder"]
FILED = NAMES[1:]


def write_folder(root: Path) -> Path:
    (root / "test" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(root / "test" / "a" / "0.png")
    return root


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ABSCERT_DATA", raising=False)


def test_the_table_names_its_entries() -> None:
    assert list(DATA_SETS) == NAMES
    assert [entry.name for entry in DATA_SETS.values()] == NAMES


def test_every_data_set_but_the_embedded_one_says_which_files_it_expects() -> None:
    assert [name for name, entry in DATA_SETS.items() if not entry.expected_files] == ["digits"]


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="item assignment"):
        DATA_SETS["other"] = DATA_SETS["digits"]  # type: ignore[index]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="digits, mnist, fashion-mnist, cifar10, imagenet, folder; got 'svhn'"):
        load_data("svhn", Split.TEST)


@pytest.mark.parametrize("name", FILED)
def test_without_a_folder_the_variable_and_the_option_are_named(name: str) -> None:
    with pytest.raises(
        DataError, match=rf"data set {name}, got none: pass --data-dir DIR or set \$ABSCERT_DATA"
    ) as caught:
        load_data(name, Split.TEST)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv("ABSCERT_DATA", value)
    with pytest.raises(DataError, match="got none"):
        load_data("mnist", Split.TEST)


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSCERT_DATA", str(write_folder(tmp_path)))
    assert len(load_data("folder", Split.TEST)) == 1


def test_the_argument_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSCERT_DATA", str(tmp_path / "nowhere"))
    assert len(load_data("folder", Split.TEST, write_folder(tmp_path))) == 1


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write_folder(tmp_path)))
    assert len(load_data("folder", Split.TEST, Path("~"))) == 1


@pytest.mark.parametrize("name", NAMES[:-2])
def test_an_image_size_fits_only_folders(name: str) -> None:
    with pytest.raises(ConfigError, match=f"got 32 with {name}"):
        load_data(name, Split.TEST, image_size=32)


# --- what entries tell before any file is read ------------------------------------------------------------------------


def check_entry(name: str, directory: Path | None) -> None:
    entry = DATA_SETS[name]
    train, test = (load_data(name, split, directory) for split in (Split.TRAIN, Split.TEST))
    assert (entry.shape, entry.classes) == (train.shape, len(train.classes))
    assert (entry.training_images, entry.test_images) == (len(train), len(test))


def test_digits_is_as_its_entry_tells() -> None:
    check_entry("digits", None)


def test_mnist_is_as_its_entry_tells(mnist_dir: Path) -> None:
    check_entry("mnist", mnist_dir)


def test_an_entry_of_files_of_any_size_tells_none() -> None:
    entry = DATA_SETS["folder"]
    assert (entry.shape, entry.classes, entry.training_images, entry.test_images) == (None, None, None, None)
