"""The ImageNet networks: sizes and costs as published, any image that fits, and both ONNX files of each."""

from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from abscert_plugin.artifact.export import export
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import NETWORKS, Activation, NetworkConfig, NetworkEntry
from abscert_plugin.networks.imagenet import (
    AdaptiveAverage,
    Average,
    Branches,
    Dropout,
    Filters,
    Hidden,
    ImageNetPlan,
    Inception,
    MaxPool,
    Residual,
    ResidualBlock,
)
from abscert_plugin.plugins import Registry

CLASSES = 1000
PUBLISHED = {  # parameters, billions of multiplications and least size, from torchvision's pages of its weights
    "alexnet": (61_100_840, 0.714, 63),
    "vgg11": (132_863_336, 7.609, 32),
    "inception-v1": (6_624_904, 1.498, 15),
    "resnet18": (11_689_512, 1.814, 1),
}
FIRST_LAYER = {"alexnet": (64, 11), "vgg11": (64, 3), "inception-v1": (64, 7), "resnet18": (64, 7)}  # filters, kernel
PAPER_RANGE = (11e6, 138e6)
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-6}  # float32 sums of a few values up to 1, in another order
POINT = (1, 1)


def build_empty(
    name: str, size: tuple[int, int] = (224, 224), takes_intervals: bool = True, **other: Any
) -> nn.Sequential:
    """Return the network for images of this size, without memory for its weights."""
    options: dict[str, Any] = {"activation": Activation.RELU, "classes": CLASSES, "channels": 3, **other}
    shape = (options["channels"], *size)
    config = NetworkConfig(name, options["activation"], shape, options["classes"], takes_intervals)
    with torch.device("meta"):
        network = NETWORKS[name].build(config.input_shape, config.classes, config.activation)
    assert isinstance(network, nn.Sequential)
    return network.eval()


def logits_shape(network: nn.Module, channels: int, size: tuple[int, int], batch: int = 2) -> tuple[int, ...]:
    return tuple(network(torch.empty(batch, channels, *size, device="meta")).shape)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_images_have_the_published_parameters_and_cost(name: str) -> None:
    network = build_empty(name, takes_intervals=False)
    parameters, multiplications, _ = PUBLISHED[name]
    assert count_parameters(network) == parameters
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 3) == multiplications


@pytest.mark.parametrize("name", PUBLISHED)
def test_interval_images_cost_as_many_weights_as_the_first_layer_had(name: str) -> None:
    plain, intervals = build_empty(name, takes_intervals=False), build_empty(name)
    filters, kernel = FIRST_LAYER[name]
    assert count_parameters(intervals) - count_parameters(plain) == filters * 3 * kernel**2
    first = intervals[0]
    assert isinstance(first, nn.Conv2d)
    assert (first.in_channels, first.out_channels, first.kernel_size) == (6, filters, (kernel, kernel))
    shapes = [[tuple(weights.shape) for weights in network.parameters()][1:] for network in (plain, intervals)]
    assert shapes[0] == shapes[1]


def test_interval_networks_are_in_the_range_of_the_paper() -> None:
    counts = {name: count_parameters(build_empty(name)) for name in PUBLISHED}
    low, high = PAPER_RANGE
    assert [name for name, count in counts.items() if not low < count < high] == ["inception-v1"]
    # torchvision's GoogLeNet in training has two heads more: a 1x1 convolution with BatchNorm, two linear layers
    heads = sum(channels * 128 + 2 * 128 + 2048 * 1024 + 1024 + 1024 * CLASSES + CLASSES for channels in (512, 528))
    assert PUBLISHED["inception-v1"][0] + heads == 13_004_888  # as published of the model with these heads
    assert low < counts["inception-v1"] + heads < high


def test_feature_maps_of_inception_are_those_of_its_table() -> None:
    """Against Szegedy et al. 2015, table 1."""
    seen: list[tuple[int, ...]] = []
    network = build_empty("inception-v1")
    for layer in network:
        if isinstance(layer, Branches):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(tuple(output.shape[1:])))
    logits_shape(network, 6, (224, 224))
    large = [(channels, 28, 28) for channels in (256, 480)]
    middle = [(channels, 14, 14) for channels in (512, 512, 512, 528, 832)]
    assert seen == [*large, *middle, (832, 7, 7), (1024, 7, 7)]


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_image_from_the_least_size_gives_one_logit_per_class(name: str, activation: Activation) -> None:
    least = PUBLISHED[name][2]
    for size in ((224, 224), (least, least), (least, least + 37), (100, 64)):
        network = build_empty(name, size, activation=activation, classes=10, channels=1)
        assert logits_shape(network, 2, size) == (2, 10)
        kinds = {type(module) for module in network.modules()}
        assert (nn.ReLU in kinds) == (activation is Activation.RELU)


@pytest.mark.slow
@settings(max_examples=30)
@given(st.sampled_from(sorted(PUBLISHED)), st.tuples(st.integers(1, 150), st.integers(1, 150)))
def test_an_image_is_refused_just_where_torch_cannot_pool_it(name: str, size: tuple[int, int]) -> None:
    maps = takewhile(lambda layer: not isinstance(layer, nn.Flatten), build_empty(name))
    before_average = [layer for layer in maps if not isinstance(layer, nn.AvgPool2d)]
    try:
        logits_shape(nn.Sequential(*before_average), 6, size)
        fits = True
    except RuntimeError:  # torch: output size is too small
        fits = False
    if fits:
        assert logits_shape(build_empty(name, size), 6, size) == (2, CLASSES)
    else:
        least = PUBLISHED[name][2]
        with pytest.raises(ConfigError, match=rf"at least {least}x{least} pixels for .*, got {size[0]}x{size[1]}$"):
            build_empty(name, size)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "inception-v1"])
def test_one_pixel_less_than_the_least_size_is_refused_on_either_side(name: str) -> None:
    least = PUBLISHED[name][2]
    build_empty(name, (least, least))
    for size in ((least - 1, 224), (224, least - 1)):
        with pytest.raises(ConfigError, match=f"got {size[0]}x{size[1]}"):
            build_empty(name, size)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8))
def test_the_average_of_matrices_is_that_of_torch(height: int, width: int, size: int) -> None:
    values = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    expected = nn.functional.adaptive_avg_pool2d(values, size)
    assert torch.allclose(AdaptiveAverage(height, width, size)(values), expected, **CLOSE)
    plan = ImageNetPlan("one average", 1, (Average(size),))
    *layers, _ = plan.build((3, height, width), 2, Activation.RELU)
    assert torch.allclose(nn.Sequential(*layers)(values), expected.flatten(1), **CLOSE)


def test_averages_are_in_no_checkpoint() -> None:
    network = ImageNetPlan("one average", 1, (Average(3),)).build((3, 4, 5), 2, Activation.RELU)
    assert [key for key in network.state_dict() if "weight" not in key and "bias" not in key] == []


def random_values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("filters", "stride", "has_projection"), [(4, 1, False), (5, 1, True), (4, 2, True)])
def test_a_residual_block_adds_its_input_or_a_projection_of_it(filters: int, stride: int, has_projection: bool) -> None:
    torch.manual_seed(0)
    network = ImageNetPlan("one block", 1, (ResidualBlock(filters, stride), Average()), 1e-5).build(
        (4, 6, 5), 2, Activation.RELU
    )
    block = network.eval()[0]
    assert isinstance(block, Residual)
    convolutions = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == (3 if has_projection else 2)
    values = random_values(2, 4, 6, 5)
    unit = 1 / (1 + 1e-5) ** 0.5  # BatchNorm as it begins: mean 0, variance 1
    projection = next((layer for layer in convolutions if layer.kernel_size == POINT), None)
    first, second = (layer for layer in convolutions if layer.kernel_size != POINT)
    hidden = torch.relu(unit * nn.functional.conv2d(values, first.weight, None, stride, 1))
    body = unit * nn.functional.conv2d(hidden, second.weight, None, 1, 1)
    shortcut = values if projection is None else unit * nn.functional.conv2d(values, projection.weight, None, stride)
    assert torch.allclose(block(values), torch.relu(body + shortcut), rtol=0, atol=1e-5)  # sums of 45 products


def test_an_inception_block_puts_its_branches_one_after_another() -> None:
    torch.manual_seed(0)
    plan = ImageNetPlan("one block", 1, (Inception(2, (3, 4), (5, 6), 7), Average()), 1e-3)
    block = plan.build((3, 6, 5), 2, Activation.TANH).eval()[0]
    assert isinstance(block, Branches)
    values = random_values(2, 3, 6, 5)
    outputs = block(values)
    assert outputs.shape == (2, 2 + 4 + 6 + 7, 6, 5)
    weights = [layer.weight for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(weight.shape) for weight in weights] == [
        *((2, 3, 1, 1), (3, 3, 1, 1), (4, 3, 3, 3), (5, 3, 1, 1), (6, 5, 3, 3), (7, 3, 1, 1))
    ]

    def convolved(inputs: Tensor, weight: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(inputs, weight, padding=weight.shape[-1] // 2) / (1 + 1e-3) ** 0.5)

    pooled = nn.functional.max_pool2d(values, 3, 1, 1)
    expected = [
        convolved(values, weights[0]),
        convolved(convolved(values, weights[1]), weights[2]),
        convolved(convolved(values, weights[3]), weights[4]),
        convolved(pooled, weights[5]),
    ]
    assert torch.allclose(outputs, torch.cat(expected, dim=1), rtol=0, atol=1e-5)  # sums of up to 45 products


def test_initial_weights_are_those_of_xavier() -> None:
    network = NetworkConfig("resnet18", Activation.RELU, (1, 8, 8), 3).build(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
            largest = float(layer.weight.detach().abs().max())
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.9 * bound < largest <= bound * (1 + 1e-6)  # the bound itself is rounded to float32


NARROW = {  # the stages of AlexNet and VGG11, with few filters, so that they are written in a moment
    "alexnet": ImageNetPlan(
        "AlexNet",
        63,
        (Filters(4, 11, 4, 2), MaxPool(3, 2), Filters(6, 5, padding=2), MaxPool(3, 2), MaxPool(3, 2), Average(6))
        + 2 * (Dropout(0.5), Hidden(8)),
    ),
    "vgg11": ImageNetPlan(
        "VGG11", 32, (Filters(4, 3, padding=1), *(MaxPool(2, 2),) * 5, Average(7)) + 2 * (Hidden(8), Dropout(0.5))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "activation", "size"),
    [
        ("alexnet", Activation.RELU, 63),  # a map of 1 x 1 becomes one of 6 x 6
        ("alexnet", Activation.PARAM_RAMP, 224),
        ("alexnet", Activation.RELU, 256),  # 7 x 7 becomes 6 x 6
        ("vgg11", Activation.RELU, 64),
        ("vgg11", Activation.TANH, 448),
        ("inception-v1", Activation.RELU, 15),
        ("inception-v1", Activation.SIGMOID, 33),
        ("resnet18", Activation.RELU, 16),
        ("resnet18", Activation.PARAM_RAMP, 33),
    ],
)
def test_both_files_compute_what_torch_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, activation: Activation, size: int
) -> None:
    """Export itself compares the logits of both files with torch's, on these probes and on random images."""
    if name in NARROW:
        narrow = NetworkEntry(name, NARROW[name].build)
        monkeypatch.setattr("abscert_plugin.networks.table.NETWORKS", Registry(NetworkEntry, (narrow,), (), "network"))
    config = NetworkConfig(name, activation, (3, size, size), 7)
    network = config.build(0)
    probes = np.random.default_rng(0).random((2, 3, size, size), dtype=np.float32)
    exported = export(network, config, Grid(16), "none", probes, tmp_path)
    assert exported.largest_difference <= 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"abstract.onnx", "deploy.onnx"}
    assert not network.training  # dropout and statistics of a batch have no part in the files
