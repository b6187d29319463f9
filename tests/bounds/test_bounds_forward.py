"""LBP and CROWN-LBP: against samples, against affine networks by hand, and against auto_LiRPA's forward bounds."""

import math
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from abscert_plugin.bounds import forward
from abscert_plugin.bounds.forward import Bounds, crown_lbp_margins, lbp_bounds
from abscert_plugin.bounds.lines import Lines, ramp_lines
from abscert_plugin.errors import ConfigError
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.param_ramp import bounded_with_ramps
from abscert_plugin.lirpa.tracing import margin_rows, quiet
from abscert_plugin.networks.param_ramp import ParamRamp, collecting, ramps_of

SHAPE = (2, 4, 4)
CLASSES = 3
CLOSE = 1e-9  # of float64 sums of numbers up to a hundred


def network(seed: int, *, activation: str = "bent", bias: bool = True) -> nn.Sequential:
    """Return a small convolutional network in float64."""

    def activated(*shape: int) -> nn.Module:
        return nn.ReLU() if activation == "relu" else ParamRamp(shape, 0.1)

    made = nn.Sequential(
        nn.Conv2d(2, 3, 2, 1, 1, bias=bias),
        activated(3, 5, 5),
        nn.Conv2d(3, 2, 3, 2, 0, bias=bias),
        activated(2, 2, 2),
        nn.Flatten(),
        nn.Linear(8, 5, bias=bias),
        activated(5),
        nn.Linear(5, CLASSES, bias=bias),
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in made:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                for parameter in layer.parameters():
                    parameter.normal_(0, 1 / math.sqrt(layer.weight[0].numel()), generator=generator)
        with collecting(made):
            made(boxes(seed, 20)[0])
    if activation == "bent":
        for layer in ramps_of(made):
            layer.begin_bend()
    return made


def boxes(seed: int, count: int = 4, width: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower and upper ends, some of which are equal, and labels."""
    generator = torch.Generator().manual_seed(seed)
    lower = 2 * torch.rand((count, *SHAPE), generator=generator, dtype=torch.float64) - 1
    free = torch.rand(lower.shape, generator=generator) < 0.7
    extra = width * free * torch.rand(lower.shape, generator=generator, dtype=torch.float64)
    return lower, lower + extra, torch.randint(CLASSES, (count,), generator=generator)


def layers_at(made: nn.Sequential, points: Tensor) -> list[Tensor]:
    """Return what enters each activation, and the logits."""
    found = []
    for layer in made:
        if isinstance(layer, nn.ReLU | ParamRamp):
            found.append(points)
        points = layer(points)
    return [*found, points]


def sampled(lower: Tensor, upper: Tensor, count: int = 300) -> Tensor:
    """Return points of each box, half of them corners: [count, batch, ...]."""
    share = torch.rand((count, *lower.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share[::2] = share[::2].round()
    return lower + share * (upper - lower)


@torch.no_grad()
def are_sound(made: nn.Sequential, lower: Tensor, upper: Tensor, labels: Tensor) -> bool:
    points = sampled(lower, upper)
    seen = layers_at(made, points.flatten(0, 1))
    claims = [
        bool(((bounds.lower - CLOSE <= values) & (values <= bounds.upper + CLOSE)).all())
        for bounds, flat in zip(lbp_bounds(made, lower, upper), seen, strict=True)
        for values in [flat.unflatten(0, points.shape[:2])]
    ]
    logits = seen[-1].unflatten(0, points.shape[:2])
    margins = logits.gather(2, labels.expand(len(points), -1)[..., None]) - logits
    return all(claims) and bool((crown_lbp_margins(made, lower, upper, labels) <= margins + CLOSE).all())


# --- soundness -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.integers(0, 2**16), st.sampled_from(["relu", "straight", "bent"]), st.booleans(), st.sampled_from([0.05, 0.8])
)
def test_bounds_enclose_every_sampled_neuron_and_margin(seed: int, activation: str, bias: bool, width: float) -> None:
    assert are_sound(network(seed, activation=activation, bias=bias), *boxes(seed, width=width))


@pytest.mark.parametrize(("side", "shift"), [("lower_offset", 1e-2), ("upper_offset", -1e-2)])
def test_sampling_sees_lines_that_are_shifted_by_a_hundredth(
    monkeypatch: pytest.MonkeyPatch, side: str, shift: float
) -> None:
    def shifted(*given: Tensor) -> Lines:
        lines = ramp_lines(*given)
        return replace(lines, **{side: getattr(lines, side) + shift})

    monkeypatch.setattr(forward, "ramp_lines", shifted)
    # narrow boxes, where bounds are all but exact
    assert not are_sound(network(1), *boxes(1, width=1e-3))


@pytest.mark.parametrize("activation", ["relu", "straight", "bent"])
def test_bounds_of_a_point_are_what_the_network_computes(activation: str) -> None:
    made, (point, _, labels) = network(2, activation=activation), boxes(2)
    with torch.no_grad():
        seen = layers_at(made, point)
        for bounds, values in zip(lbp_bounds(made, point, point), seen, strict=True):
            torch.testing.assert_close(bounds.lower, values, rtol=0, atol=CLOSE)
            torch.testing.assert_close(bounds.upper, values, rtol=0, atol=CLOSE)
        margins = seen[-1].gather(1, labels[:, None]) - seen[-1]
    torch.testing.assert_close(crown_lbp_margins(made, point, point, labels), margins, rtol=0, atol=CLOSE)


# --- tightness -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 2**16), st.booleans())
def test_bounds_of_an_affine_network_are_exact(seed: int, bias: bool) -> None:
    made = nn.Sequential(*(layer for layer in network(seed, bias=bias) if not isinstance(layer, ParamRamp)))
    lower, upper, labels = boxes(seed)
    with torch.no_grad():
        zero = made(torch.zeros_like(lower[:1]))
        matrix = (made(torch.eye(32, dtype=torch.float64).reshape(32, *SHAPE)) - zero).T
        rows = matrix[labels][:, None] - matrix
        offset = zero[0, labels][:, None] - zero
    (found,) = lbp_bounds(made, lower, upper)
    low, high = lower.flatten(1), upper.flatten(1)
    positive, negative = matrix.clamp(min=0), matrix.clamp(max=0)
    torch.testing.assert_close(found.lower, low @ positive.T + high @ negative.T + zero, rtol=0, atol=CLOSE)
    torch.testing.assert_close(found.upper, high @ positive.T + low @ negative.T + zero, rtol=0, atol=CLOSE)
    least = torch.einsum("bcf,bf->bc", rows.clamp(min=0), low) + torch.einsum("bcf,bf->bc", rows.clamp(max=0), high)
    margins = crown_lbp_margins(made, lower, upper, labels)
    torch.testing.assert_close(margins, least + offset, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("activation", ["relu", "straight", "bent"])
def test_bounds_are_those_of_auto_lirpa(activation: str) -> None:
    try:
        lirpa = load_lirpa()
    except ConfigError as error:
        pytest.skip(str(error))
    made, (lower, upper, labels) = network(3, activation=activation).float(), boxes(3, width=0.6)
    lower, upper = lower.float(), upper.float()
    with quiet():
        bounded = bounded_with_ramps(
            made, lambda: lirpa.BoundedModule(made, lower[:2], bound_opts={"conv_mode": "matrix"})
        )
    norm = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
    compute = partial(bounded.compute_bounds, x=(lirpa.BoundedTensor(lower, norm),))
    with torch.no_grad(), quiet():
        low, high = compute(method="forward")
        margins = compute(method="forward+backward", C=margin_rows(CLASSES)[labels], bound_upper=False)[0]
    logits = lbp_bounds(made, lower, upper)[-1]
    assert isinstance(logits, Bounds)
    # float32 sums of numbers up to ten
    torch.testing.assert_close(logits.lower, low, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.upper, high, rtol=1e-5, atol=1e-5)
    found = crown_lbp_margins(made, lower, upper, labels)
    assert torch.equal(found.gather(1, labels[:, None]), torch.zeros(len(labels), 1))
    others = found[labels[:, None] != torch.arange(CLASSES)].reshape(len(labels), -1)
    torch.testing.assert_close(others, margins, rtol=1e-4, atol=1e-4)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_other_layers_are_refused() -> None:
    made = nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.Sigmoid(), nn.Linear(4, CLASSES)).double()
    lower, upper, labels = boxes(0)
    with pytest.raises(ConfigError, match=r"Linear, Conv2d, Flatten, ReLU, ParamRamp for LBP, got Sigmoid"):
        crown_lbp_margins(made, lower, upper, labels)
    padded = nn.Sequential(nn.Conv2d(2, 1, 3, padding="same"), nn.Flatten(), nn.Linear(16, CLASSES)).double()
    with pytest.raises(ConfigError, match="padding in pixels, got 'same'"):
        crown_lbp_margins(padded, lower, upper, labels)


def test_what_is_not_a_number_claims_nothing() -> None:
    made, (lower, upper, labels) = network(4), boxes(4)
    with torch.no_grad():
        cast(nn.Linear, made[0]).bias[0] = torch.nan
    found = crown_lbp_margins(made, lower, upper, labels)
    others = labels[:, None] != torch.arange(CLASSES)
    assert bool((found[others] == -torch.inf).all())
