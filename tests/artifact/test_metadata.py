"""Metadata of an ONNX file, and files that are not what they should be."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from strategies import grids

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import Metadata, read_metadata, write_metadata
from abscert_plugin.artifact.model_file import external_locations, model_sha256, read_model
from abscert_plugin.errors import AbscertError, UnsupportedModelError
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.grid import Grid

PATH = Path("model.onnx")
METADATA = Metadata("0.1.0", Cells(Grid(10)), (1, 28, 28), 10, "dm-small-relu", "method=abstrain;seed=0")
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)

# a test that only overwrites its one file may run again in the same folder
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def _refused(path: Path, match: str, read: Callable[[Path], object] = read_model) -> None:
    with pytest.raises(UnsupportedModelError, match=match) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@given(
    st.builds(
        Metadata,
        version=TEXT,
        front=grids().map(Cells) | st.just(Pixels()),
        image_shape=st.tuples(*[st.integers(1, 10**6)] * 3),
        classes=st.integers(1, 10**6),
        network=TEXT,
        training=TEXT,
    )
)
@example(replace(METADATA, front=Cells(Grid.from_inner_edges([]))))
def test_metadata_come_back_from_the_file_as_they_were(metadata: Metadata) -> None:
    model = graphs.linear()
    write_metadata(model, metadata)
    stored = onnx.load_model_from_string(model.SerializeToString())
    assert read_metadata(stored, PATH) == metadata


def test_writing_replaces_ours_and_keeps_others() -> None:
    model = graphs.linear()
    helper.set_model_props(model, {"author": "someone", "abscert.cells": "3"})
    write_metadata(model, METADATA)
    write_metadata(model, METADATA)
    keys = [entry.key for entry in model.metadata_props]
    assert len(keys) == len(set(keys)) == len(METADATA.as_properties()) + 1
    assert {entry.key: entry.value for entry in model.metadata_props}["author"] == "someone"
    assert read_metadata(model, PATH) == METADATA


@pytest.mark.parametrize("key", METADATA.as_properties())
def test_a_missing_key_is_named(key: str) -> None:
    model = graphs.linear()
    write_metadata(model, METADATA)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
    helper.set_model_props(model, kept)
    _refused(PATH, f"lacks the metadata {key}: .*abscert wrap", lambda path: read_metadata(model, path))


def test_a_foreign_file_is_told_about_wrap() -> None:
    _refused(PATH, "put any other classifier under abstraction", lambda path: read_metadata(graphs.linear(), path))


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("abscert.domain", "0,1", "expected abscert.domain = '-1,1', got '0,1'"),
        ("abscert.pixel_range", "0,255", "expected abscert.pixel_range = '0,1'"),
        ("abscert.cells", "0", "from 1 to 65,535"),
        ("abscert.cells", "65536", "from 1 to 65,535"),
        ("abscert.cells", "ten", "not valid"),
        ("abscert.image_shape", "28,28", "not valid"),
        ("abscert.image_shape", "1,0,28", "less than 1"),
        ("abscert.image_shape", "1,28,28,28", "not valid"),
        ("abscert.classes", "-1", "less than 1"),
        ("abscert.classes", "", "not valid"),
    ],
)
def test_metadata_without_meaning_are_refused(key: str, value: str, match: str) -> None:
    model = graphs.linear()
    helper.set_model_props(model, {**METADATA.as_properties(), key: value})
    _refused(PATH, match, lambda path: read_metadata(model, path))


def test_a_missing_file(tmp_path: Path) -> None:
    _refused(tmp_path / "model.onnx", "is not there")


def test_a_folder(tmp_path: Path) -> None:
    _refused(tmp_path, "is not a file")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    _refused(path, "is empty")


@pytest.mark.parametrize(
    "content",
    [b"import torch\n", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"PK\x03\x04archive", bytes(1000), b"\xff" * 1000],
    ids=["text", "png", "zip", "zeros", "ones"],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    _refused(path, "is not an ONNX model")


@pytest.mark.parametrize("name", ["model.json", "model.textproto", "model.onnxtxt", "model.pbtxt", "model.onnx.gz"])
def test_a_name_does_not_say_how_a_file_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"command": "train"}')
    _refused(path, "is not an ONNX model|not packed|gzip")
    if not name.endswith(".gz"):
        path.write_bytes(graphs.deployed().SerializeToString())
        assert read_model(path) == graphs.deployed()


@in_one_folder
@given(content=st.binary(min_size=1, max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    _refused(path, "is not an ONNX model")


@pytest.mark.slow
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = graphs.deployed().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        _refused(path, "not an ONNX model|lacks the metadata", lambda cut: check_artifact(read_model(cut), cut))


@in_one_folder
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_one_wrong_byte_never_raises_anything_but_our_error(tmp_path: Path, place: int, value: int) -> None:
    content = bytearray(graphs.deployed().SerializeToString())
    content[place % len(content)] = value
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(AbscertError):
        check_artifact(read_model(path), path)


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.linear().SerializeToString().replace(b"flat", b"fl\xd4t"))
    _refused(path, "not UTF-8")


def _external(location: str, **more: object) -> onnx.ModelProto:
    """Return a model that keeps its weights at `location`."""
    model = graphs.linear()
    (tensor,) = (item for item in model.graph.initializer if item.name == "w")
    _move_out(tensor, location, **more)
    return model


def _move_out(tensor: onnx.TensorProto, location: str, **more: object) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))


def _weights_file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(graphs.weights().tobytes())
    return path


def test_tensors_beside_the_model_are_allowed(tmp_path: Path) -> None:
    _weights_file(tmp_path / "model.onnx.data")
    _weights_file(tmp_path / "inner" / "model.data")
    for location in ("model.onnx.data", "inner/model.data"):
        model = read_model(graphs.save(_external(location), tmp_path))
        assert external_locations(model) == [location]


@pytest.mark.parametrize("location", ["../secret.data", "inner/../../secret.data", "inner/../model.data"])
def test_tensors_behind_two_dots_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    _weights_file(tmp_path / "secret.data")
    _weights_file(folder / "model.data")
    (folder / "inner").mkdir()
    _refused(graphs.save(_external(location), folder), "outside its own folder; this is refused")


def test_tensors_at_an_absolute_path_are_refused(tmp_path: Path) -> None:
    secret = _weights_file(tmp_path / "elsewhere" / "secret.data")
    folder = tmp_path / "models"
    folder.mkdir()
    _refused(graphs.save(_external(str(secret)), folder), "outside its own folder")


def test_tensors_behind_a_link_are_refused(tmp_path: Path) -> None:
    secret = _weights_file(tmp_path / "elsewhere" / "secret.data")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.data").symlink_to(secret)
    (folder / "inner").symlink_to(secret.parent)
    for location in ("model.data", "inner/secret.data"):
        _refused(graphs.save(_external(location), folder), "outside its own folder")


def test_tensors_that_are_not_there(tmp_path: Path) -> None:
    _refused(graphs.save(_external("lost.data"), tmp_path), "'lost.data', which is not there; copy it")


def test_locations_are_found_wherever_a_graph_keeps_tensors() -> None:
    model = graphs.linear()
    names = [f"part{number}" for number in range(6)]
    tensors = [numpy_helper.from_array(np.zeros(3, dtype=np.float32), name) for name in names]
    for tensor in tensors:
        _move_out(tensor, tensor.name)
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensors[0])], "b", [], [], [tensors[1]])
    nested = helper.make_graph([helper.make_node("If", ["q"], ["e"], then_branch=branch)], "n", [], [])
    model.graph.node.append(helper.make_node("If", ["p"], ["d"], then_branch=nested, else_branch=branch))
    model.graph.initializer.append(tensors[2])
    node = helper.make_node("Constant", [], ["c"], value=tensors[3])
    model.functions.append(helper.make_function("custom", "f", [], ["c"], [node], model.opset_import))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensors[4])
    sparse.indices.CopyFrom(tensors[5])
    assert external_locations(model) == names


def test_checksum_covers_the_file_and_its_tensors(tmp_path: Path) -> None:
    data = _weights_file(tmp_path / "model.data")
    path = graphs.save(_external("model.data"), tmp_path)
    model = read_model(path)
    first = model_sha256(path, model)
    assert first == model_sha256(path, model)
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    second = model_sha256(path, model)
    path.write_bytes(path.read_bytes() + b"\x12\x01x")  # a later producer_name
    assert len({first, second, model_sha256(path, model)}) == 3
