"""The feed: every image once, in the order asked for, from memory or read ahead."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import tiny_data
from tiny_trainings import (
    CPU,
    RecordingObjective,
    WatchedSource,
    Watcher,
    random_data,
    same_checkpoint,
    small_config,
    streamed,
    tiny_job,
)

from abscert_plugin.data import DataSet
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import SilentObserver, train

COUNT = 40
SIZE = 16
EPOCHS = 3


def orders_of_a_training(folder: Path, data: DataSet, **options: Any) -> list[list[int]]:
    """Return the images of each epoch in the order the loss saw them, by their first pixel."""
    objective = RecordingObjective()
    config = small_config(**{"epochs": EPOCHS, "batch_size": SIZE, "patience": 0, **options})
    train(tiny_job(folder, config, training=data, objective=objective), None, SilentObserver())
    sizes = [len(batch) for batch in objective.trained]
    assert sizes == [SIZE, SIZE, COUNT - 2 * SIZE] * config.epochs
    seen = torch.cat(objective.trained)[:, 0, 0, 0]
    labels = torch.cat(objective.labels)
    assert torch.equal(labels, torch.from_numpy(data.labels)[seen.long()])
    return seen.view(config.epochs, COUNT).tolist()


@pytest.mark.parametrize("kind", [lambda data: data, streamed])
def test_every_epoch_sees_every_image_once(tmp_path: Path, kind: Callable[[DataSet], DataSet]) -> None:
    for order in orders_of_a_training(tmp_path, kind(random_data((1, 2, 2), COUNT))):
        assert sorted(order) == list(range(COUNT))


def test_order_depends_on_the_seed_and_the_epoch_alone(tmp_path: Path) -> None:
    data = random_data((1, 2, 2), COUNT)
    first = orders_of_a_training(tmp_path, data, seed=1)
    torch.manual_seed(99)  # torch's own generator has no part in it
    assert orders_of_a_training(tmp_path, data, seed=1) == first
    assert orders_of_a_training(tmp_path, data, seed=1, epochs=EPOCHS + 1)[:EPOCHS] == first
    second = orders_of_a_training(tmp_path, data, seed=2)
    assert len({tuple(order) for order in first + second}) == 2 * EPOCHS
    assert list(range(COUNT)) not in first + second


@pytest.mark.slow
@given(
    st.integers(1, 30).flatmap(lambda count: st.tuples(st.just(count), st.permutations(range(count)))),
    st.integers(1, 35),
)
def test_streamed_and_resident_batches_are_those_of_the_data(drawn: tuple[int, list[int]], size: int) -> None:
    count, order = drawn
    data = tiny_data(count)
    batches = {
        kind: list(Feed(split, CPU).batches(torch.tensor(order), size))
        for kind, split in (("resident", data), ("streamed", streamed(data)))
    }
    pieces = [order[start : start + size] for start in range(0, count, size)]
    for found in batches.values():
        assert len(found) == len(pieces)
        for (images, labels), piece in zip(found, pieces, strict=True):
            assert images.dtype == torch.uint8
            assert labels.dtype == torch.int64
            for image, label, position in zip(images, labels, piece, strict=True):
                assert np.array_equal(image.numpy(), data.source.read(data.index[[position]])[0])
                assert label == data.labels[position]


def test_part_of_a_split_in_any_order_with_repeats() -> None:
    order = torch.tensor([3, 3, 0, 9])
    for split in (tiny_data(10), streamed(tiny_data(10))):
        (images, labels), (last, _) = Feed(split, CPU).batches(order, 3)
        assert torch.equal(images[0], images[1])
        assert labels.tolist() == split.labels[[3, 3, 0]].tolist()
        assert np.array_equal(last.numpy(), split.take(np.array([9])).images)


@pytest.mark.parametrize(("resident", "reads"), [(True, [10]), (False, [4, 4, 2] * 2)])
def test_resident_images_are_read_once_and_streamed_ones_batch_by_batch(resident: bool, reads: list[int]) -> None:
    source = WatchedSource(tiny_data(10).source, resident=resident)
    feed = Feed(replace(tiny_data(10), source=source), CPU)
    assert len(feed) == 10
    for _ in range(2):
        list(feed.batches(torch.arange(10), 4))
    assert source.reads == reads


def test_no_more_than_one_batch_is_read_ahead() -> None:
    data = streamed(tiny_data(20))
    assert isinstance(data.source, WatchedSource)
    batches = Feed(data, CPU).batches(torch.arange(20), 2)
    for taken in range(1, 6):
        next(batches)
        assert len(data.source.reads) <= taken + 1
    cast(Any, batches).close()  # a generator
    assert len(data.source.reads) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_a_failing_read_reaches_the_caller(fails_at: int) -> None:
    batches = Feed(streamed(tiny_data(10), fails_at), CPU).batches(torch.arange(10), 3)
    for _ in range(fails_at):
        images, _ = next(batches)
        assert len(images) == 3
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_a_streamed_training_ends_like_a_resident_one(tmp_path: Path) -> None:
    data = random_data((1, 2, 2), COUNT)
    (tmp_path / "streamed").mkdir()
    resident = train(tiny_job(tmp_path, small_config(), training=data), None, SilentObserver())
    job = tiny_job(tmp_path / "streamed", small_config(), training=streamed(data))
    with pytest.raises(KeyboardInterrupt):  # leaves the reading thread in the middle of an epoch
        train(job, None, Watcher(interrupt_at_step=1))
    job = tiny_job(tmp_path / "streamed", small_config(), training=streamed(data))
    assert same_checkpoint(train(job, None, SilentObserver()), resident)
