"""Interval arithmetic of training, against positive and negative weights by hand in float64, and against samples."""

from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box, interval_margins, warmup_regulariser
from abscert_plugin.errors import ConfigError

CLASSES = 3


def network(
    seed: int, activation: type[nn.Module] = nn.ReLU, *, pooled: bool = False, bias: bool = True
) -> nn.Sequential:
    """Return a small convolutional network of images of 2 channels and 4 x 4 pixels, in float64."""
    pool = [nn.MaxPool2d(2)] if pooled else []
    size = 3 * 9 if not pooled else 3
    layers = [
        nn.Conv2d(2, 3, 2, padding=0, bias=bias),
        activation(),
        *pool,
        nn.Flatten(),
        nn.Linear(size, 5, bias=bias),
    ]
    made = nn.Sequential(*layers, activation(), nn.Linear(5, CLASSES, bias=bias)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 1, generator=generator)
    return made


def boxes(seed: int, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower and upper ends, some of which are equal, and labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2, 4, 4)
    center = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    width = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.2
    width = width * (torch.rand(shape, generator=generator) < 0.7)
    return center - width, center + width, torch.randint(CLASSES, (count,), generator=generator)


def affine_by_hand(weight: Tensor, bias: Tensor | None, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    shift = torch.zeros(len(weight), dtype=low.dtype) if bias is None else bias
    return low @ positive.T + high @ negative.T + shift, high @ positive.T + low @ negative.T + shift


def margins_by_hand(made: nn.Sequential, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """Return bounds of the margins; a convolution is written out as a matrix, by its values on unit images."""
    *layers, last = made
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            count, shape = low[0].numel(), low.shape[1:]
            unit = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
            zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
            matrix = (layer(unit) - zero).reshape(count, -1).T
            ends = affine_by_hand(matrix, zero.flatten(), low.flatten(1), high.flatten(1))
            low, high = (end.reshape(-1, *zero.shape[1:]) for end in ends)
        elif isinstance(layer, nn.Linear):
            low, high = affine_by_hand(layer.weight, layer.bias, low, high)
        else:
            low, high = layer(low), layer(high)
    rows = []
    for row, label in enumerate(labels.tolist()):
        matrix, offset = cast(Tensor, last.weight), cast(Tensor | None, last.bias)
        weight = matrix[label] - matrix
        bias = None if offset is None else offset[label] - offset
        rows.append(affine_by_hand(weight, bias, low[row : row + 1], high[row : row + 1])[0][0])
    return torch.stack(rows)


def sampled_margins(made: nn.Sequential, low: Tensor, high: Tensor, labels: Tensor, count: int = 200) -> Tensor:
    """Return the least margins over random points, half of them corners, of each box."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand((count, *low.shape), generator=generator, dtype=torch.float64)
    share[::2] = share[::2].round()
    logits = made((low + share * (high - low)).flatten(0, 1)).reshape(count, len(low), CLASSES)
    own = logits.gather(2, labels.expand(count, -1)[..., None])
    return (own - logits).amin(dim=0)


kinds = st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Tanh])


@settings(max_examples=40)
@given(st.integers(0, 10**6), kinds, st.booleans(), st.booleans())
def test_bounds_are_those_by_hand_and_hold_for_samples(
    seed: int, activation: type[nn.Module], pooled: bool, bias: bool
) -> None:
    made, (low, high, labels) = network(seed, activation, pooled=pooled, bias=bias), boxes(seed)
    with torch.no_grad():
        found = interval_margins(made, Box.between(low, high), labels)
        # sums in another order, of numbers of up to a thousand
        torch.testing.assert_close(found.lower, margins_by_hand(made, low, high, labels), rtol=1e-10, atol=1e-10)
        assert (found.lower <= sampled_margins(made, low, high, labels) + 1e-10).all()
    assert (found.lower.gather(1, labels[:, None]) == 0).all()
    assert len(found.hidden) == 2


def test_bounds_that_are_too_high_are_seen_by_the_samples() -> None:
    made, (low, high, labels) = network(1), boxes(1)
    with torch.no_grad():
        half = interval_margins(made, Box((low + high) / 2, (high - low) / 20), labels).lower
        assert not (half <= sampled_margins(made, low, high, labels) + 1e-10).all()


def test_a_point_has_the_margins_of_its_logits() -> None:
    made, (low, _, labels) = network(2, nn.Tanh, pooled=True), boxes(2)
    with torch.no_grad():
        logits = made(low)
        expected = logits.gather(1, labels[:, None]) - logits
        torch.testing.assert_close(
            interval_margins(made, Box.between(low, low), labels).lower, expected, rtol=1e-12, atol=1e-12
        )


def test_gradients_are_those_of_finite_differences() -> None:
    made, (low, high, labels) = network(3, nn.Sigmoid), boxes(3)
    box = Box.between(low, high)
    weight = cast(nn.Linear, made[-3]).weight
    interval_margins(made, box, labels).lower.sum().backward()
    step = 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[0, 0] += sign * step
            values.append(float(interval_margins(made, box, labels).lower.sum()))
            weight[0, 0] -= sign * step
    assert float(cast(Tensor, weight.grad)[0, 0]) == pytest.approx(
        (values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7
    )


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Flatten(), nn.Linear(32, 3), nn.ReLU()], "ends with a linear layer, got ReLU"),
        ([nn.Flatten(), nn.Softplus(), nn.Linear(32, 3)], "no interval arithmetic for the layer Softplus"),
    ],
)
def test_networks_without_interval_arithmetic_are_refused(layers: list[nn.Module], words: str) -> None:
    low, high, labels = boxes(0)
    with pytest.raises(ConfigError, match=words):
        interval_margins(nn.Sequential(*layers).double(), Box.between(low, high), labels)


# --- the regulariser of the warm-up -------------------------------------------------------------------------------


def box_of(center: list[float], radius: list[float]) -> Box:
    return Box(torch.tensor([center]), torch.tensor([radius]))


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        # as wide as the input, none stable: nothing to penalise
        (box_of([0.0, 0.0], [1.0, 1.0]), 0.0),
        # four times as wide: growth 1/4, (0.5 - 0.25) / 0.5
        (box_of([0.0, 0.0], [4.0, 4.0]), 0.5),
        # one above by 3, one below by 3: in balance
        (box_of([3.0, -3.0], [1.0, 1.0]), 0.0),
        # 5 above and -1.25 below: balance 1/4; about the mean 1.875 both deviate by 3.125
        (box_of([5.0, -1.25], [1.0, 1.0]), 0.5),
        # 4, 4, -8 about the mean 0: balance 1; deviations 32 and 64: 1/2, at the tolerance
        (box_of([4.0, 4.0, -8.0], [1.0, 1.0, 1.0]), 0.0),
        # all active: no ratio, counted as 1
        (box_of([4.0, 4.0], [1.0, 1.0]), 0.0),
    ],
)
def test_the_regulariser_is_that_by_hand(hidden: Box, expected: float) -> None:
    entering = box_of([0.0, 0.0], [1.0, 1.0])
    assert float(warmup_regulariser(entering, (hidden,))) == pytest.approx(expected, abs=1e-6)
    wide = box_of([0.0, 0.0], [4.0, 4.0])
    assert float(warmup_regulariser(entering, (hidden, wide))) == pytest.approx((expected + 0.5) / 2, abs=1e-6)


@pytest.mark.parametrize("radius", [0.0, 1e-20, 0.1])
def test_gradients_of_the_regulariser_are_finite(radius: float) -> None:
    made, (low, _, labels) = network(4), boxes(4)
    box = Box(low, torch.full_like(low, radius))
    warmup_regulariser(box, interval_margins(made, box, labels).hidden).backward()
    grads = [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
    assert grads
    assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.slow
def test_the_same_step_has_the_same_bits_on_several_threads() -> None:
    """Gradients that threads add up in any order make a resumed training another one."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    center, labels = torch.rand(256, 64), torch.randint(0, 10, (256,))
    box = Box(center, torch.full_like(center, 0.05))

    def gradients() -> bytes:
        network.zero_grad()
        functional.cross_entropy(-interval_margins(network, box, labels).lower, labels).backward()
        return b"".join(cast(Tensor, weight.grad).numpy().tobytes() for weight in network.parameters())

    torch.set_num_threads(2)
    try:
        assert len({gradients() for _ in range(30)}) == 1
    finally:
        torch.set_num_threads(threads)
