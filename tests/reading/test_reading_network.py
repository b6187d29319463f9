"""From an ONNX file to the interval network as a torch module: the same logits, batches of any size, refusals."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from box_oracle import BUILDERS, lirpa_or_skip, network
from onnx import TensorProto, helper, numpy_helper
from other_tools import CLASSES, IMAGE_SHAPE, THIRD_PARTIES, Node, weights
from torch import Tensor, nn

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.artifact.export import Exported, export
from abscert_plugin.artifact.metadata import INTERVAL, LOGITS, Metadata, read_metadata, write_metadata
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Cells
from abscert_plugin.graph.batch import batch_obstacle
from abscert_plugin.graph.nodes import read_graph
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.preprocessing import InputScale, Layout
from abscert_plugin.reading.network import convert

pytestmark = pytest.mark.slow  # the file as a whole

GRID = Grid.from_inner_edges([0.2, 0.5, 0.55])
INTERVAL_SHAPE = (2, 6, 6)
CPU = torch.device("cpu")
Port = tuple[str, Sequence[int | str]]  # name and shape
TOLERANCE = 1e-5  # float32 logits of order 1, sums in another order


KNOWN = [method for method in BoundMethod if method is not BoundMethod.CROWN_LBP]  # which knows layers in a row alone


def random_images(count: int, seed: int = 0, shape: tuple[int, ...] = IMAGE_SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def assert_same_logits(
    net: nn.Module, path: Path, count: int = 7, grid: Grid = GRID, shape: tuple[int, ...] = IMAGE_SHAPE
) -> None:
    """Compare the module behind phi with the deployed file itself, in one batch."""
    images = random_images(count, shape=shape)
    with torch.no_grad():
        logits = net(Abstraction(grid)(torch.from_numpy(images))).numpy()
    expected = BlackBox(path, Provider.CPU).run(images)
    np.testing.assert_allclose(logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


def assert_carried(path: Path) -> None:
    """Assert that the graph shows that images of a batch do not meet, so that they are run at once."""
    model = read_model(path)
    assert batch_obstacle(read_graph(model, path), model) is None


def exported(net: nn.Module, folder: Path) -> Exported:
    config = NetworkConfig("fc-3", Activation.RELU, IMAGE_SHAPE, CLASSES)
    return export(net, config, GRID, "none", random_images(1), folder)


def graph_file(
    nodes: Sequence[Node], constants: Mapping[str, np.ndarray], source: Port, target: Port, path: Path
) -> Path:
    """Return a model of nodes (operator, inputs, outputs, attributes) from `source` to `target`, (name, shape)."""
    built = [
        helper.make_node(kind, reads, gives, f"n{k}", **rest) for k, (kind, reads, gives, rest) in enumerate(nodes)
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (source, target)]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(built, "test", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if source[0] == INTERVAL:
        write_metadata(model, Metadata("0.1.0", Cells(GRID), IMAGE_SHAPE, CLASSES, "test", "none"))
    path.write_bytes(model.SerializeToString())
    return path


def abstract_file(nodes: Sequence[Node], constants: Mapping[str, np.ndarray], folder: Path) -> Path:
    """Write an interval network of these nodes from `interval` to `logits`, as a file of this project."""
    source: Port = (INTERVAL, ["batch", *INTERVAL_SHAPE])
    return graph_file(nodes, constants, source, (LOGITS, ["batch", CLASSES]), folder / "abstract.onnx")


# --- exported networks -----------------------------------------------------------------------------------------------


class Viewed(nn.Module):
    """Flattens as much code does, which the exporter writes as Shape, Gather, Concat and Reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(2, 3, 3, 2, 1), nn.Linear(27, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.convolution(x))
        return self.linear(x.view(x.size(0), -1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **BUILDERS,
    "viewed": Viewed,
    "leaky": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(27, CLASSES)),
    "global-pool": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES)
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)
    ),
    "no-bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 9, bias=False), nn.ReLU(), nn.Linear(9, CLASSES)),
}


def built(name: str) -> nn.Module:
    if name in BUILDERS:
        return network(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name]().eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_comes_back_and_can_be_bounded(name: str, tmp_path: Path) -> None:
    files = exported(built(name), tmp_path)
    for path in (files.deploy, files.abstract):
        assert path is not None
        converted = convert(opened(read_model(path), path))
        assert converted.largest_difference <= TOLERANCE
        assert_same_logits(converted.network, files.deploy)
        assert_carried(path)
    lirpa_or_skip()
    bounder = LirpaBounder(
        convert(opened(read_model(files.deploy), files.deploy)).network, INTERVAL_SHAPE, CLASSES, CPU
    )
    if name != "viewed":  # auto_LiRPA takes a batch size that is read from the input for a constant
        assert_bounded_as(bounder, LirpaBounder(built(name), INTERVAL_SHAPE, CLASSES, CPU))


def assert_bounded_as(bounder: LirpaBounder, expected: LirpaBounder) -> None:
    """Assert that two bounders give the same bounds: the module has no more layers than the network it stems from."""
    lower = torch.from_numpy(GRID.interval_image(random_images(3)))
    upper = torch.clamp(lower + 0.1, max=1)
    labels = torch.tensor([0, 1, 2])
    for method in (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN):
        bounds = [one.margins(lower, upper, labels, method) for one in (bounder, expected)]
        torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-4, atol=1e-4)  # layers folded by the exporter


def leaves(net: nn.Module) -> list[nn.Module]:
    return [layer for layer in net.modules() if not list(layer.children())]


def test_the_module_holds_nothing_but_layers(tmp_path: Path) -> None:
    files = exported(network("relu"), tmp_path)
    net = convert(opened(read_model(files.deploy), files.deploy)).network
    kinds = [type(layer) for layer in leaves(net)]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


# --- wrapped models --------------------------------------------------------------------------------------------------


def third_party(
    nodes: Sequence[Node], constants: Mapping[str, np.ndarray], inputs: Sequence[int | str], folder: Path
) -> Path:
    """Write a classifier of these nodes from `x` to the last one's output."""
    ports = ("x", inputs), (nodes[-1][2][0], [inputs[0], CLASSES])
    return graph_file(nodes, constants, *ports, folder / "third.onnx")


@pytest.mark.parametrize("name", THIRD_PARTIES)
def test_a_wrapped_model_comes_back_with_its_front_folded_and_can_be_bounded(name: str, tmp_path: Path) -> None:
    nodes, constants, inputs, layers = THIRD_PARTIES[name]
    source = third_party(nodes, constants, inputs, tmp_path)
    layout: dict[str, Any] = {"layout": Layout.NHWC} if name == "channels-last" else {}
    options = WrapOptions(GRID, IMAGE_SHAPE, **layout)
    deploy = wrap(source, tmp_path / "out", options).deploy
    converted = convert(opened(read_model(deploy), deploy))
    assert converted.largest_difference <= TOLERANCE
    assert_same_logits(converted.network, deploy)
    assert_carried(deploy)
    assert [type(layer).__name__ for layer in leaves(converted.network)][: len(layers)] == layers
    lirpa_or_skip()
    bounder = LirpaBounder(converted.network, INTERVAL_SHAPE, CLASSES, CPU)
    lower = torch.from_numpy(GRID.interval_image(random_images(3)))
    upper = torch.clamp(lower + 0.1, max=1)
    labels = torch.tensor([0, 1, 2])
    means = [float(bounder.margins(lower, upper, labels, method).mean()) for method in KNOWN]
    assert np.isfinite(means).all()
    assert all(tight >= loose - 1e-6 for loose, tight in pairwise(means))  # float32 means of order 0.1


def test_colours_and_a_scale_for_each_channel_come_back(tmp_path: Path) -> None:
    shape = (3, 4, 4)
    nodes: list[Node] = [("Flatten", ["x"], ["f"], {}), ("MatMul", ["f", "w"], ["y"], {})]
    source = third_party(nodes, {"w": weights(48, CLASSES)}, ["batch", *shape], tmp_path)
    scale = InputScale((0.0, 255.0), (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))
    deploy = wrap(source, tmp_path / "out", WrapOptions(GRID, shape, scale=scale)).deploy
    net = convert(opened(read_model(deploy), deploy)).network
    assert_same_logits(net, deploy, shape=shape)


def test_tensors_in_another_file_are_read(tmp_path: Path) -> None:
    files = exported(network("relu"), tmp_path)
    model = onnx.load_model(str(files.deploy))
    outside = tmp_path / "outside.onnx"
    onnx.save_model(model, str(outside), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_same_logits(convert(opened(read_model(outside), outside)).network, files.deploy)


# --- what goes wrong -------------------------------------------------------------------------------------------------

LINEAR: list[Node] = [("Flatten", [INTERVAL], ["f"], {}), ("MatMul", ["f", "w"], [LOGITS], {})]
WEIGHT = {"w": weights(72, CLASSES)}
PER_PIXEL = {"per_pixel": weights(1, 2, 6, 6)}


def after(*front: Node) -> list[Node]:
    """Return nodes that turn `interval` into `front`, then a linear layer."""
    return [*front, ("Flatten", ["front"], ["f"], {}), LINEAR[1]]


REFUSED: dict[str, tuple[list[Node], dict[str, np.ndarray], str]] = {
    "operator": (after(("Asinh", [INTERVAL], ["front"], {})), WEIGHT, "no bounds of Asinh"),
    "constants": (
        [("Sin", ["w"], ["v"], {}), LINEAR[0], ("MatMul", ["f", "v"], [LOGITS], {})],
        WEIGHT,
        "no bounds of Sin on constants",
    ),
    "batch-mixed": (
        [("Transpose", [INTERVAL], ["t"], {"perm": [1, 0, 2, 3]}), *after(("Relu", ["t"], ["front"], {}))],
        WEIGHT,
        "batch to stay first",
    ),
    "several-operators": (
        after(("Asinh", [INTERVAL], ["e"], {}), ("Atan", ["e"], ["front"], {})),
        WEIGHT,
        "no bounds of Asinh.*no bounds of Atan",
    ),
    "batch-sized": (
        [
            ("Shape", [INTERVAL], ["s"], {}),
            ("Cast", ["s"], ["sf"], {"to": TensorProto.FLOAT}),
            ("Gather", ["sf", "zero"], ["total"], {}),
            *after(("Mul", [INTERVAL, "total"], ["front"], {})),
        ],
        {**WEIGHT, "zero": np.array(0)},
        "used in shapes only",
    ),
    "batch-computed": (
        [
            ("Shape", [INTERVAL], ["s"], {}),
            ("Add", ["s", "s"], ["twice"], {}),
            *after(("Reshape", [INTERVAL, "twice"], ["front"], {})),
        ],
        WEIGHT,
        "used in shapes only",
    ),
    "classes": (
        [("Flatten", [INTERVAL], ["f"], {}), ("MatMul", ["f", "w"], [LOGITS], {})],
        {"w": weights(72, CLASSES + 1)},
        r"logits \[batch, 4\]",
    ),
}


def opened(model: onnx.ModelProto, path: Path) -> Artifact:
    """Return a file as if it had been opened with this model, which may have been changed in memory."""
    return Artifact(path, "", model, read_metadata(model, path), BlackBox(path, Provider.CPU))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_layer_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    nodes, constants, message = REFUSED[name]
    path = abstract_file(nodes, constants, tmp_path)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        convert(opened(read_model(path), path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


ONLY_GRADIENTS: dict[str, tuple[list[Node], str]] = {
    "an operator": (after(("Elu", [INTERVAL], ["front"], {})), "(Elu): no bounds of it"),
    "a window": (
        after(("MaxPool", [INTERVAL], ["front"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]})),
        "same padding",
    ),
    "a product": (after(("Mul", [INTERVAL, INTERVAL], ["front"], {})), ""),
    "a constant for each pixel": (after(("Add", [INTERVAL, "per_pixel"], ["front"], {})), ""),
}


@pytest.mark.parametrize("name", ONLY_GRADIENTS)
def test_what_has_no_bounds_is_read_and_says_why(name: str, tmp_path: Path) -> None:
    nodes, reason = ONLY_GRADIENTS[name]
    path = abstract_file(nodes, {**WEIGHT, **PER_PIXEL}, tmp_path)
    found = convert(opened(read_model(path), path))
    assert reason in found.unbounded
    assert bool(reason) == bool(found.unbounded)


def test_another_domain_is_refused(tmp_path: Path) -> None:
    path = abstract_file(LINEAR, WEIGHT, tmp_path)
    model = read_model(path)
    model.graph.node[0].domain = "com.example"
    with pytest.raises(UnsupportedModelError, match=r"com\.example"):
        convert(opened(model, path))


def test_logits_that_read_the_image_past_the_abstraction_are_refused(tmp_path: Path) -> None:
    files = exported(network("relu"), tmp_path)
    model = read_model(files.deploy)
    reader = next(node for node in model.graph.node if INTERVAL in node.input)
    reader.input[0] = "image"
    with pytest.raises(UnsupportedModelError, match="past `interval`"):
        convert(opened(model, files.deploy))


@pytest.mark.parametrize("kind", ["weight", "nan"])
def test_the_comparison_sees_a_file_that_computes_something_else(tmp_path: Path, kind: str) -> None:
    path = abstract_file(LINEAR, WEIGHT, tmp_path)
    model = read_model(path)
    changed = WEIGHT["w"].copy()
    changed[5, 1] += 1e-2 if kind == "weight" else np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, "w"))
    with pytest.raises(UnsupportedModelError, match="cannot be bounded"):
        convert(opened(model, path))


def test_a_file_without_our_metadata_is_refused(tmp_path: Path) -> None:
    path = third_party([("Flatten", ["x"], ["y"], {})], {}, ["batch", CLASSES, 1, 1], tmp_path)
    with pytest.raises(UnsupportedModelError, match="lacks the metadata"):
        convert(opened(read_model(path), path))


def test_reading_a_file_needs_no_auto_lirpa(tmp_path: Path) -> None:
    path = abstract_file(LINEAR, WEIGHT, tmp_path)
    code = """
        import sys
        from pathlib import Path
        import abscert_plugin.lirpa.bounds, abscert_plugin.lirpa.operator
        from abscert_plugin.artifact.opened import Artifact
        from abscert_plugin.blackbox import Provider
        from abscert_plugin.reading.network import convert
        convert(Artifact.open(Path(sys.argv[1]), Provider.CPU))
        assert not {"auto_LiRPA", "torchvision"} & set(sys.modules)
    """
    command = [sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines()), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
