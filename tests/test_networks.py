"""Networks: their layers and sizes as published, seeds, initial weights, and what is refused."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_networks_imagenet import PUBLISHED
from torch import nn

from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import NETWORKS, Activation, NetworkConfig
from abscert_plugin.networks.dm import Convolution, ConvolutionalPlan
from abscert_plugin.networks.param_ramp import ParamRamp

MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
ACTIVATION_LAYERS = {
    Activation.RELU: nn.ReLU,
    Activation.SIGMOID: nn.Sigmoid,
    Activation.TANH: nn.Tanh,
    Activation.PARAM_RAMP: ParamRamp,
}
LAYERS: dict[str, list[Any]] = {  # filters, kernel, stride, padding; a bare number is a fully connected layer
    "dm-small": [(16, 4, 2, 2), (32, 4, 1, 2), 100],
    "dm-medium": [(32, 3, 1, 1), (32, 4, 2, 2), (64, 3, 1, 1), (64, 4, 2, 2), 512, 512],
    "dm-large": [(64, 3, 1, 1), (64, 3, 1, 1), (128, 3, 2, 1), (128, 3, 1, 1), (128, 3, 1, 1), 512],
    "cnn-2layer": [(16, 4, 2, 1), (32, 4, 2, 1), 100],
    "cnn-3layer": [(32, 4, 2, 1), (64, 4, 2, 1), (128, 3, 2, 1), 256],
    "cnn-3layer-wide": [(64, 4, 2, 1), (128, 4, 2, 1), (256, 3, 2, 1), 256],
    "cnn-7": [(64, 3, 1, 1), (64, 3, 1, 1), (128, 3, 2, 1), (128, 3, 1, 1), (128, 3, 1, 1), 512],
    "fc-3": [512, 512],
    "fc-5": [512, 512, 512, 512],
    "fc-3-code": [512],
    "fc-5-code": [512, 128],
}


def build_empty(config: NetworkConfig) -> nn.Sequential:
    """Return the network without memory for its weights."""
    with torch.device("meta"):
        network = NETWORKS[config.name].build(config.input_shape, config.classes, config.activation)
    assert isinstance(network, nn.Sequential)
    return network


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def connected_parameters(widths: Sequence[int]) -> int:
    return sum(before * after + after for before, after in pairwise(widths))


@pytest.mark.parametrize(
    ("name", "shape", "flat", "parameters"),
    [
        ("dm-small", MNIST, 8192, 829_062),
        ("dm-small", CIFAR, 10368, 1_047_686),
        ("dm-medium", MNIST, 4096, 2_466_570),
        ("dm-medium", CIFAR, 5184, 3_024_778),
        ("dm-large", MNIST, 25088, 13_257_866),
        ("dm-large", CIFAR, 32768, 17_192_330),
        ("cnn-2layer", MNIST, 1568, 166_662),
        ("cnn-3layer", MNIST, 2048, 634_858),
        ("cnn-7", MNIST, 25088, 13_257_866 + 2 * (64 + 64 + 3 * 128 + 512)),
    ],
)
def test_convolutional_networks_have_the_published_sizes(
    name: str, shape: tuple[int, int, int], flat: int, parameters: int
) -> None:
    """Against the table of the authors' networks in baselines.md, section 8; interval images have 2C channels."""
    network = build_empty(NetworkConfig(name, Activation.RELU, shape, 10))
    first_connected = next(layer for layer in network if isinstance(layer, nn.Linear))
    assert first_connected.in_features == flat
    assert count_parameters(network) == parameters


@pytest.mark.parametrize("shape", [MNIST, CIFAR])
@pytest.mark.parametrize("takes_intervals", [True, False])
@pytest.mark.parametrize("name", ["fc-3", "fc-5", "fc-3-code", "fc-5-code"])
def test_connected_networks_have_the_sizes_of_their_widths(
    name: str, shape: tuple[int, int, int], takes_intervals: bool
) -> None:
    network = build_empty(NetworkConfig(name, Activation.RELU, shape, 10, takes_intervals))
    features = prod(shape) * (2 if takes_intervals else 1)
    assert count_parameters(network) == connected_parameters([features, *LAYERS[name], 10])


@pytest.mark.parametrize(("name", "layers"), [("fc-3", 3), ("fc-5", 5), ("fc-3-code", 2), ("fc-5-code", 3)])
def test_both_readings_of_the_connected_networks(name: str, layers: int) -> None:
    """The text counts layers of weights; the authors' code has one hidden layer for FC-3 and two for FC-5."""
    network = build_empty(NetworkConfig(name, Activation.RELU, MNIST, 10))
    assert sum(isinstance(layer, nn.Linear) for layer in network) == layers


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_follow_the_plan_with_an_activation_after_each_but_the_last(name: str, activation: Activation) -> None:
    network = build_empty(NetworkConfig(name, activation, MNIST, 10))
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    layers = [layer for layer in network if not isinstance(layer, (nn.Flatten, *norms))]
    weighted, activations = layers[::2], layers[1::2]
    found = [
        (layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.padding[0])
        if isinstance(layer, nn.Conv2d)
        else layer.out_features
        for layer in weighted
    ]
    assert found == [*LAYERS[name], 10]
    assert {type(layer) for layer in activations} == {ACTIVATION_LAYERS[activation]}
    assert len(activations) == len(weighted) - 1


def test_cnn_7_normalises_what_enters_each_activation_and_no_other_network_normalises() -> None:
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    for name in LAYERS:
        network = build_empty(NetworkConfig(name, Activation.RELU, MNIST, 10))
        normalised = [isinstance(before, norms) for before, layer in pairwise(network) if isinstance(layer, nn.ReLU)]
        assert normalised == [name == "cnn-7"] * len(normalised)
        assert sum(isinstance(layer, norms) for layer in network) == sum(normalised)


def test_every_network_is_under_test() -> None:
    assert {*LAYERS, *PUBLISHED} == set(NETWORKS)


@given(
    st.sampled_from(sorted(LAYERS)),
    st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    st.integers(2, 12),
    st.booleans(),
)
@settings(max_examples=50)
def test_any_image_gives_one_logit_per_class(
    name: str, shape: tuple[int, int, int], classes: int, takes_intervals: bool
) -> None:
    assume(
        name not in ("cnn-2layer", "cnn-3layer", "cnn-3layer-wide") or min(shape[1:]) >= 4
    )  # its strides leave nothing of smaller images
    config = NetworkConfig(name, Activation.TANH, shape, classes, takes_intervals)
    assert config.input_shape == ((2 if takes_intervals else 1) * shape[0], *shape[1:])
    logits = build_empty(config)(torch.empty(3, *config.input_shape, device="meta"))
    assert logits.shape == (3, classes)


@given(
    st.lists(
        st.builds(Convolution, st.just(2), st.integers(1, 5), st.integers(1, 2), st.integers(0, 2)),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_a_plan_is_refused_just_where_torch_cannot_run_it(plan: list[Convolution], height: int, width: int) -> None:
    """The built-in plans fit any image of a pixel or more, so plans of other people's are drawn."""

    def build() -> nn.Sequential:
        with torch.device("meta"):
            return ConvolutionalPlan(tuple(plan), (3,)).build((1, height, width), 2, Activation.RELU)

    features = torch.empty(1, 1, height, width, device="meta")
    try:
        for step, layer in enumerate(plan):
            with torch.device("meta"):
                features = nn.Conv2d(1 if step == 0 else 2, 2, layer.kernel, layer.stride, layer.padding)(features)
        fits = features.numel() > 0
    except RuntimeError:  # torch: kernel size can't be greater than actual input size
        fits = False
    if fits:
        assert build()(torch.empty(1, 1, height, width, device="meta")).shape == (1, 2)
    else:
        with pytest.raises(ConfigError, match=f"images large enough.*{height}x{width}"):
            build()


@pytest.mark.parametrize("name", ["dm-small", "fc-5-code"])
def test_a_seed_decides_the_weights_alone(name: str) -> None:
    config = NetworkConfig(name, Activation.RELU, (1, 8, 8), 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = config.build(7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = config.build(7).state_dict(), config.build(8).state_dict()
    weights = [key for key in first if key.endswith("weight")]
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in weights)


@pytest.mark.parametrize("name", ["dm-small", "dm-medium", "fc-3"])
def test_weights_lie_within_the_bounds_of_xavier_and_biases_are_zero(name: str) -> None:
    network = NetworkConfig(name, Activation.RELU, (1, 12, 12), 10).build(0)
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        window = prod(layer.weight.shape[2:])
        bound = sqrt(6 / (window * (layer.weight.shape[0] + layer.weight.shape[1])))
        largest = float(layer.weight.detach().abs().max())
        assert largest <= bound * (1 + 1e-6)  # the bound itself is rounded to float32
        assert largest > 0.9 * bound  # hundreds of uniform draws come close to it
        assert layer.bias is not None
        assert not layer.bias.any()


@pytest.mark.parametrize("name", ["dm-tiny", "", "DM-small"])
def test_an_unknown_network_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=f"dm-small.*fc-5-code.*resnet18; got '{name}'"):
        NetworkConfig(name, Activation.RELU, MNIST, 10)
