"""mnist and fashion-mnist: what is written is read, and each broken file is named."""

import contextlib
import gzip
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from abscert_plugin.data import Split, load_data
from abscert_plugin.data.idx import read_idx
from abscert_plugin.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PARTS = {Split.TRAIN: "train", Split.TEST: "t10k"}
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"no MNIST in {SHARED}")


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_pair(folder: Path, split: Split, count: int = 20, suffix: str = "") -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, 5, 4), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for array, kind in ((images, "images-idx3-ubyte"), (labels, "labels-idx1-ubyte")):
        raw = idx_bytes(array)
        (folder / f"{PARTS[split]}-{kind}{suffix}").write_bytes(gzip.compress(raw) if suffix else raw)
    return images, labels


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=6)), st.booleans())
def test_idx_write_then_read_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, is_packed: bool
) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx_bytes(array)) if is_packed else idx_bytes(array))
    read = read_idx(path, array.ndim)
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)


@given(data=st.data())
def test_a_damaged_file_is_read_or_named_never_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(gzip.compress(idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with contextlib.suppress(DataError):
        read_idx(path, 3)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["mnist", ""])
def test_test_split_is_the_file_in_order(tmp_path: Path, suffix: str, subfolder: str) -> None:
    images, labels = write_pair(tmp_path / subfolder, Split.TEST, suffix=suffix)
    data = load_data("mnist", Split.TEST, tmp_path)
    batch = data.take(np.arange(len(data)))
    assert (data.shape, data.levels, data.classes) == ((1, 5, 4), 255, tuple("0123456789"))
    assert np.array_equal(batch.images[:, 0], images)
    assert np.array_equal(batch.labels, labels)
    assert np.array_equal(batch.index, np.arange(20))


def test_validation_comes_out_of_the_training_file(tmp_path: Path) -> None:
    images, labels = write_pair(tmp_path, Split.TRAIN, count=50)
    parts = [load_data("mnist", split, tmp_path) for split in (Split.TRAIN, Split.VALIDATION)]
    assert [len(part) for part in parts] == [45, 5]
    assert sorted(np.concatenate([part.index for part in parts])) == list(range(50))
    for part in parts:
        batch = part.take(np.arange(len(part)))
        assert np.array_equal(batch.images[:, 0], images[batch.index])
        assert np.array_equal(batch.labels, labels[batch.index])


def test_packed_and_plain_files_have_one_checksum_and_other_pixels_another(tmp_path: Path) -> None:
    write_pair(tmp_path / "plain", Split.TEST)
    write_pair(tmp_path / "packed", Split.TEST, suffix=".gz")
    write_pair(tmp_path / "other", Split.TEST)
    changed = tmp_path / "other" / "t10k-images-idx3-ubyte"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x01")
    plain, packed, other = (
        load_data("mnist", Split.TEST, tmp_path / kind).sha256 for kind in ("plain", "packed", "other")
    )
    assert plain == packed != other


def test_fashion_classes_and_a_folder_of_digits_is_not_taken_for_clothes(tmp_path: Path) -> None:
    write_pair(tmp_path / "fashion-mnist", Split.TEST)
    assert load_data("fashion-mnist", Split.TEST, tmp_path).classes[9] == "Ankle boot"
    with pytest.raises(DataError, match="put train-images"):
        load_data("mnist", Split.TEST, tmp_path / "fashion-mnist")


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got none of them") as caught:
        load_data("mnist", Split.TEST, tmp_path)
    message = str(caught.value)
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    for expected in (*names, ".gz", str(tmp_path / "mnist"), "--data-dir", "$ABSCERT_DATA"):
        assert expected in message
    assert "\n" not in message


def test_a_lone_file_is_reported_as_found(tmp_path: Path) -> None:
    write_pair(tmp_path, Split.TEST)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"got only .*t10k-images-idx3-ubyte"):
        load_data("mnist", Split.TEST, tmp_path)


def broken(raw: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "magic": (b"\0\0\x08\x01" + raw[4:], "magic 00000801"),
        "pickle": (b"\x80\x02", "magic 8002"),
        "empty": (b"", "magic nothing"),
        "cut": (raw[:-1], "got 399"),
        "surplus": (raw + b"\0", "got 401"),
        "cut gzip": (gzip.compress(raw)[:-20], "download the file again"),
        "bad gzip": (b"\x1f\x8b" + raw, "download the file again"),
        "nothing in it": (idx_bytes(np.zeros((0, 5, 4), np.uint8)), "at least one entry"),
    }


@pytest.mark.parametrize("kind", list(broken(b"")))
def test_a_broken_images_file_is_named(tmp_path: Path, kind: str) -> None:
    write_pair(tmp_path, Split.TEST)
    path = tmp_path / "t10k-images-idx3-ubyte"
    content, message = broken(path.read_bytes())[kind]
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_data("mnist", Split.TEST, tmp_path)
    assert str(path) in str(caught.value)


def test_count_mismatch_names_both_files(tmp_path: Path) -> None:
    write_pair(tmp_path, Split.TEST)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    with pytest.raises(DataError, match=r"19 labels in .*t10k-labels.* and 20 images in .*t10k-images"):
        load_data("mnist", Split.TEST, tmp_path)


def test_a_label_beyond_the_classes_names_the_file(tmp_path: Path) -> None:
    write_pair(tmp_path, Split.TEST)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(20, 10, np.uint8)))
    with pytest.raises(DataError, match=r"from 0 to 9 in .*t10k-labels.*got 10"):
        load_data("mnist", Split.TEST, tmp_path)


@needs_mnist
def test_real_mnist_test_split_is_right_and_fast() -> None:
    started = time.perf_counter()
    data = load_data("mnist", Split.TEST, SHARED)
    seconds = time.perf_counter() - started
    assert (len(data), data.shape) == (10_000, (1, 28, 28))
    # The published class counts of MNIST's test file.
    assert np.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert seconds < 3, "0.06 s on an idle machine; the bound leaves room for a busy one"


@needs_mnist
def test_real_mnist_validation_has_5000_images() -> None:
    data = load_data("mnist", Split.VALIDATION, SHARED / "mnist")
    assert len(data) == 5000
