"""folder, as a training reads it: few images in memory at a time, the pixels of reading all at once, any order."""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from abscert_plugin.data import ArraySource, DataSet, Split, load_data
from abscert_plugin.data.image_files import FolderSource
from abscert_plugin.errors import DataError
from abscert_plugin.training.feed import Feed

CPU = torch.device("cpu")
COUNT = 300
SIDE = 64
BATCH = 10
BATCH_BYTES = BATCH * 3 * SIDE * SIDE


def write_folder(root: Path, count: int, side: int) -> Path:
    """Write `count` random images of two classes into a train folder; their pixels tell their place."""
    for place in range(count):
        folder = root / "train" / ("cat" if place < count // 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(place).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:04}.png", compress_level=1)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"), COUNT, SIDE)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, DataSet]:
    """Return a few images twice: from their files, and all decoded beforehand."""
    data = load_data("folder", Split.TRAIN, write_folder(tmp_path_factory.mktemp("small"), 24, 9), image_size=5)
    return data, eager(data, 5)


def eager(data: DataSet, side: int) -> DataSet:
    """Return the same split with all images decoded into one array, by Pillow alone."""
    assert isinstance(data.source, FolderSource)
    decoded = []
    for name in data.source.names:
        with Image.open(data.source.root / name) as image:
            resized = image.resize((side, side), Image.Resampling.BILINEAR, box=(0, 0, *image.size))
            decoded.append(np.asarray(resized).transpose(2, 0, 1))
    return replace(data, source=ArraySource(np.stack(decoded)))


def shuffled(count: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def read_through(data: DataSet) -> None:
    for _ in Feed(data, CPU).batches(shuffled(len(data)), BATCH):
        pass


def traced_peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python and numpy held at a time during the work, beyond what was there."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_an_epoch_holds_few_images_at_a_time(folder: Path) -> None:
    data = load_data("folder", Split.TRAIN, folder)
    everything = len(data) * 3 * SIDE * SIDE
    # the batch in use, the one read ahead, and what up to eight threads decode; measured on two cores: 4.5 batches
    assert 2 * BATCH_BYTES < traced_peak(lambda: read_through(data)) < 12 * BATCH_BYTES < everything / 2
    # and the measure sees what holds all images
    assert traced_peak(lambda: data.take(np.arange(len(data)))) > everything


@pytest.mark.slow
def test_memory_does_not_grow_with_the_epochs(folder: Path) -> None:
    data = load_data("folder", Split.TRAIN, folder)
    tracemalloc.start()
    try:
        held = []
        for _ in range(3):
            read_through(data)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[2] - held[0] < BATCH_BYTES


def test_a_split_is_decoded_once_an_epoch_and_not_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    decode = FolderSource._decode

    def counted(self: FolderSource, path: Path) -> Any:
        decoded.append(path)
        return decode(self, path)

    monkeypatch.setattr(FolderSource, "_decode", counted)
    data = load_data("folder", Split.TRAIN, folder)
    assert (data.is_resident, decoded) == (False, [])
    batches = Feed(data, CPU).batches(shuffled(len(data)), BATCH)
    next(batches)
    cast(Any, batches).close()  # a generator
    assert len(decoded) <= 2 * BATCH  # one is read ahead
    decoded.clear()
    read_through(data)
    assert len(decoded) == len(set(decoded)) == len(data)


@settings(max_examples=40)
@given(order=st.lists(st.integers(0, 21), min_size=1, max_size=40), size=st.integers(1, 12))
def test_batches_in_any_order_are_those_of_reading_all_at_once(
    small: tuple[DataSet, DataSet], order: list[int], size: int
) -> None:
    streamed, resident = small
    assert (streamed.is_resident, resident.is_resident, len(streamed)) == (False, True, 22)
    found, expected = (list(Feed(data, CPU).batches(torch.tensor(order), size)) for data in small)
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def test_every_load_gives_the_same_order_checksum_and_pixels(folder: Path) -> None:
    first, second = (load_data("folder", Split.TRAIN, folder) for _ in range(2))
    assert first.sha256 == second.sha256
    assert first.index.tolist() == second.index.tolist()
    some = np.array([7, 3, 200, 3])
    assert np.array_equal(first.take(some).images, second.take(some[::-1]).images[::-1])
    assert np.array_equal(first.take(some).images, eager(first, SIDE).take(some).images)


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no image")], ids=["gone", "corrupt"]
)
def test_a_file_that_goes_or_breaks_in_the_middle_of_an_epoch_is_named(tmp_path: Path, damage: Any) -> None:
    data = load_data("folder", Split.TRAIN, write_folder(tmp_path, 40, 8))
    order = torch.arange(len(data))
    batches = Feed(data, CPU).batches(order, 4)
    assert len(next(batches)[0]) == 4
    assert isinstance(data.source, FolderSource)
    path = tmp_path / "train" / data.source.names[data.index[20]]
    damage(path)
    assert [len(images) for images, _ in islice(batches, 4)] == [4] * 4
    with pytest.raises(DataError, match=f"{path.name}.*; replace it$") as caught:
        next(batches)  # images 20 to 23
    assert "\n" not in str(caught.value)


def test_a_training_over_a_corrupt_file_says_so_in_one_line(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 40, 8)
    path = tmp_path / "data" / "train" / "cat" / "0003.png"
    path.write_bytes(path.read_bytes()[:50])
    options = ("--network", "fc-3-code", "--epochs", "1", "--device", "cpu", "--batch-size", "4")
    line = refused("train", "--data", "folder", "--data-dir", tmp_path / "data", *options, "--out", tmp_path / "out")
    assert "expected a readable PNG or JPEG file" in line
    assert str(path) in line
