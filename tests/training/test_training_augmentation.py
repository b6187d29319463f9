"""Augmentation against a slow oracle that explains each output by one flip, one shift and one rectangle."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_trainings import RecordingObjective, digits_data, small_config, tiny_job

from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.training.augmentation import augment
from abscert_plugin.training.config import Augmentation
from abscert_plugin.training.loop import SilentObserver, train

PADDING = 4  # on each side
GREY = 128  # half of 255, rounded up
SIDE = 32
COUNT = 300


@dataclass
class Change:
    """What was done to an image: output pixel (y, x) shows pixel (y + down, x + right) of the image, flipped or not."""

    flipped: bool
    down: int
    right: int
    rectangle: tuple[int, int, int, int] | None  # top, left, height, width


def plain_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Return images of values 1 to 127: what enters at the sides is 0, and what is erased is 128."""
    return np.random.default_rng(seed).integers(1, GREY, (count, *shape), dtype=np.uint8)


def augmented(images: np.ndarray, seed: int = 0, levels: int = 255) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return augment(torch.from_numpy(images), Augmentation.CIFAR, levels, generator).numpy()


def slowly_changed(image: np.ndarray, change: Change) -> np.ndarray:
    """Return the image after the change, pixel by pixel."""
    _, height, width = image.shape
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            source_row, source_column = row + change.down, column + change.right
            if 0 <= source_row < height and 0 <= source_column < width:
                place = width - 1 - source_column if change.flipped else source_column
                out[:, row, column] = image[:, source_row, place]
    if change.rectangle is not None:
        top, left, tall, wide = change.rectangle
        for row in range(top, top + tall):
            for column in range(left, left + wide):
                out[:, row, column] = GREY
    return out


def explained(image: np.ndarray, out: np.ndarray) -> Change | None:
    """Return a change that turns the image into `out` exactly, or None where there is none."""
    rows, columns = np.nonzero((out == GREY).all(axis=0))
    rectangle = None
    if len(rows) > 0:
        top, left = int(rows.min()), int(columns.min())
        rectangle = (top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
    rest = out != GREY
    height, width = image.shape[1:]
    for flipped in (False, True):
        padded = np.pad(image[:, :, ::-1] if flipped else image, [(0, 0), (PADDING,) * 2, (PADDING,) * 2])
        for down in range(-PADDING, PADDING + 1):
            for right in range(-PADDING, PADDING + 1):
                window = padded[:, PADDING + down :, PADDING + right :][:, :height, :width]
                if np.array_equal(window[rest], out[rest]):
                    change = Change(flipped, down, right, rectangle)
                    return change if np.array_equal(slowly_changed(image, change), out) else None
    return None


@pytest.fixture(scope="module")
def changes() -> list[Change | None]:
    images = plain_images(COUNT, (3, SIDE, SIDE))
    return [explained(image, out) for image, out in zip(images, augmented(images), strict=True)]


def test_each_output_is_a_flip_a_shift_and_a_rectangle(changes: list[Change | None]) -> None:
    """All channels of an image change alike; no image takes pixels of another."""
    assert all(change is not None for change in changes)


def test_changes_are_drawn_for_each_image_and_evenly(changes: list[Change]) -> None:
    """A tenth of 300 is more than three standard deviations of a fair coin's count."""
    assert abs(sum(change.flipped for change in changes) - COUNT / 2) < COUNT / 10
    assert abs(sum(change.rectangle is not None for change in changes) - COUNT / 2) < COUNT / 10
    shifts = range(-PADDING, PADDING + 1)
    for counts in (
        [sum(change.down == shift for change in changes) for shift in shifts],
        [sum(change.right == shift for change in changes) for shift in shifts],
    ):
        assert sum(counts) == COUNT
        assert min(counts) > COUNT / 9 / 2
    pairs = {(change.down, change.right) for change in changes}
    assert len(pairs) > 60  # of 81: rows and columns are drawn apart


def test_rectangles_have_the_area_and_aspect_of_random_erasing(changes: list[Change]) -> None:
    """Area 4 % to 20 %, height over width 0.3 to 3.3; sides are whole pixels, so each may be off by half a pixel."""
    rectangles = [change.rectangle for change in changes if change.rectangle is not None]
    for top, left, tall, wide in rectangles:
        assert 0 <= top <= SIDE - tall
        assert 0 <= left <= SIDE - wide
        assert (tall - 0.5) * (wide - 0.5) <= 0.2 * SIDE**2
        assert (tall + 0.5) * (wide + 0.5) >= 0.04 * SIDE**2
        assert (tall - 0.5) / (wide + 0.5) <= 3.3
        assert (tall + 0.5) / (wide - 0.5) >= 0.3
    areas = np.array([tall * wide for _, _, tall, wide in rectangles]) / SIDE**2
    assert areas.min() < 0.06
    assert areas.max() > 0.17
    aspects = np.array([tall / wide for _, _, tall, wide in rectangles])
    assert aspects.min() < 0.4
    assert aspects.max() > 2.5
    assert min(top for top, *_ in rectangles) == 0
    assert max(top + tall for top, _, tall, _ in rectangles) == SIDE
    assert min(left for _, left, *_ in rectangles) == 0
    assert max(left + wide for _, left, _, wide in rectangles) == SIDE


@pytest.mark.parametrize(
    "wrong",
    [
        lambda image: np.roll(image, 2, axis=2),  # wraps round instead of black sides
        lambda image: image[:, ::-1],  # upside down
        lambda image: np.stack([image[0], np.roll(image[1], 1, axis=0), image[2]]),  # channels apart
        lambda image: np.pad(image, [(0, 0), (5, 0), (0, 0)])[:, :SIDE],  # shifted too far
        lambda image: np.where(np.eye(SIDE, dtype=bool), np.uint8(GREY), image),  # not a rectangle
        lambda image: np.where(image == image[0, 5, 5], image + np.uint8(1), image),  # a value off by one
    ],
)
def test_the_oracle_refuses_other_changes(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    (image,) = plain_images(1, (3, SIDE, SIDE))
    assert explained(image, image) == Change(False, 0, 0, None)
    assert explained(image, wrong(image)) is None


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 16))
    ),
    st.integers(0, 2**31 - 1),
)
def test_any_shape_keeps_its_shape_type_and_values(images: np.ndarray, seed: int) -> None:
    before = images.copy()
    out = augmented(images, seed, levels=16)
    assert out.shape == images.shape
    assert out.dtype == np.uint8
    assert np.array_equal(images, before)
    for image, changed in zip(images, out, strict=True):
        assert set(np.unique(changed)) <= {*np.unique(image), 0, 8}  # black sides, half of 16
    assert np.array_equal(out, augmented(images, seed, levels=16))


def test_the_generator_decides() -> None:
    images = plain_images(40, (1, 8, 8))
    assert not np.array_equal(augmented(images, 0), augmented(images, 1))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = (augment(torch.from_numpy(images), Augmentation.CIFAR, 255, generator).numpy() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from torch's own
    assert np.array_equal(first, augmented(images, 0))
    assert not np.array_equal(first, second)


def test_a_shift_is_of_up_to_two_pixels_each_way() -> None:
    images = plain_images(200, (1, 8, 8))
    generator = torch.Generator().manual_seed(0)
    out = augment(torch.from_numpy(images), Augmentation.SHIFT, 255, generator).numpy()
    changes = [explained(image, changed) for image, changed in zip(images, out, strict=True)]
    assert all(change is not None and not change.flipped and change.rectangle is None for change in changes)
    pairs = {(change.down, change.right) for change in changes if change is not None}
    assert pairs == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def blobs(count: int, side: int, levels: int) -> np.ndarray:
    """Return images of one bright disc each, anywhere but at the sides."""
    random = np.random.default_rng(0)
    centers = random.uniform(side / 3, side - side / 3, (count, 2, 1, 1))
    rows, columns = np.mgrid[:side, :side]
    distances = np.hypot(rows - centers[:, 0], columns - centers[:, 1])
    return np.where(distances < side / 7, levels, 0).astype(np.uint8)[:, None]


def middles(images: np.ndarray) -> np.ndarray:
    """Return the centres of the images' light, [count, 2] in pixels."""
    light = images[:, 0].astype(np.float64)
    places = np.mgrid[: images.shape[2], : images.shape[3]]
    return np.stack([(light * axis).sum((1, 2)) / light.sum((1, 2)) for axis in places], axis=1)


@pytest.mark.parametrize("levels", [16, 255])
def test_elastic_changes_move_light_a_little_and_bend_each_image_in_another_way(levels: int) -> None:
    images = blobs(200, 28, levels)
    generator = torch.Generator().manual_seed(0)
    out = augment(torch.from_numpy(images), Augmentation.ELASTIC, levels, generator).numpy()
    assert (out.dtype, out.shape, out.max()) == (images.dtype, images.shape, levels)
    moved = middles(out) - middles(images)
    assert np.abs(moved).max() < 6
    assert np.abs(moved.mean(axis=0)).max() < 0.4  # as far to one side as to the other
    assert (moved.std(axis=0) > 0.8).all()
    area = out.sum((1, 2, 3)) / images.sum((1, 2, 3), dtype=np.float64)
    assert abs(area.mean() - 1) < 0.1
    assert area.std() > 0.05  # some grow, some shrink
    black = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    assert not augment(black, Augmentation.ELASTIC, levels, generator).any()


def test_elastic_changes_leave_as_many_grey_pixels() -> None:
    """A blurred image would have more pixels near the edges of cells than the test images have."""
    images = blobs(200, 112, 255).reshape(200, 1, 28, 4, 28, 4).mean((3, 5)).astype(np.uint8)
    out = augment(torch.from_numpy(images), Augmentation.ELASTIC, 255, torch.Generator().manual_seed(0)).numpy()
    before, after = (((x > 51) & (x < 204)).mean() for x in (images, out))
    assert before > 0.01
    assert abs(after / before - 1) < 0.1


def test_elastic_changes_are_those_of_the_generator() -> None:
    images = torch.from_numpy(blobs(20, 28, 255))
    first, again, other = (
        augment(images, Augmentation.ELASTIC, 255, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_augmentation_leaves_images_and_generator_alone() -> None:
    images = torch.from_numpy(plain_images(5, (1, 8, 8)))
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(augment(images, Augmentation.NONE, 255, generator), images)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("kind", Augmentation)
def test_training_images_are_changed_and_validation_images_never(tmp_path: Path, kind: Augmentation) -> None:
    data = digits_data(64, 20)
    objective = RecordingObjective()
    network = NetworkConfig("fc-3-code", Activation.RELU, (1, 8, 8), 10).build(0)
    config = small_config(epochs=2, augmentation=kind)
    job = tiny_job(
        tmp_path,
        config,
        network=network,
        objective=objective,
        training=data.training,
        validation=data.validation,
    )
    train(job, None, SilentObserver())
    stored = {image.tobytes() for image in data.training.take(np.arange(64)).images}
    trained = torch.cat(objective.trained).numpy()
    assert len(trained) == 2 * 64
    unchanged = sum(image.tobytes() in stored for image in trained)
    assert unchanged == 2 * 64 if kind is Augmentation.NONE else unchanged < 64
    if kind is not Augmentation.NONE:
        first, second = np.split(trained[np.lexsort(trained.reshape(128, -1).T)], 2)
        assert not np.array_equal(first, second)
    held_out = data.validation.take(np.arange(20)).images
    validated = objective.encoded[2::3]  # two steps, then one pass over the validation split
    assert len(objective.encoded) == 2 * 3
    assert all(np.array_equal(images.numpy(), held_out) for images in validated)
