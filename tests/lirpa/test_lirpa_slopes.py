"""CROWN-IBP with chosen slopes: sound for any of them, equal to a pass written out here, and differentiable in them."""

import copy
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from box_oracle import CLASSES, SHAPE, assert_below, boxes, lirpa_or_skip, network, sampled_least_margins
from torch import Tensor, nn

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.lirpa.slopes import SlopedMargins, Slopes, stepped_to_ends
from abscert_plugin.lirpa.training import CrownIbpMargins

lirpa = lirpa_or_skip()
# float32 sums of a few dozen numbers around 1, in another order than float64's
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def without_label(found: Tensor, labels: Tensor) -> Tensor:
    """Return the margins against the other classes."""
    return torch.stack(
        [torch.cat([row[:label], row[label + 1 :]]) for row, label in zip(found, labels.tolist(), strict=True)]
    )


def dense_net(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """Return linear layers with ReLUs between them, whose weights are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for enters, leaves in pairwise(widths):
        layers += [nn.Linear(enters, leaves), nn.ReLU()]
    made = nn.Sequential(*layers[:-1])
    for parameter in made.parameters():
        with torch.no_grad():
            parameter.normal_(0, 1, generator=generator)
    return made


def dense_case(widths: tuple[int, ...], seed: int, count: int = 4) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Return a dense network, boxes that leave many of its neurons unstable, and labels."""
    generator = torch.Generator().manual_seed(seed + 1)
    center = 2 * torch.rand((count, widths[0]), generator=generator) - 1
    radius = 0.4 * torch.rand((count, widths[0]), generator=generator)
    return (
        dense_net(widths, seed),
        center - radius,
        center + radius,
        torch.randint(widths[-1], (count,), generator=generator),
    )


def written_out(made: nn.Sequential, lower: Tensor, upper: Tensor, labels: Tensor, slopes: Slopes) -> Tensor:
    """Return the margins' bounds by one backward pass over interval bounds, for one image and margin after another.

    It runs in the type of the weights, and takes slopes as they are.
    """
    linears = [cast(nn.Linear, layer) for layer in list(made)[::2]]
    dtype = linears[0].weight.dtype
    rows = []
    for image, label in enumerate(labels.tolist()):
        ends = [(lower[image].to(dtype), upper[image].to(dtype))]
        before = []
        for layer in linears[:-1]:
            low, high = ends[-1]
            positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
            before.append(
                (positive @ low + negative @ high + layer.bias, positive @ high + negative @ low + layer.bias)
            )
            ends.append((before[-1][0].clamp(min=0), before[-1][1].clamp(min=0)))
        row = []
        for other in range(len(linears[-1].weight)):
            line = linears[-1].weight[label] - linears[-1].weight[other]
            offset = linears[-1].bias[label] - linears[-1].bias[other]
            for number in reversed(range(len(linears) - 1)):
                low, high = before[number]
                unstable, active = (low < 0) & (high > 0), low >= 0
                upper_slope = torch.where(unstable, high / torch.where(unstable, high - low, 1), active.to(dtype))
                lower_slope = torch.where(unstable, slopes[number][image].to(dtype), active.to(dtype))
                offset = offset + (line.clamp(max=0) * upper_slope * -low * unstable).sum()
                line = line.clamp(min=0) * lower_slope + line.clamp(max=0) * upper_slope
                offset = offset + line @ linears[number].bias
                line = line @ linears[number].weight
            low, high = ends[0]
            row.append(line.clamp(min=0) @ low + line.clamp(max=0) @ high + offset)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def kinds_of_slopes(bounds: SlopedMargins, count: int, seed: int) -> dict[str, Slopes]:
    drawn = bounds.random_slopes(count, torch.Generator().manual_seed(seed))
    return {
        "drawn": drawn,
        "ends": tuple(slope.round() for slope in drawn),
        "zero": tuple(torch.zeros_like(slope) for slope in drawn),
        "one": tuple(torch.ones_like(slope) for slope in drawn),
    }


# --- soundness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "residual", "max-pool", "convolution-last", "batch-norm"])
def test_bounds_hold_for_any_slopes_from_0_to_1(name: str) -> None:
    net = network(name)
    bounds = SlopedMargins(net, torch.zeros(1, *SHAPE), CLASSES)
    for seed in range(3):
        lower, upper, labels = boxes(4, 0.5, seed)
        least = sampled_least_margins(net, lower, upper, labels, 200)
        for slopes in kinds_of_slopes(bounds, 4, seed).values():
            found = bounds.lower(lower, upper, labels, slopes)
            assert torch.equal(found.gather(1, labels[:, None]), torch.zeros(4, 1))
            assert_below(without_label(found.detach(), labels), least)


def steep_net() -> nn.Sequential:
    """Return a network whose margin relu(x) - 1.2 x is -0.2 at least for x from -1 to 1; x is relu(x + 2) - 2."""
    first, last = nn.Linear(1, 2), nn.Linear(2, 2)
    made = nn.Sequential(first, nn.ReLU(), last)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [1.0]]))
        first.bias.copy_(torch.tensor([0.0, 2.0]))
        last.weight.copy_(torch.tensor([[1.0, -1.2], [0.0, 0.0]]))
        last.bias.copy_(torch.tensor([2.4, 0.0]))
    return made


def test_a_slope_above_1_counts_as_1_and_would_not_be_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (lower, upper, labels) = steep_net(), (-torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0]))
    bounds = SlopedMargins(made, lower, 2)
    planted, highest = (torch.full((1, 2), 1.3),), (torch.ones(1, 2),)
    least = sampled_least_margins(made, lower, upper, labels)
    kept = bounds.lower(lower, upper, labels, planted).detach()
    assert torch.equal(kept, bounds.lower(lower, upper, labels, highest))
    assert_below(without_label(kept, labels), least)

    def unclipped(
        below: Tensor, above: Tensor, low: Tensor, high: None, **options: object
    ) -> tuple[Tensor, None, bool]:
        active, unstable = below >= 0, (below < 0) & (above > 0)
        return low * unstable + active, high, False

    monkeypatch.setattr(type(bounds._bounded.relus[0]), "_relu_mask_alpha", staticmethod(unclipped))
    broken = bounds.lower(lower, upper, labels, planted).detach()
    torch.testing.assert_close(broken, written_out(made, lower, upper, labels, planted).detach(), **CLOSE)
    with pytest.raises(AssertionError, match=r"a bound is 0\.1 too high"):
        assert_below(without_label(broken, labels), least)


# --- values and gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(3, 5, 3), (3, 6, 5, 3), (2, 4, 4, 4, 5)])
def test_bounds_are_those_of_a_pass_written_out(widths: tuple[int, ...]) -> None:
    for seed in range(3):
        made, lower, upper, labels = dense_case(widths, seed)
        bounds, exact = SlopedMargins(made, lower, widths[-1]), copy.deepcopy(made).double()
        for slopes in kinds_of_slopes(bounds, len(labels), seed).values():
            found = bounds.lower(lower, upper, labels, slopes)
            expected = written_out(exact, lower, upper, labels, slopes)
            torch.testing.assert_close(found.double(), expected, **CLOSE)
            # the weights as well: the loss is of one graph
            got = torch.autograd.grad(found.sin().sum(), list(made.parameters()))
            wanted = torch.autograd.grad(expected.sin().sum(), list(exact.parameters()))
            for one, other in zip(got, wanted, strict=True):
                torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4)  # as above, and products of them


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_the_slopes_are_finite_differences(seed: int) -> None:
    made, lower, upper, labels = dense_case((4, 8, 6, 3), seed, count=3)
    bounds, exact = SlopedMargins(made, lower, 3), copy.deepcopy(made).double().requires_grad_(False)
    slopes = tuple(slope.requires_grad_() for slope in bounds.random_slopes(3, torch.Generator().manual_seed(seed)))
    gradients = torch.autograd.grad(bounds.lower(lower, upper, labels, slopes).sin().sum(), slopes)
    assert sum(int((gradient != 0).sum()) for gradient in gradients) >= 4
    step = 1e-6  # of float64 numbers around 1: the quotients below are right to about nine digits

    def value(moved: list[Tensor]) -> float:
        return float(written_out(exact, lower, upper, labels, tuple(moved)).sin().sum())

    for number, gradient in enumerate(gradients):
        for place in range(gradient.numel()):
            moved = [[slope.detach().double().clone() for slope in slopes] for _ in range(2)]
            for sign, parts in zip((1, -1), moved, strict=True):
                parts[number].view(-1)[place] += sign * step
            quotient = (value(moved[0]) - value(moved[1])) / (2 * step)
            assert float(gradient.reshape(-1)[place]) == pytest.approx(quotient, rel=1e-3, abs=1e-4)  # float32 sums


def test_a_step_ends_at_1_against_the_gradient_at_0_along_it_and_stays_without_one() -> None:
    slopes = (torch.tensor([0.2, 0.9, 0.3, 0.0, 1.0]), torch.tensor([[0.5]]).requires_grad_())
    gradients = (torch.tensor([-1e-12, 3.0, 0.0, 2.0, -7.0]), torch.tensor([[0.0]]))
    first, second = stepped_to_ends(slopes, gradients)
    assert first.tolist() == pytest.approx([1.0, 0.0, 0.3, 0.0, 1.0], abs=1e-7)
    assert second.tolist() == [[0.5]]
    assert not second.requires_grad


# --- what it shares and what it leaves ----------------------------------------------------------------------------


def test_bounds_follow_the_weights() -> None:
    made, lower, upper, labels = dense_case((3, 6, 5, 3), 1)
    bounds = SlopedMargins(made, lower, 3)
    slopes = bounds.random_slopes(4)
    optimiser = torch.optim.SGD(made.parameters(), lr=0.05)
    for _ in range(3):
        found = bounds.lower(lower, upper, labels, slopes)
        torch.testing.assert_close(found, written_out(made, lower, upper, labels, slopes), **CLOSE)
        optimiser.zero_grad()
        (-found).sum().backward()
        optimiser.step()
    assert not torch.allclose(bounds.lower(lower, upper, labels, slopes), found)


def test_nothing_is_left_behind() -> None:
    made, lower, upper, labels = dense_case((3, 6, 5, 3), 2)
    weights, drawn = copy.deepcopy(made.state_dict()), torch.get_rng_state()
    bounds = SlopedMargins(made, lower, 3)
    assert torch.equal(torch.get_rng_state(), drawn)
    plain = CrownIbpMargins(made, lower, 3)
    plain._bounded = bounds._bounded
    expected = CrownIbpMargins(made, lower, 3).lower(lower, upper, labels)
    slopes = bounds.random_slopes(4)
    found = bounds.lower(lower, upper, labels, slopes)
    assert torch.equal(plain.lower(lower, upper, labels), expected)
    with pytest.raises(ValueError, match="zip"):
        bounds.lower(lower, upper, labels, slopes[:1])
    assert torch.equal(plain.lower(lower, upper, labels), expected)
    assert torch.equal(bounds.lower(lower, upper, labels, slopes), found)
    assert all(torch.equal(value, weights[name]) for name, value in made.state_dict().items())


def test_other_batches_and_dead_layers_are_bounded() -> None:
    made, lower, upper, labels = dense_case((3, 6, 5, 3), 3, count=6)
    bounds = SlopedMargins(made, lower, 3)
    for count in (6, 1, 3):
        slopes = tuple(slope.requires_grad_() for slope in bounds.random_slopes(count))
        found = bounds.lower(lower[:count], upper[:count], labels[:count], slopes)
        expected = written_out(made, lower[:count], upper[:count], labels[:count], slopes)
        torch.testing.assert_close(found, expected, **CLOSE)
    for dead in (2, 0):
        with torch.no_grad():
            cast(nn.Linear, made[dead]).bias.fill_(-100)
        slopes = tuple(slope.requires_grad_() for slope in bounds.random_slopes(6))
        found = bounds.lower(lower, upper, labels, slopes)
        bias = cast(nn.Linear, made[4]).bias
        torch.testing.assert_close(found, bias[labels][:, None] - bias, **CLOSE)
        gradients = torch.autograd.grad(found.sum(), slopes, allow_unused=True, materialize_grads=True)
        assert not any(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize(("name", "words"), [("tanh", "a network with a ReLU"), ("batch-norm", "BatchNorm")])
def test_networks_without_relu_or_whose_statistics_change_are_refused(name: str, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        SlopedMargins(network(name).train(), torch.zeros(1, *SHAPE), CLASSES)
