"""Files of data sets, changed as no program would: one line and a status, never 70."""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from command_line import abscert, linear_model
from fuzzing import Reader, fuzz, packed
from mutations import byte_files
from PIL import Image
from test_data_cifar10 import write_archive, write_batches
from test_data_idx import write_pair

from abscert_plugin.data import Split

IDX = [("data", "mnist", "--data-dir", "HERE"), ("data", "--data-dir", "HERE")]
CIFAR = [("data", "cifar10", "--data-dir", "HERE")]
FOLDER = [("data", "folder", "--data-dir", "HERE"), ("data", "folder", "--data-dir", "HERE", "--image-size", 4)]
PICTURES = [("verify", "HOME/pictures.onnx", "--data", "folder", "--data-dir", "HERE", "--out", "HERE/out")]
READERS = (
    Reader("mnist/train-images-idx3-ubyte", byte_files, IDX),
    Reader("mnist/t10k-labels-idx1-ubyte.gz", packed(byte_files), IDX),
    Reader("cifar10/cifar10.npz", byte_files, CIFAR),
    Reader("batches/cifar-10-batches-py/test_batch", byte_files, CIFAR),
    Reader("images/train/a/0.png", byte_files, FOLDER),
    Reader("images/test/b/1.png", byte_files, PICTURES),
    Reader("images/test/a/0.jpg", byte_files, PICTURES),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that the readers read."""
    home = tmp_path_factory.mktemp("fuzz")
    write_pair(home / "mnist", Split.TRAIN)
    write_pair(home / "mnist", Split.TEST, suffix=".gz")
    (home / "cifar10").mkdir()
    write_archive(home / "cifar10")
    write_batches(home / "batches")
    for number, (part, label, place) in enumerate(product(("train", "test"), "ab", range(4))):
        folder = home / "images" / part / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.{'jpg' if part == 'test' and place == 0 else 'png'}")
    model = linear_model(home / "other.onnx", (3, 6, 5), 2)
    deploy = abscert("wrap", model, "--cells", 2, "--out", home / "wrapped", "--json").json["deploy"]
    shutil.copy(deploy, home / "pictures.onnx")
    return home


(
    test_a_changed_file_is_refused_in_one_line_or_taken,
    test_what_stands_in_the_place_of_a_file_is_refused_in_one_line,
    test_whole_files_are_taken,
) = fuzz(READERS)
