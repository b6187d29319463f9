"""Wrap: third-party classifiers give, under abstraction, their own logits on the mid-points of the cells."""

import warnings
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_graphs as graphs
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from midpoint_oracle import assert_logits, both_logits, listed, midpoints, pixels, stored_images
from onnx import TensorProto
from torch import nn

import abscert_plugin
from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.wrap import WrapOptions, Wrapped, wrap
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import InputScale, Layout

pytestmark = pytest.mark.slow  # the file as a whole

SHAPE = (3, 8, 8)
CELLS = 7


def conv_net() -> nn.Module:
    """Return a network in evaluation mode whose batch norm and dropout would show if they were trained further."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(36, 5))
    network(torch.rand(16, *SHAPE))  # running statistics other than 0 and 1
    return network.eval()


def flat_mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 5)).eval()


def export_by_torch(network: nn.Module, shape: tuple[int, ...], path: Path, dynamo: bool, free_batch: bool) -> Path:
    example = torch.zeros(2 if free_batch else 1, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # both exporters use what torch itself deprecates
        warnings.simplefilter("ignore", FutureWarning)
        if dynamo:
            sizes = ({0: torch.export.Dim("n")},) if free_batch else None
            torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=sizes, verbose=False)
        else:
            axes = {"x": {0: "n"}} if free_batch else None
            torch.onnx.export(network, (example,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return path


def torch_logits(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network.double()(torch.from_numpy(inputs)).numpy()


@pytest.mark.parametrize("free_batch", [True, False], ids=["free-batch", "batch-1"])
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_conv_net_exported_by_torch_gives_its_logits_on_midpoints(
    tmp_path: Path, dynamo: bool, free_batch: bool
) -> None:
    network = conv_net()
    path = export_by_torch(network, SHAPE, tmp_path / "conv.onnx", dynamo, free_batch)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(CELLS)))
    stored = stored_images(6 if free_batch else 1, SHAPE)
    assert_logits(wrapped, stored, CELLS, torch_logits(network, midpoints(stored, CELLS)))
    assert bool(wrapped.notes) != free_batch


@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.slow), False], ids=["dynamo", "torchscript"])
def test_flat_mlp_exported_by_torch_gives_its_logits_on_midpoints(tmp_path: Path, dynamo: bool) -> None:
    network = flat_mlp()
    path = export_by_torch(network, (192,), tmp_path / "mlp.onnx", dynamo, free_batch=True)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(CELLS), image_shape=SHAPE))
    stored = stored_images(6, SHAPE)
    assert_logits(wrapped, stored, CELLS, torch_logits(network, midpoints(stored, CELLS).reshape(6, -1)))
    assert wrapped.notes == ()


def test_tensors_kept_beside_the_source_are_taken_into_the_files(tmp_path: Path) -> None:
    network = conv_net()
    path = export_by_torch(network, SHAPE, tmp_path / "conv.onnx", dynamo=True, free_batch=True)
    assert listed(tmp_path) == ["conv.onnx", "conv.onnx.data"]
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(CELLS)))
    for file in tmp_path.glob("conv.onnx*"):
        file.unlink()
    assert listed(tmp_path / "out") == ["abstract.onnx", "deploy.onnx"]
    stored = stored_images(3, SHAPE)
    assert_logits(wrapped, stored, CELLS, torch_logits(network, midpoints(stored, CELLS)))


def linear_logits(stored: np.ndarray, cells: int, scale: InputScale | None = None) -> np.ndarray:
    """Return the logits of `graphs.linear`, in float64, one pixel at a time as InputScale's docstring says."""
    scale = scale or InputScale()
    values = midpoints(stored, cells)
    low, high = scale.input_range
    for channel in range(stored.shape[1]):
        mean = scale.mean[channel if len(scale.mean) > 1 else 0]
        std = scale.std[channel if len(scale.std) > 1 else 0]
        values[:, channel] = (low + values[:, channel] * (high - low) - mean) / std
    flat = values.reshape(len(values), -1)
    return flat @ graphs.weights(flat.shape[1]).astype(np.float64)


@pytest.mark.parametrize(
    "scale",
    [
        InputScale((0.0, 255.0)),
        InputScale((-1.0, 1.0)),
        InputScale(mean=(0.1307,), std=(0.3081,)),
        InputScale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        InputScale((0.0, 255.0), (123.68, 116.779, 103.939)),
        InputScale((-1.0, 1.0), std=(1.0, 2.0, 4.0)),
    ],
    ids=["0-255", "-1-1", "mnist", "imagenet", "caffe", "std-per-channel"],
)
@pytest.mark.parametrize("cells", [1, 2, 10, 255])
def test_the_classifier_reads_midpoints_on_its_own_scale(tmp_path: Path, scale: InputScale, cells: int) -> None:
    wrapped = wrap(graphs.save(graphs.linear(), tmp_path), tmp_path, WrapOptions(Grid(cells), scale=scale))
    stored = stored_images(4, graphs.SHAPE)
    assert_logits(wrapped, stored, cells, linear_logits(stored, cells, scale))


@pytest.mark.parametrize("rank", [2, 4], ids=["flat", "four-axes"])
def test_channels_last_are_read_channels_last(tmp_path: Path, rank: int) -> None:
    height, width, channels = 4, 6, 3  # three sizes, so that no two axes can be mistaken
    shape, weights = (channels, height, width), graphs.weights(72)
    sizes: list[int | str] = ["batch", height, width, channels] if rank == 4 else ["batch", 72]
    model = graphs.make(
        [("Flatten", ["x"], ["flat"], {"axis": 1}), ("MatMul", ["flat", "w"], ["y"], {})],
        [graphs.value("x", sizes)],
        [graphs.value("y", ["batch", graphs.CLASSES])],
        [graphs.constant("w", weights)],
    )
    options = WrapOptions(
        Grid(CELLS), shape, Layout.NHWC, scale=InputScale(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    )
    wrapped = wrap(graphs.save(model, tmp_path), tmp_path, options)
    stored = stored_images(4, shape)
    values = midpoints(stored, CELLS).transpose(0, 2, 3, 1)
    expected = ((values - options.scale.mean) / options.scale.std).reshape(4, -1) @ weights.astype(np.float64)
    assert_logits(wrapped, stored, CELLS, expected)
    assert wrapped.metadata.image_shape == shape


def test_images_without_a_channel_axis_are_read(tmp_path: Path) -> None:
    model = graphs.linear(shape=(5, 6))
    wrapped = wrap(graphs.save(model, tmp_path), tmp_path, WrapOptions(Grid(CELLS)))
    stored = stored_images(4, (1, 5, 6))
    assert_logits(wrapped, stored, CELLS, linear_logits(stored, CELLS))
    assert wrapped.metadata.image_shape == (1, 5, 6)


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    folder = tmp_path_factory.mktemp("contract")
    model = graphs.linear()
    onnx.helper.set_model_props(model, {"author": "someone"})
    return wrap(graphs.save(model, folder, "someone's.onnx"), folder, WrapOptions(Grid(CELLS)))


def ports(values: object) -> dict[str, tuple[int, list[str | int]]]:
    return {
        port.name: (
            port.type.tensor_type.elem_type,
            [size.dim_param or size.dim_value for size in port.type.tensor_type.shape.dim],
        )
        for port in values  # type: ignore[attr-defined]
    }


def test_files_have_the_inputs_and_outputs_of_the_contract(contract: Wrapped) -> None:
    deploy, abstract = onnx.load_model(str(contract.deploy)), onnx.load_model(str(contract.abstract))
    assert ports(deploy.graph.input) == {"image": (TensorProto.FLOAT, ["batch", 3, 4, 4])}
    assert ports(abstract.graph.input) == {"interval": (TensorProto.FLOAT, ["batch", 6, 4, 4])}
    for model in (deploy, abstract):
        assert ports(model.graph.output) == {"logits": (TensorProto.FLOAT, ["batch", graphs.CLASSES])}
        onnx.checker.check_model(model, full_check=True)


def test_files_carry_the_metadata_of_the_contract_and_the_authors_own(contract: Wrapped) -> None:
    for path in (contract.deploy, contract.abstract):
        model = onnx.load_model(str(path))
        assert {entry.key: entry.value for entry in model.metadata_props} == {
            "author": "someone",
            "abscert.version": abscert_plugin.__version__,
            "abscert.cells": "7",
            "abscert.domain": "-1,1",
            "abscert.pixel_range": "0,1",
            "abscert.image_shape": "3,4,4",
            "abscert.classes": "5",
            "abscert.network": "wrapped:someone's.onnx",
            "abscert.training": "none",
        }
        assert check_artifact(model, path) == contract.metadata


def test_the_batch_stays_free_and_rows_do_not_depend_on_it(contract: Wrapped) -> None:
    stored = stored_images(9, graphs.SHAPE)
    together, _ = both_logits(contract, stored, CELLS)
    alone = np.concatenate([both_logits(contract, image[np.newaxis], CELLS)[0] for image in stored])
    assert np.allclose(together, alone, rtol=0, atol=1e-5)  # matrices of other sizes are summed in another order


def edges(cells: int) -> np.ndarray:
    """Return the edges that docs and docstrings promise: rounded down to multiples of 2^-24."""
    return np.array([float(Fraction(k * 2**24 // cells, 2**24)) for k in range(cells + 1)], dtype=np.float32)


@cache
def wrapped_conv(cells: int) -> onnxruntime.InferenceSession:
    """Return onnxruntime's session of a small conv net under abstraction."""
    nodes = [("Conv", ["x", "k"], ["c"], {"pads": [1, 1, 1, 1]}), ("Tanh", ["c"], ["t"], {})]
    kernel = graphs.weights(27, 3).T.reshape(3, 3, 3, 3)
    model = graphs.linear(before=nodes, source="t", constants=[graphs.constant("k", kernel)])
    with TemporaryDirectory() as folder:
        wrapped = wrap(graphs.save(model, folder), Path(folder), WrapOptions(Grid(cells)))
        return onnxruntime.InferenceSession(wrapped.deploy.read_bytes(), providers=["CPUExecutionProvider"])


@st.composite
def images_of_one_cell(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray]:
    """Return a number of cells and two images in the same cell, their pixels at the ends of the cell or inside."""
    cells = draw(st.sampled_from([1, 2, 3, 10, 64, 255]))
    cell = draw(arrays(np.int64, (1, *graphs.SHAPE), elements=st.integers(0, cells - 1)))
    low, high = edges(cells)[cell], edges(cells)[cell + 1]
    last = np.where(cell == cells - 1, high, np.nextafter(high, np.float32(0)))  # an edge is of the cell above
    share = arrays(np.float32, cell.shape, elements=st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32))
    first, second = (np.clip(low + draw(share) * (last - low), low, last) for _ in range(2))
    return cells, first, second


@given(images_of_one_cell())
def test_images_of_one_cell_get_the_same_bits(drawn: tuple[int, np.ndarray, np.ndarray]) -> None:
    cells, first, second = drawn
    session = wrapped_conv(cells)
    (one,), (other,) = (session.run(["logits"], {"image": image}) for image in (first, second))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("cells", [2, 3, 10, 64, 255])
@pytest.mark.parametrize("place", [0, 17, 47])
def test_images_of_neighbouring_cells_get_other_logits(cells: int, place: int) -> None:
    """Else the property above would hold for a classifier that reads nothing."""
    image = np.full((1, *graphs.SHAPE), 0.5, np.float32)
    moved = image.copy()
    moved.flat[place] = edges(cells)[1]
    image.flat[place] = np.nextafter(edges(cells)[1], np.float32(0))
    session = wrapped_conv(cells)
    (one,), (other,) = (session.run(["logits"], {"image": each}) for each in (image, moved))
    assert np.abs(one - other).max() > 1e-4


def test_all_grey_levels_of_one_cell_get_the_same_bits(contract: Wrapped) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(48, axis=1).reshape(-1, *graphs.SHAPE)
    session = onnxruntime.InferenceSession(str(contract.deploy), providers=["CPUExecutionProvider"])
    logits = [session.run(["logits"], {"image": pixels(image[np.newaxis])})[0].tobytes() for image in stored]
    cell = [min(value * CELLS // 255, CELLS - 1) for value in range(256)]
    assert len(set(zip(cell, logits, strict=True))) == len(set(logits)) == CELLS


def test_lossless_cells_stand_for_their_own_8_bit_values(tmp_path: Path) -> None:
    path = graphs.save(graphs.linear(shape=SHAPE), tmp_path)
    scale = InputScale((0.0, 255.0), (10.0, 20.0, 30.0), (2.0, 3.0, 4.0))
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid.of_levels(255), scale=scale, levels=255))
    stored = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, *SHAPE)
    read = (stored - np.reshape([10.0, 20.0, 30.0], (3, 1, 1))) / np.reshape([2.0, 3.0, 4.0], (3, 1, 1))
    expected = read.reshape(4, -1) @ graphs.weights(192).astype(np.float64)
    images = (stored / np.float32(255)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(wrapped.deploy), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": images})[0], expected, rtol=1e-5, atol=1e-2)
    nearby = np.clip(images + np.float32(0.4 / 255), 0, 1)  # the same cells
    assert session.run(None, {"image": nearby})[0].tobytes() == session.run(None, {"image": images})[0].tobytes()
    with pytest.raises(ConfigError, match="a cell for each of 256 stored values, got 7 cells"):
        WrapOptions(Grid(CELLS), levels=255)
