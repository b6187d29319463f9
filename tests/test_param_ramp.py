"""ParamRamp: its three pieces, how its bend begins, what of it is kept, and its ONNX file."""

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from abscert_plugin.artifact.export import traced
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.bounds.intervals import Box, interval_margins
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.networks.param_ramp import LEAST_BEND_POINT, ParamRamp, collecting, ramps_of

SHAPE = (2, 6, 6)
CLASSES = 3
numbers = st.floats(-5, 5, allow_subnormal=False)


def pieces(value: float, eta: float, bend: float) -> float:
    """Return the function by its definition."""
    if value < 0:
        return eta * value
    return value if value <= bend else bend + eta * (value - bend)


def bent(points: Tensor, eta: float = 0.01) -> ParamRamp:
    """Return a layer whose bends have begun at these points."""
    layer = ParamRamp((*points.shape,), eta).to(points.dtype)
    with collecting(layer):
        layer(points[None])
    layer.begin_bend()
    return layer


def ramped_network(seed: int = 0, *, with_bend: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(2, 3, 3, 2, 1),
            ParamRamp((3, 3, 3), 0.05),
            nn.Flatten(),
            nn.Linear(27, 8),
            ParamRamp((8,), 0.1),
            nn.Linear(8, CLASSES),
        )
        if with_bend:
            with collecting(made), torch.no_grad():
                made(images(20))
            for layer in ramps_of(made):
                layer.begin_bend()
    return made.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) - 1


# --- the function ----------------------------------------------------------------------------------------------------


@given(st.lists(numbers, min_size=1, max_size=5), st.floats(0, 1), st.floats(LEAST_BEND_POINT, 3))
def test_it_is_the_three_pieces(values: list[float], eta: float, bend: float) -> None:
    inputs = torch.tensor([*values, 0.0, bend], dtype=torch.float64)[:, None]
    layer = bent(torch.tensor([bend], dtype=torch.float64), eta)
    layer.double().eta.fill_(eta)
    expected = torch.tensor([[pieces(float(value), eta, bend)] for value in inputs], dtype=torch.float64)
    torch.testing.assert_close(layer(inputs), expected, rtol=0, atol=1e-14)  # a few float64 sums of numbers up to 5


@given(st.lists(numbers, min_size=1, max_size=5), st.floats(0, 1))
def test_without_a_bend_it_is_a_leaky_relu(values: list[float], eta: float) -> None:
    inputs = torch.tensor(values)[:, None]
    expected = nn.functional.leaky_relu(inputs, eta)
    torch.testing.assert_close(ParamRamp((1,), eta)(inputs), expected, rtol=0, atol=2e-6)  # float32 numbers up to 5


def test_bend_points_below_the_least_count_as_it() -> None:
    layer = bent(torch.tensor([-1.0, 0.0, 0.5]))
    with torch.no_grad():
        layer.bend_point[0] = -3.0
    least = float(np.float32(LEAST_BEND_POINT))
    assert layer.bent_at.tolist() == [least, least, 0.5]
    layer.raise_bend_points()
    assert layer.bend_point.tolist() == [least, least, 0.5]


def test_gradients_of_a_bend_point_count_the_inputs_beyond_it() -> None:
    layer = bent(torch.tensor([0.5, 0.0, -2.0]), eta=0.25)
    layer(torch.tensor([[1.0, 1.0, 1.0], [0.4, 0.4, 0.4], [-1.0, -1.0, -1.0]])).sum().backward()
    # those set to the least are not stuck there
    torch.testing.assert_close(layer.bend_point.grad, 0.75 * torch.tensor([1.0, 2.0, 2.0]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_slopes_without_a_meaning_are_refused(eta: float) -> None:
    with pytest.raises(ConfigError, match="expected eta from 0 to 1"):
        ParamRamp((1,), eta)


# --- the beginning of the bend ---------------------------------------------------------------------------------------


def test_bend_points_begin_at_the_mean_activation_negatives_included() -> None:
    layer = ParamRamp((2, 3), 0.25)
    batches = [torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(count)) + 0.5 for count in (3, 7)]
    layer.train()
    layer(torch.full((4, 2, 3), 100.0))  # nobody collects
    for batch in batches:
        with collecting(layer):
            layer(batch)
    was_bent = layer.is_bent
    assert not was_bent
    layer.begin_bend()
    assert layer.is_bent
    assert bool(layer.bends)
    mean = nn.functional.leaky_relu(torch.cat(batches), 0.25).mean(dim=0)
    assert (torch.cat(batches) < 0).any()
    torch.testing.assert_close(layer.bend_point.detach(), mean.clamp(min=LEAST_BEND_POINT), rtol=1e-6, atol=1e-7)


def test_a_bend_cannot_begin_before_anything_was_seen() -> None:
    with pytest.raises(ConfigError, match="under `collecting`"):
        ParamRamp((1,)).begin_bend()


def test_saving_in_the_midst_of_collecting_changes_nothing() -> None:
    undisturbed, first = ramped_network(1, with_bend=False), ramped_network(1, with_bend=False)
    with torch.no_grad(), collecting(undisturbed), collecting(first):
        undisturbed(images(5, 1))
        first(images(5, 1))
    second = ramped_network(2, with_bend=False)
    second.load_state_dict(first.state_dict())
    with torch.no_grad(), collecting(undisturbed), collecting(second):
        undisturbed(images(9, 2))
        second(images(9, 2))
    for layer in (*ramps_of(undisturbed), *ramps_of(second)):
        layer.begin_bend()
        layer.set_eta(0.3)
    third = ramped_network(3, with_bend=False)
    third.load_state_dict(second.state_dict())
    state = third.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in undisturbed.state_dict().items())
    for made in (second, third, copy.deepcopy(third)):
        assert all(layer.is_bent for layer in ramps_of(made))
        assert torch.equal(made(images(4, 3)), undisturbed(images(4, 3)))


def test_a_straight_state_straightens_a_bent_layer() -> None:
    made = ramped_network(1)
    made.load_state_dict(ramped_network(1, with_bend=False).state_dict())
    assert not any(layer.is_bent for layer in ramps_of(made))


# --- networks, their files and their intervals -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn-2layer", "dm-small", "fc-3"])
def test_built_networks_have_a_bend_point_for_each_neuron(name: str) -> None:
    made = NetworkConfig(name, Activation.PARAM_RAMP, (1, 8, 8), 4, takes_intervals=False).build(0)
    assert ramps_of(made)
    with collecting(made), torch.no_grad():
        assert made(torch.rand(2, 1, 8, 8)).shape == (2, 4)  # sums of another shape would be refused
    assert all(int(layer.seen_count) == 2 for layer in ramps_of(made))


@pytest.mark.parametrize("with_bend", [False, True])
def test_the_file_has_plain_operators_and_torchs_logits(with_bend: bool) -> None:
    made = ramped_network(with_bend=with_bend)
    model = traced(made, "interval", SHAPE, CLASSES)
    operators = {node.op_type for node in model.graph.node}
    plain = {"Conv", "Gemm", "Flatten", "Relu", "Mul", "Add", "Identity"}
    assert operators <= (plain | {"Sub"} if with_bend else plain)
    inputs = 3 * images(30, 5)
    logits = BlackBox(model.SerializeToString(), Provider.CPU).run(inputs.numpy())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), made(inputs), rtol=1e-5, atol=1e-5)  # float32 sums
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("with_bend", [False, True])
def test_intervals_are_the_values_at_both_ends(with_bend: bool) -> None:
    made = ramped_network(with_bend=with_bend)
    lower, labels = images(4, 7), torch.tensor([0, 1, 2, 1])
    upper = lower + 0.3
    found = interval_margins(made, Box.between(lower, upper), labels)
    assert len(found.hidden) == 2
    for _ in range(50):
        logits = made(torch.lerp(lower, upper, torch.rand_like(lower).round()))
        margins = logits.gather(1, labels[:, None]) - logits
        assert (found.lower <= margins + 1e-5).all()  # float32 sums of numbers around 1
    last = ramps_of(made)[-1]
    low, high = last(found.hidden[-1].lower), last(found.hidden[-1].upper)
    assert (low <= high).all()


def operators_of(network: nn.Module) -> set[str]:
    return {node.op_type for node in traced(network, "interval", SHAPE, CLASSES).graph.node}


def test_with_eta_0_a_file_has_no_products() -> None:
    network, points = ramped_network(), images(4)
    ramps = ramps_of(network)
    assert {"Mul", "Sub", "Relu"} <= operators_of(network)
    for layer in ramps:
        layer.set_eta(0.0)
    flat = network(points)
    assert "Mul" not in operators_of(network)
    with torch.no_grad():
        for layer in ramps:
            layer._is_flat = False
    assert torch.equal(network(points), flat)
    again = ramped_network(seed=1, with_bend=False)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(points), flat)
    assert "Mul" not in operators_of(again)


def test_a_slope_that_is_0_in_float32_is_flat_and_a_layer_without_numbers_can_be_built() -> None:
    assert ParamRamp((2,), 1e-50)._is_flat
    with torch.device("meta"):
        assert ParamRamp((2,), 0.0)(torch.zeros(1, 2)).shape == (1, 2)
