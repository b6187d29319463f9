"""No file of a data set fills the memory: each is read up to a limit, which the user can raise."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data_cifar10 import write_archive, write_batches
from test_data_idx import write_pair

from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import DataError


def write_image(folder: Path) -> None:
    (folder / "test" / "cat").mkdir(parents=True)
    Image.fromarray(np.zeros((300, 300), dtype=np.uint8)).save(folder / "test" / "cat" / "0.png")


def write_bomb(folder: Path) -> None:
    write_pair(folder, Split.TEST, suffix=".gz")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(10**6)))


@pytest.mark.parametrize(
    ("name", "write", "least", "words"),
    [
        ("mnist", lambda folder: write_pair(folder, Split.TEST), 100, "t10k-images-idx3-ubyte holds more than"),
        ("mnist", write_bomb, 20_000, "t10k-images-idx3-ubyte.gz holds more than"),
        ("cifar10", write_archive, 10_000, "cifar10.npz holds an array of [0-9,]+ bytes"),
        ("cifar10", write_batches, 10_000, "test_batch holds more than"),
        ("folder", write_image, 100, "0.png holds more than"),
        ("folder", write_image, 300_000, "0.png has 300 x 300 pixels"),
    ],
)
def test_a_file_is_read_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[[Path], Any], least: int, words: str
) -> None:
    write(tmp_path)
    monkeypatch.setenv("ABSCERT_MAX_BYTES", str(least))
    with pytest.raises(DataError, match=f"{words}.*; .*if it is to be trusted, set .ABSCERT_MAX_BYTES to more bytes"):
        load_data(name, Split.TEST, tmp_path)
