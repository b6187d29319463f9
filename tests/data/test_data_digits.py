"""digits: the embedded table equals scikit-learn's own, and is read without scikit-learn."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abscert_plugin.data import Split, digits, load_data
from abscert_plugin.errors import DataError


@pytest.mark.parametrize("split", list(Split))
def test_index_is_the_row_of_load_digits(split: Split) -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    oracle = sklearn_datasets.load_digits()
    data = load_data("digits", split)
    batch = data.take(np.arange(len(data)))
    assert (batch.images[:, 0] == oracle.images[batch.index]).all()
    assert (batch.labels == oracle.target[batch.index]).all()


def test_splits_have_the_stated_sizes_and_cover_the_table() -> None:
    parts = {split: load_data("digits", split) for split in Split}
    assert {split: len(part) for split, part in parts.items()} == {
        Split.TRAIN: 1295,
        Split.VALIDATION: 143,
        Split.TEST: 359,
    }
    assert sorted(np.concatenate([part.index for part in parts.values()])) == list(range(1797))


def test_levels_and_pixels() -> None:
    data = load_data("digits", Split.TEST)
    assert (data.levels, data.shape, data.classes) == (16, (1, 8, 8), tuple("0123456789"))
    assert data.is_resident
    pixels = data.pixels(data.take(np.arange(len(data))).images)
    assert pixels.min() == 0
    assert pixels.max() == 1


def test_checksum_differs_between_splits_and_stays() -> None:
    sums = [load_data("digits", split).sha256 for split in (*Split, Split.TEST)]
    assert len(set(sums)) == 3
    assert sums[2] == sums[3]


def test_loading_arrays_imports_no_large_library() -> None:
    script = (
        "import sys; from abscert_plugin.data import Split, load_data; load_data('digits', Split.TEST);"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'scipy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load_data("digits", Split.TEST)


ROW = ",".join(["0"] * 65)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "reinstall scikit-learn"),
        (gzip.compress(b"a,b", mtime=0), "reinstall scikit-learn"),
        (gzip.compress(ROW.encode(), mtime=0), r"got shape \(1, 65\)"),
        (gzip.compress("\n".join([ROW.replace("0", "17")] * 1797).encode(), mtime=0), "values from 0 to 16"),
    ],
)
def test_corrupt_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(digits, "_table_path", lambda: path)
    with pytest.raises(DataError, match=message):
        load_data("digits", Split.TEST)
