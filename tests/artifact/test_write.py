"""ONNX files are written whole and checked, or not at all."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_graphs as graphs
import pytest

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import INTERVAL, LOGITS
from abscert_plugin.artifact.model_file import external_locations, read_model
from abscert_plugin.artifact.phi import prepend_phi
from abscert_plugin.artifact.write import data_path, save_model, write_checked
from abscert_plugin.errors import ExportError, VerifierError
from abscert_plugin.grid import Grid

Check = Callable[[Mapping[str, Path]], None]
NAMES = ("abstract.onnx", "deploy.onnx")


def _accept(paths: Mapping[str, Path]) -> None:
    for path in paths.values():
        assert path.is_file()


def _write(folder: Path, check: Check = _accept, **options: Any) -> None:
    write_checked({name: graphs.deployed() for name in NAMES}, folder, check, **options)


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_get_their_names_after_the_check(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    seen: list[Path] = []

    def check(paths: Mapping[str, Path]) -> None:
        seen.extend(paths.values())
        assert not any((folder / name).exists() for name in NAMES)
        assert [onnx.load_model(str(path)) for path in paths.values()] == [graphs.deployed()] * 2

    _write(folder, check)
    assert _files(folder) == list(NAMES)
    assert not any(path.exists() for path in seen)


def test_a_failed_check_leaves_nothing_and_what_was_there(tmp_path: Path) -> None:
    (tmp_path / NAMES[1]).write_bytes(b"the old one")

    def check(paths: Mapping[str, Path]) -> None:
        raise VerifierError("expected equal logits")

    with pytest.raises(VerifierError, match="equal logits"):
        _write(tmp_path, check)
    assert _files(tmp_path) == [NAMES[1]]
    assert (tmp_path / NAMES[1]).read_bytes() == b"the old one"


def test_files_of_the_same_name_are_replaced(tmp_path: Path) -> None:
    (tmp_path / NAMES[1]).write_bytes(b"the old one")
    _write(tmp_path)
    assert check_artifact(read_model(tmp_path / NAMES[1]), tmp_path).grid == Grid(5)


def test_what_is_not_valid_onnx_is_not_written(tmp_path: Path) -> None:
    model = graphs.deployed()
    model.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match=r"deploy.onnx would not be valid ONNX: .*NoSuchOperator") as error:
        write_checked({"deploy.onnx": model}, tmp_path, _accept)
    assert "\n" not in str(error.value)
    assert not _files(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        if path.name == NAMES[1]:
            write_bytes(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(ExportError, match=f"cannot write into {tmp_path}: No space left on device") as error:
        _write(tmp_path)
    assert "\n" not in str(error.value)
    assert not _files(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot write into .*file"):
        _write(tmp_path / "file")
    with pytest.raises(ExportError, match=r"cannot write into .*file/out"):
        _write(tmp_path / "file" / "out")


def test_a_folder_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).mkdir()
    with pytest.raises(ExportError, match="a folder of this name is there"):
        _write(tmp_path)
    assert _files(tmp_path) == [NAMES[0]]


def test_a_large_model_keeps_its_weights_beside_it(tmp_path: Path) -> None:
    model = graphs.deployed(255)
    model.graph.initializer.append(graphs.constant("more", graphs.weights(1000)))
    model.graph.initializer.append(graphs.constant("yet_more", graphs.weights(999, seed=1)))
    images = graphs.random_images(3)
    (expected,) = graphs.run(model, images)

    def check(paths: Mapping[str, Path]) -> None:
        check_artifact(read_model(paths["deploy.onnx"]), paths["deploy.onnx"])  # phi's tables stay in the file
        assert (graphs.run(paths["deploy.onnx"], images)[0] == expected).all()

    write_checked({"deploy.onnx": model}, tmp_path, check, embed_limit=0)
    written = tmp_path / "deploy.onnx"
    assert _files(tmp_path) == ["deploy.onnx", "deploy.onnx.data"]
    assert written.stat().st_size < 10_000 < data_path(written).stat().st_size
    assert external_locations(read_model(written)) == ["deploy.onnx.data"]
    assert all(tensor.raw_data for tensor in model.graph.initializer)  # the caller's model is as it was
    assert (graphs.run(written, images)[0] == expected).all()


def test_a_model_that_fits_is_one_file(tmp_path: Path) -> None:
    path = save_model(graphs.deployed(), tmp_path / "model.onnx")
    assert path.read_bytes() == graphs.deployed().SerializeToString()
    assert not data_path(path).exists()


@pytest.mark.skipif("ABSCERT_LARGE" not in os.environ, reason="writes 2 GiB and takes 4 of memory: ABSCERT_LARGE=1")
def test_a_tensor_that_protobuf_itself_cannot_write_goes_beside_the_file(tmp_path: Path) -> None:
    size = 2**31 + 4  # bytes, past 2 GiB; it takes twice that in memory
    interval = graphs.value(INTERVAL, ["batch", 2 * graphs.SHAPE[0], *graphs.SHAPE[1:]])
    logits = graphs.value(LOGITS, ["batch", graphs.CLASSES])
    model = graphs.make([("Flatten", [INTERVAL], [LOGITS], {})], [interval], [logits], [])
    large = model.graph.initializer.add(name="large", data_type=onnx.TensorProto.FLOAT, dims=[size // 4])
    large.raw_data = bytes(size)
    prepend_phi(model.graph, Grid(3), graphs.SHAPE)
    path = save_model(model, tmp_path / "model.onnx")
    assert path.stat().st_size < 2**20
    assert data_path(path).stat().st_size == size
    (moved,) = (tensor for tensor in read_model(path).graph.initializer if tensor.name == "large")
    assert {entry.key: entry.value for entry in moved.external_data} == {
        "location": "model.onnx.data",
        "offset": "0",
        "length": str(size),
    }
    assert (moved.dims, moved.data_type) == ([size // 4], onnx.TensorProto.FLOAT)
    data_path(path).unlink()
