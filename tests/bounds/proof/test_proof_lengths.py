"""How much maps lengthen vectors, by numpy's singular values, and margins by lengths, by errors as they may be."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import CLASSES, SHAPE, export_tiny
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import arithmetic, lengths, tightening
from abscert_plugin.bounds.proof.lengths import LengthsPass, Near
from abscert_plugin.bounds.proof.maps import Convolution, LinearMap, Matrix, Scale, Weights
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.spectral import row_lengths, stretch
from abscert_plugin.verification.proving import Prover

CELLS = 3
WIDTH = 300


def weights(values: torch.Tensor) -> Weights:
    return Weights(values, values.abs(), None)


def matrix_of(linear: LinearMap, shape: tuple[int, ...]) -> np.ndarray:
    """Return a map as a matrix, by what it gives of each unit vector."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return linear.apply(linear.weights.center, units).flatten(1).T.numpy()


def convolution(
    values: torch.Tensor, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Convolution:
    axes = values.ndim - 2
    options = {"stride": (stride,) * axes, "padding": (padding,) * axes, "dilation": (dilation,) * axes}
    return Convolution(weights(values), options | {"groups": groups})


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Convolution, tuple[int, ...]]:
    """Return a convolution, and the shape of what it reads."""
    axes, groups = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2]))
    inputs, outputs, kernel = (draw(st.integers(1, 3)) for _ in range(3))
    stride, padding, dilation = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 2))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn((outputs * groups, inputs, *(kernel,) * axes), generator=chance, dtype=torch.float64)
    side = dilation * (kernel - 1) + 1 + draw(st.integers(0, 7))
    return convolution(values, stride, padding, dilation, groups), (inputs * groups, *(side,) * axes)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_no_convolution_lengthens_more_than_its_bound(case: tuple[Convolution, tuple[int, ...]]) -> None:
    linear, shape = case
    matrix = matrix_of(linear, shape)
    assert np.linalg.norm(matrix, 2) <= stretch(linear)
    rows = np.linalg.norm(matrix, axis=1).reshape(linear.weights.center.shape[0], -1)
    assert (rows <= row_lengths(linear).reshape(-1, 1).numpy()).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 9), (30, 7), (7, 30), (50, 50)])
def test_the_bound_of_a_matrix_is_close(rows: int, columns: int) -> None:
    linear = Matrix(
        weights(torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    )
    exact = np.linalg.norm(linear.weights.center.numpy(), 2)
    assert exact <= stretch(linear) < 1.04 * exact
    assert (np.linalg.norm(linear.weights.center.numpy(), axis=0) <= row_lengths(linear).numpy()).all()


def test_the_bound_of_a_convolution_is_close_on_large_images() -> None:
    linear = convolution(torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 2, 1)
    exact = np.linalg.norm(matrix_of(linear, (3, 24, 24)), 2)
    assert exact <= stretch(linear) < 1.1 * exact


def test_what_is_not_known_has_the_bound_of_sums() -> None:
    factors = torch.tensor([[3.0, -5.0, 1.0]], dtype=torch.float64)
    assert 5 <= stretch(Scale(weights(factors))) < 5.01
    deep = convolution(torch.ones(2, 2, 2, 2, 2, dtype=torch.float64))
    assert np.linalg.norm(matrix_of(deep, (2, 3, 3, 3)), 2) <= stretch(deep) <= 16.01


def between_frequencies() -> None:
    """Hold bounds to convolutions whose largest gain lies between two of the frequencies that are looked at."""
    frequencies, seen = np.linspace(0, 2 * math.pi, 2001), []
    for seed in range(60):
        taps = np.random.default_rng(seed).standard_normal(3)
        gains, asked = np.abs(np.exp(1j * np.outer(frequencies, range(3))) @ taps), np.abs(np.fft.fft(taps, 32))
        seen.append((gains.max() / asked.max(), seed, taps))
    _, _, taps = max(seen, key=lambda one: one[0])
    linear = convolution(torch.from_numpy(taps).reshape(1, 1, 3))
    assert np.linalg.norm(matrix_of(linear, (1, 600)), 2) <= stretch(linear)


def test_gains_between_frequencies_are_bounded() -> None:
    between_frequencies()


def test_the_oracle_sees_a_bound_of_the_frequencies_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "cos", lambda _: 1.0)
    with pytest.raises(AssertionError):
        between_frequencies()


# --- margins ----------------------------------------------------------------------------------------------------------


def deep(function: type[nn.Module], folder: Path, scale: float) -> tuple[Artifact, nn.Sequential]:
    """Return a classifier of five wide layers, as a file and in float64."""
    generator, layers = (
        torch.Generator().manual_seed(0),
        list[nn.Module]([nn.Flatten(), nn.Linear(8, WIDTH), function()]),
    )
    for _ in range(4):
        layers += [nn.Linear(WIDTH, WIDTH), function()]
    network = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, scale, generator=generator)
    artifact = Artifact.open(export_tiny(network, CELLS, folder).deploy, Provider.CPU)
    return artifact, network.double()


def margin_of_an_evaluation(network: nn.Sequential, held: torch.Tensor, label: int, other: int) -> float:
    """Return a margin where each sum errs by as much as any order of it may, so that the margin falls."""
    layers = list(network.children())[1:]
    dense = [layer for layer in layers if isinstance(layer, nn.Linear)]
    errors = [torch.zeros(len(layer.bias), dtype=torch.float64) for layer in dense]
    for _ in range(2):  # which way the margin falls hangs on the errors themselves
        value, kept, sizes = held.double().flatten(), list[torch.Tensor](), list[torch.Tensor]()
        for layer in layers:
            if isinstance(layer, nn.Linear):
                sizes.append(layer.weight.abs() @ value.abs() + layer.bias.abs())
                kept.append(errors[len(kept)].clone().requires_grad_())
                value = layer(value) + kept[-1]
            else:
                value = layer(value)
        margin = value[label] - value[other]
        gradients = torch.autograd.grad(margin, kept)
        shares = [arithmetic.gamma(layer.in_features + 1) for layer in dense]
        parts = zip(gradients, shares, sizes, strict=True)
        errors = [-slope.sign() * share * size.detach() for slope, share, size in parts]
    return float(margin.detach())


def oracle(function: type[nn.Module], scale: float, folder: Path) -> np.ndarray:
    """Raise if a margin that an evaluation may have is below its bound; return bounds, and those of intervals."""
    artifact, network = deep(function, folder, scale)
    prover, chance = Prover(artifact), np.random.default_rng(0)
    points = chance.integers(0, CELLS, (12, *SHAPE)).astype(np.uint8)
    labels = torch.from_numpy(artifact.run_images(artifact.front.images(points)).argmax(1))
    held, _ = prover._ends(points, points)
    bounds = prover._proof.margins_by_length(held, labels)
    lines = [prover._proof.linear_margins_at(held, labels, narrow) for narrow in (0, 1000)]
    intervals = prover._proof.margins(held, held, labels, BoundMethod.IBP)
    for row, label in enumerate(labels.tolist()):
        for column, other in enumerate(other for other in range(CLASSES) if other != label):
            least = margin_of_an_evaluation(network, held[row], label, other)
            for found in (bounds, *lines):
                assert found[row, column] <= least
    return np.stack([bounds.numpy(), lines[0].numpy(), lines[1].numpy(), intervals.numpy()])


@pytest.mark.parametrize(
    ("function", "scale"), [(nn.Tanh, 0.13), (nn.Sigmoid, 0.4), (nn.ReLU, 0.13), (nn.LeakyReLU, 0.13)]
)
def test_no_evaluation_has_a_margin_below_its_bounds(function: type[nn.Module], scale: float, tmp_path: Path) -> None:
    assert np.isfinite(oracle(function, scale, tmp_path)).all()


def test_lengths_show_what_intervals_lose_of_wide_layers(tmp_path: Path) -> None:
    bounds, lines, narrow, intervals = oracle(nn.Tanh, 0.13, tmp_path)
    assert np.median(bounds - intervals) > 10
    assert np.median(lines - bounds) > 0.5
    assert np.median(narrow - lines) > 0.05


@pytest.mark.parametrize("products", [0, 4 * WIDTH**3, 2**33])
def test_passes_from_narrow_layers_that_stop_early_are_bounds_too(
    products: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tightening, "_PRODUCTS", products)
    _, lines, narrow, _ = oracle(nn.Tanh, 0.13, tmp_path)
    gained = float(np.median(narrow - lines))
    expected = {0: (-1e-9, 1e-9), 4 * WIDTH**3: (0.02, 0.08), 2**33: (0.05, 0.5)}[products]
    assert expected[0] <= gained <= expected[1]


def no_errors(patch: pytest.MonkeyPatch) -> None:
    right = lengths._length
    patch.setattr(lengths, "_length", lambda values: 0 * right(values))


def no_length_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lengths, "stretch", lambda _: 0.0)


def no_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lengths, "row_lengths", lambda linear: 0 * row_lengths(linear))


MUTATIONS: list[Callable[[pytest.MonkeyPatch], None]] = [no_errors, no_length_before, no_rows]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda value: value.__name__)
def test_the_oracle_sees_a_pass_without_a_term(
    monkeypatch: pytest.MonkeyPatch, mutation: Callable[[pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError):
        oracle(nn.Tanh, 0.13, tmp_path)


def test_a_move_that_repeats_entries_lengthens_a_difference() -> None:
    move = Move("twice", "once", lambda values: torch.cat([values, values[:, :1]], 1))
    known = Near(torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2).double(), torch.tensor([1.0]).double())
    found = LengthsPass([move], "once", "twice", torch.float64)._made(move, known)
    assert found is not None
    assert 2**0.5 <= float(found.length[0]) < 1.415
