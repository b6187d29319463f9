"""cifar10: both accepted forms give one data set; broken and hostile files are refused."""

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.data import Split, load_data
from abscert_plugin.data.cifar10 import CIFAR10_CLASSES
from abscert_plugin.errors import DataError

REAL = Path(os.environ.get("ABSCERT_DATA") or Path.home() / ".cache" / "abscert")
COUNT = 4  # images of each batch


def images_and_labels(seed: int, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)


def batch_bytes(images: np.ndarray, labels: np.ndarray, key: Any = str.encode, protocol: int = 2) -> bytes:
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
    content = {
        key("batch_label"): b"a batch",
        key("labels"): labels.tolist(),
        key("data"): planes,
        key("filenames"): [b"x.png"] * len(images),
    }
    return pickle.dumps(content, protocol=protocol)


def python2_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The opcodes that Python 2's cPickle writes: bytes as BINSTRING, one-byte names as SHORT_BINSTRING."""
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).tobytes()
    size = len(images).to_bytes(2, "little")
    return b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01M",
            size + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2,
            b"K\x00tb\x89T" + len(planes).to_bytes(4, "little") + planes + b"tbU\x06labels](",
            b"".join(b"K" + bytes([label]) for label in labels) + b"eu.",
        ]
    )


def write_batches(folder: Path, **style: Any) -> None:
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for seed, name in enumerate(names):
        (folder / "cifar-10-batches-py" / name).write_bytes(batch_bytes(*images_and_labels(seed), **style))


def write_archive(folder: Path, **changes: Any) -> Path:
    parts = [images_and_labels(seed) for seed in range(6)]
    content = {
        "x_train": np.concatenate([images for images, _ in parts[:5]]),
        "y_train": np.concatenate([labels for _, labels in parts[:5]]),
        "x_test": parts[5][0],
        "y_test": parts[5][1],
    }
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in (content | changes).items() if value is not None}
    np.savez(folder / "cifar10.npz", **kept)
    return folder / "cifar10.npz"


@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("key", [str, str.encode], ids=["str", "bytes"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_both_forms_give_the_same_data_set(tmp_path: Path, split: Split, key: Any, protocol: int) -> None:
    write_batches(tmp_path / "batches" / "cifar10", key=key, protocol=protocol)
    write_archive(tmp_path / "archive")
    first, second = (load_data("cifar10", split, tmp_path / form) for form in ("batches", "archive"))
    everything = np.arange(len(first))
    assert np.array_equal(first.take(everything).images, second.take(everything).images)
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.index, second.index)
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("form", [write_archive, write_batches])
def test_the_test_split_is_the_file_in_order(tmp_path: Path, form: Any) -> None:
    form(tmp_path)
    data = load_data("cifar10", Split.TEST, tmp_path)
    images, labels = images_and_labels(5)
    assert np.array_equal(data.take(np.arange(COUNT)).images, images.transpose(0, 3, 1, 2))
    assert np.array_equal(data.labels, labels)
    assert (data.shape, data.levels, data.classes) == ((3, 32, 32), 255, CIFAR10_CLASSES)


def test_a_batch_of_python_2_is_read(tmp_path: Path) -> None:
    write_batches(tmp_path)
    images, labels = images_and_labels(7)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(python2_batch(images, labels))
    data = load_data("cifar10", Split.TEST, tmp_path)
    assert np.array_equal(data.take(np.arange(COUNT)).images, images.transpose(0, 3, 1, 2))
    assert np.array_equal(data.labels, labels)


def test_missing_files_name_both_forms(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got none of them") as caught:
        load_data("cifar10", Split.TEST, tmp_path)
    parts = ("cifar10.npz", "cifar-10-batches-py", "data_batch_1 to data_batch_5", "test_batch", "x_train")
    for expected in (*parts, str(tmp_path / "cifar10"), "--data-dir", "$ABSCERT_DATA"):
        assert expected in str(caught.value)


def test_only_the_batches_of_the_split_are_needed(tmp_path: Path) -> None:
    write_batches(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert len(load_data("cifar10", Split.TEST, tmp_path)) == COUNT
    with pytest.raises(DataError, match="got no data_batch_3"):
        load_data("cifar10", Split.TRAIN, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "x_test and y_test"),
        ({"x_test": np.zeros((4, 3, 32, 32), np.uint8)}, r"got uint8 \[4, 3, 32, 32\]"),
        ({"x_test": np.zeros((4, 32, 32, 3), np.float32)}, "got float32"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8)}, r"got uint8 \[0,"),
        ({"y_test": np.zeros(3, np.uint8)}, r"whole numbers \[4\]"),
        ({"y_test": np.zeros((4, 1), np.uint8)}, r"whole numbers \[4\]"),
        ({"y_test": np.zeros(4)}, "got float64"),
        ({"y_test": np.full(4, 10)}, "got 10 to 10"),
        ({"y_test": np.full(4, -1)}, "got -1 to -1"),
        ({"y_test": np.full(4, 2**64 - 1, np.uint64)}, "got -1 to -1"),
        ({"y_test": np.array([None] * 4)}, "allow_pickle=False"),
    ],
)
def test_a_wrong_archive_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    path = write_archive(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_data("cifar10", Split.TEST, tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def single_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(pickle.dumps(3)),
        single_array,
        lambda path: zipfile.ZipFile(path, "w").close(),
    ],
)
def test_a_cut_or_foreign_archive_is_named(tmp_path: Path, damage: Any) -> None:
    path = write_archive(tmp_path)
    damage(path)
    with pytest.raises(DataError, match=r"cifar10\.npz.*write the file again"):
        load_data("cifar10", Split.TEST, tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_read_or_named_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cifar")
    path = write_archive(folder, x_train=None, y_train=None, x_test=images_and_labels(1, 1)[0], y_test=np.array([3]))
    raw = bytearray(path.read_bytes())
    places = st.integers(0, 200) | st.integers(len(raw) - 400, len(raw) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(places)] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        load_data("cifar10", Split.TEST, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"labels": [0]}, "an array 'data'"),
        ({b"data": [1, 2], b"labels": [0]}, "an array 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": np.zeros(1)}, "a list 'labels'"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, "another array"),
        ({b"data": np.zeros((1, 3072), np.int8), b"labels": [0]}, "another array"),
        ({b"data": np.zeros((1, 384), np.float64), b"labels": [0]}, "another array"),
        ({b"data": np.zeros(3072, np.uint8), b"labels": [0]}, "another array"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "asks for .*bytes"),
        ({b"data": np.zeros((3072, 2), np.uint8).T, b"labels": [0, 0]}, "another array"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "2 labels from 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "labels from 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10**30]}, "labels from 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["0"]}, "labels from 0 to 9"),
        ([1, 2], "a dict"),
    ],
)
def test_a_wrong_batch_is_named(tmp_path: Path, content: Any, message: str) -> None:
    write_batches(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=message) as caught:
        load_data("cifar10", Split.TEST, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(not (REAL / "cifar10" / "cifar10.npz").is_file(), reason=f"no CIFAR-10 in {REAL}")
def test_real_cifar10_test_split() -> None:
    data = load_data("cifar10", Split.TEST, REAL)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert data.labels[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane
