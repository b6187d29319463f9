"""Export: both ONNX files compute what torch computes, carry what they promise, or are not written at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from test_networks_imagenet import PUBLISHED
from tiny_networks import SHAPE, export_tiny, run_onnx, tiny_network
from torch import nn

import abscert_plugin
from abscert_plugin.abstraction import Abstraction
from abscert_plugin.artifact import export as export_module
from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.export import Exported, export
from abscert_plugin.artifact.metadata import read_metadata
from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.errors import ExportError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import NETWORKS, Activation, NetworkConfig

MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
TOLERANCE = 1e-4  # float32 sums in another order; logits of untrained networks are of size 1
SMALL = [name for name in NETWORKS if name not in ("dm-large", *PUBLISHED)]  # those of ImageNet have their own tests
CASES = [
    # those of ImageNet have tests of their own
    *(
        (name, activation, MNIST)
        for name in NETWORKS
        for activation in Activation
        if name not in ("dm-large", *PUBLISHED)
    ),
    ("dm-large", Activation.RELU, MNIST),
    *((name, Activation.RELU, CIFAR) for name in ("dm-small", "fc-3", "fc-5", "fc-3-code", "fc-5-code")),
]


def probes(shape: tuple[int, int, int], count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def torch_logits(network: nn.Module, grid: Grid, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(Abstraction(grid)(torch.from_numpy(images))).numpy()


def shapes(ports: object) -> dict[str, list[str | int]]:
    return {
        port.name: [size.dim_param or size.dim_value for size in port.type.tensor_type.shape.dim]
        for port in ports  # type: ignore[attr-defined]
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "activation", "shape"), CASES)
def test_files_compute_what_torch_computes(
    tmp_path: Path, name: str, activation: Activation, shape: tuple[int, int, int]
) -> None:
    config = NetworkConfig(name, activation, shape, 10)
    grid, network = Grid(7), config.build(0)
    exported = export(network, config, grid, "seed=0", probes(shape, 2), tmp_path)
    assert (exported.abstract, exported.deploy) == (tmp_path / "abstract.onnx", tmp_path / "deploy.onnx")
    for count in (1, 3):  # the batch is free
        images = probes(shape, count, seed=2)
        expected = torch_logits(network, grid, images)
        for path, inputs in ((exported.deploy, images), (exported.abstract, grid.interval_image(images))):
            assert path is not None
            (logits,) = run_onnx(path, inputs)
            assert logits.shape == (count, 10)
            assert np.allclose(logits, expected, rtol=0, atol=TOLERANCE)
    assert exported.largest_difference <= TOLERANCE


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    config = NetworkConfig("dm-small", Activation.TANH, (3, 9, 5), 4)
    network = config.build(0)
    return export(
        network, config, Grid(10), "method=abscert;seed=0", probes((3, 9, 5), 2), tmp_path_factory.mktemp("e")
    )


def test_files_have_the_names_and_shapes_of_the_contract(exported: Exported) -> None:
    abstract, deploy = onnx.load_model(str(exported.abstract)), onnx.load_model(str(exported.deploy))
    assert shapes(abstract.graph.input) == {"interval": ["batch", 6, 9, 5]}
    assert shapes(deploy.graph.input) == {"image": ["batch", 3, 9, 5]}
    for model in (abstract, deploy):
        assert shapes(model.graph.output) == {"logits": ["batch", 4]}
        ports = [*model.graph.input, *model.graph.output]
        assert {port.type.tensor_type.elem_type for port in ports} == {onnx.TensorProto.FLOAT}
    assert "interval" in {name for node in deploy.graph.node for name in node.output}


def test_files_use_standard_operators_of_an_opset_that_verifiers_read(exported: Exported) -> None:
    for path in (exported.abstract, exported.deploy):
        model = onnx.load_model(str(path))
        (opset,) = model.opset_import
        assert opset.domain in ("", "ai.onnx")
        assert 13 <= opset.version <= 18
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert not model.functions
        onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("name", ["fc-5", "dm-medium"])  # biases of one size, all 0, which torch's exporter writes once
def test_files_hold_nothing_that_other_verifiers_refuse(tmp_path: Path, name: str) -> None:
    shape = (1, 8, 8)
    cells, plain = (NetworkConfig(name, Activation.RELU, shape, 10, takes_intervals=way) for way in (True, False))
    files = [
        export(cells.build(0), cells, Grid(10), "none", probes(shape, 1), tmp_path).abstract,
        export_plain(plain.build(0), plain, "none", probes(shape, 1), tmp_path / "plain").deploy,
    ]
    for file in files:
        graph = onnx.load_model(str(file)).graph
        assert "Identity" not in {node.op_type for node in graph.node}
        constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
        assert [tensor.name for tensor in (*graph.initializer, *constants) if not tensor.dims] == []


def test_files_carry_the_metadata_of_the_contract(exported: Exported) -> None:
    for path in (exported.abstract, exported.deploy):
        model = onnx.load_model(str(path))
        assert {entry.key: entry.value for entry in model.metadata_props} == {
            "abscert.version": abscert_plugin.__version__,
            "abscert.cells": "10",
            "abscert.domain": "-1,1",
            "abscert.pixel_range": "0,1",
            "abscert.image_shape": "3,9,5",
            "abscert.classes": "4",
            "abscert.network": "dm-small-tanh",
            "abscert.training": "method=abscert;seed=0",
        }
        assert path is not None
        assert check_artifact(model, path) == read_metadata(model, path)


@pytest.mark.parametrize("cells", [1, 2, 3, 10, 128, 255])
def test_the_tensor_interval_is_phi_to_the_bit(tmp_path: Path, cells: int) -> None:
    grid = Grid(cells)
    deploy = export_tiny(tiny_network(0), cells, tmp_path).deploy
    model = onnx.load_model(str(deploy))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("interval", onnx.TensorProto.FLOAT, ["batch", 2, 2, 2])
    )
    onnx.save_model(model, str(tmp_path / "open.onnx"))
    near = np.concatenate(
        [np.nextafter(grid.edges, np.float32(0)), grid.edges, np.nextafter(grid.edges, np.float32(1))]
    )
    images = np.resize(near, (len(near), *SHAPE))
    (interval,) = run_onnx(tmp_path / "open.onnx", images, ["interval"])
    assert interval.tobytes() == grid.interval_image(images).tobytes()


def test_the_network_is_left_in_evaluation_mode_with_its_weights(tmp_path: Path) -> None:
    network = tiny_network(0).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_tiny(network, 3, tmp_path)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_dropout_is_exported_as_it_is_used(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    exported = export_tiny(network, 3, tmp_path)
    images = probes(SHAPE, 4)
    assert np.allclose(run_onnx(exported.deploy, images)[0], torch_logits(network, Grid(3), images), atol=TOLERANCE)


def exported_with(change: Callable[[onnx.ModelProto], None]) -> Callable[..., onnx.ModelProto]:
    """Return the module's own exporter, followed by a change to what it wrote: a planted bug of the exporter."""
    honest = export_module.traced

    def exporter(network: nn.Module, *options: Any) -> onnx.ModelProto:
        model = honest(network, *options)
        change(model)
        return model

    return exporter


def shift_a_bias(model: onnx.ModelProto) -> None:
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "3.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))


def drop_the_activation(model: onnx.ModelProto) -> None:
    (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Identity"


def swap_the_halves(model: onnx.ModelProto) -> None:
    """Feed the upper ends where the lower ones belong."""
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "1.weight")
    weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 4, axis=1), weight.name))


@pytest.mark.parametrize("change", [shift_a_bias, drop_the_activation, swap_the_halves])
def test_files_that_compute_something_else_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.ModelProto], None]
) -> None:
    former = export_tiny(tiny_network(5), 3, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert former.abstract is not None
    assert set(before) == {former.abstract.name, former.deploy.name}
    monkeypatch.setattr(export_module, "traced", exported_with(change))
    with pytest.raises(ExportError, match=r"within 0\.0001 of torch's, got a difference of .*nothing was written"):
        export_tiny(tiny_network(0), 3, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ExportError):
        export_tiny(tiny_network(0), 3, tmp_path / "fresh")
    assert not list(tmp_path.rglob("fresh/*"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_network_whose_logits_are_no_numbers_is_not_written(tmp_path: Path, bad: float) -> None:
    network = tiny_network(0)
    cast(nn.Linear, network[3]).bias.data[1] = bad
    with pytest.raises(ExportError, match="nothing was written"):
        export_tiny(network, 3, tmp_path)
    assert not list(tmp_path.iterdir())


def test_torch_without_a_number_is_not_excused_by_a_file_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tolerance grows with torch's largest logit, but not without end."""

    def heal(model: onnx.ModelProto) -> None:
        (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "3.bias")
        bias.CopyFrom(numpy_helper.from_array(np.zeros(3, dtype=np.float32), bias.name))

    monkeypatch.setattr(export_module, "traced", exported_with(heal))
    network = tiny_network(0)
    cast(nn.Linear, network[3]).bias.data[1] = float("inf")
    with pytest.raises(ExportError, match="nothing was written"):
        export_tiny(network, 3, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ExportError, match=r"cannot write into .*file"):
        export_tiny(tiny_network(0), 3, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
