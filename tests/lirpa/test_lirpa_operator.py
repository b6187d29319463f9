"""phi as bounded operators: bit-identical forward, sound bounds of the deployed classifier, and what must be seen."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from box_oracle import assert_below, lirpa_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import edge_pixels, grids, pixel_images
from tiny_networks import SHAPE, tiny_network
from torch import Tensor, nn

from abscert_plugin.abstraction import Abstraction
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa import operator
from abscert_plugin.lirpa.operator import DeployedClassifier, bound_class, phi_operators
from abscert_plugin.lirpa.tracing import check_bounded_forward, quiet

lirpa = lirpa_or_skip()
PLAIN_METHODS = ["IBP", "CROWN-IBP", "CROWN"]
METHODS = [*PLAIN_METHODS, "CROWN-Optimized"]
LookUp = Callable[[Tensor], Tensor]
Change = Callable[[str, LookUp], LookUp]
UNEVEN = Grid.from_inner_edges([0.1, 0.15, 0.8])
# Version 0.3 fails now and then to optimise where slopes of stable neurons are left out.
OPTIONS = {"sparse_features_alpha": False, "sparse_spec_alpha": False, "optimize_bound_args": {"iteration": 3}}


def convolutional_network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 3, 2, 1, 1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        ).eval()


def wrapped(module: nn.Module, mode: str = "patches", shape: tuple[int, ...] = SHAPE) -> Any:
    with quiet():
        return lirpa.BoundedModule(module, torch.zeros(2, *shape), bound_opts={"conv_mode": mode, **OPTIONS})


def bounds_of(bounded: Any, lower: Tensor, upper: Tensor, method: str) -> tuple[Tensor, Tensor]:
    box = lirpa.BoundedTensor((lower + upper) / 2, lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper))
    with quiet():
        low, high = bounded.compute_bounds(x=(box,), method=method)
    return low.detach(), high.detach()


def ball(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    return (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)


def images_of(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def reachable_logits(net: nn.Module, grid: Grid, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the logits of every combination of cells that one box of images [1, 2, 2] reaches."""
    low, high = grid.cell(lower.numpy()), grid.cell(upper.numpy())
    spans = [range(first, last + 1) for first, last in zip(low.flat, high.flat, strict=True)]
    cells = np.array(list(product(*spans)), dtype=np.uint8).reshape(-1, *SHAPE)
    with torch.no_grad():
        return net(torch.from_numpy(grid.ends(cells)))


def assert_encloses(low: Tensor, high: Tensor, logits: Tensor) -> None:
    assert_below(low, logits.amin(0))
    assert_below(-high, -logits.amax(0))


# --- forward ---------------------------------------------------------------------------------------------------------


@given(grid=grids(), data=st.data())
def test_the_operators_are_phi_bit_for_bit(grid: Grid, data: st.DataObject) -> None:
    images = torch.from_numpy(data.draw(pixel_images(grid)))[None]
    lower, upper = phi_operators(grid)
    assert torch.equal(torch.cat([lower.apply(images), upper.apply(images)], dim=1), Abstraction(grid)(images))


@pytest.mark.parametrize("grid", [Grid(1), Grid(2), Grid(10), Grid(255), UNEVEN], ids=str)
def test_traced_operators_are_phi_next_to_every_edge(grid: Grid) -> None:
    bounded = wrapped(DeployedClassifier(nn.Flatten(), grid))
    pixels = torch.from_numpy(edge_pixels(grid))
    images = nn.functional.pad(pixels, (0, -len(pixels) % 4)).reshape(-1, *SHAPE)
    assert torch.equal(bounded(images), Abstraction(grid)(images).flatten(1))


@pytest.mark.parametrize("mode", ["patches", "matrix"])
def test_the_bounded_forward_is_that_of_the_deployed_classifier(mode: str) -> None:
    net = convolutional_network()
    module = DeployedClassifier(net, Grid(5))
    images = images_of(50)
    assert torch.equal(module(images), net(Abstraction(Grid(5))(images)))
    check_bounded_forward(wrapped(module, mode), module, images)


def test_the_gradient_goes_straight_through_phi() -> None:
    network, images = nn.Sequential(tiny_network(0), nn.Tanh()), images_of(3).requires_grad_()
    interval = Abstraction(UNEVEN)(images.detach()).requires_grad_()
    (by_pixel,) = torch.autograd.grad(DeployedClassifier(network, UNEVEN)(images)[:, 0].sum(), images)
    (by_end,) = torch.autograd.grad(network(interval)[:, 0].sum(), interval)
    torch.testing.assert_close(by_pixel, 2 * by_end[:, :1] + 2 * by_end[:, 1:])


def test_two_grids_in_one_process_keep_their_own_edges() -> None:
    net, images = tiny_network(0), images_of(50)
    modules = [DeployedClassifier(net, grid) for grid in (Grid(4), UNEVEN)]
    for module in (*modules, *reversed(modules)):
        check_bounded_forward(wrapped(module), module, images)
    assert not torch.equal(modules[0](images), modules[1](images))


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=12)
@given(grid=grids(most=8) | st.just(UNEVEN), seed=st.integers(0, 2**16), radius=st.sampled_from([0.01, 0.1, 0.25]))
def test_bounds_enclose_the_logits_of_every_reachable_combination(grid: Grid, seed: int, radius: float) -> None:
    net = tiny_network(seed)
    bounded = wrapped(DeployedClassifier(net, grid))
    lower, upper = ball(images_of(2, seed), radius)
    for method in METHODS:
        low, high = bounds_of(bounded, lower, upper, method)
        for row in range(2):
            assert_encloses(low[row], high[row], reachable_logits(net, grid, lower[row], upper[row]))


@pytest.mark.parametrize(
    ("method", "mode"), [*product(PLAIN_METHODS, ["patches", "matrix"]), ("CROWN-Optimized", "patches")]
)
@pytest.mark.parametrize("grid", [Grid(2), Grid(10), UNEVEN], ids=["2", "10", "uneven"])
def test_bounds_of_a_convolutional_network_enclose_what_is_sampled(grid: Grid, method: str, mode: str) -> None:
    module = DeployedClassifier(convolutional_network(), grid)
    bounded = wrapped(module, mode)
    for radius in (0.03, 0.3):
        lower, upper = ball(images_of(4), radius)
        low, high = bounds_of(bounded, lower, upper, method)
        points = torch.lerp(lower, upper, torch.rand(1000, *lower.shape, generator=torch.Generator().manual_seed(1)))
        points = torch.maximum(torch.minimum(points, upper), lower)
        with torch.no_grad():
            logits = module(points.flatten(0, 1)).unflatten(0, (1000, 4))
        assert_encloses(low, high, logits)


@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_bounds_of_phi_itself_are_the_ends_of_the_reachable_cells(method: str) -> None:
    bounded = wrapped(DeployedClassifier(nn.Flatten(), Grid(5)))
    lower, upper = ball(images_of(6), 0.15)
    low, high = bounds_of(bounded, lower, upper, method)
    phi = Abstraction(Grid(5))
    torch.testing.assert_close(low, phi(lower).flatten(1), rtol=0, atol=1e-6)  # one product with 1 and a sum of zeros
    torch.testing.assert_close(high, phi(upper).flatten(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_exact_where_the_ball_lies_in_one_cell(method: str) -> None:
    grid, net = Grid(4), convolutional_network()
    module = DeployedClassifier(net, grid)
    centres = torch.tensor(grid.edges[:-1])[torch.arange(8).reshape(2, *SHAPE) % 4] + 0.125
    low, high = bounds_of(wrapped(module), centres - 0.12, centres + 0.12, method)
    with torch.no_grad():
        logits = module(centres)
    torch.testing.assert_close(low, logits, rtol=0, atol=1e-6)  # float32 logits below 1
    torch.testing.assert_close(high, logits, rtol=0, atol=1e-6)


def test_gradients_reach_the_network_through_bounds() -> None:
    net = convolutional_network()
    bounded = wrapped(DeployedClassifier(net, Grid(5)))
    lower, upper = ball(images_of(3), 0.1)
    box = lirpa.BoundedTensor(lower, lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper))
    low, _ = bounded.compute_bounds(x=(box,), method="IBP")
    low.sum().backward()
    assert all(parameter.grad is not None for parameter in bounded.parameters() if parameter.requires_grad)


# --- planted bugs ----------------------------------------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, change: Change) -> DeployedClassifier:
    """Return a deployed classifier whose bounds, not its logits, are made by changed look-ups."""

    def wrong(name: str, lookup: LookUp) -> Any:
        return bound_class(name, change(name, lookup))

    monkeypatch.setattr(operator, "bound_class", wrong)
    phi_operators.cache_clear()
    return DeployedClassifier(tiny_network(5), Grid(5))


@pytest.fixture(autouse=True)
def _forget_planted_operators() -> Iterator[None]:
    yield
    phi_operators.cache_clear()


def test_the_check_sees_the_upper_end_bounded_as_the_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    lowers: dict[str, LookUp] = {}

    def merged(name: str, lookup: LookUp) -> LookUp:
        if name.startswith("Lower"):
            lowers["last"] = lookup
        return lowers["last"]

    module = planted(monkeypatch, merged)
    with pytest.raises(UnsupportedModelError, match="other logits"):
        check_bounded_forward(wrapped(module), module, images_of(20))


def test_the_check_sees_one_class_for_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """One class for both ends, told apart by an attribute: what 0.7 merges, and 0.3 does not."""
    phi = Abstraction(Grid(5))
    functions = {}
    for side, ends in (("lower", phi.lower), ("upper", phi.upper)):
        functions[side] = operator._function("Shared", operator._LookUp(phi.interior, ends))
        functions[side].symbolic = staticmethod(
            lambda graph, images, side=side: graph.op("abscert::Shared", images, side_s=side).setType(images.type())
        )

    class Shared(operator.activation_class()):  # type: ignore[misc]  # a base that auto_LiRPA gives
        def forward(self, images: Tensor) -> Tensor:
            ends = phi.lower if self.attr["side"] == "lower" else phi.upper
            return operator._LookUp(phi.interior, ends)(images)

    lirpa.register_custom_op("abscert::Shared", Shared)
    module = DeployedClassifier(tiny_network(5), Grid(5))
    module._lower, module._upper = functions["lower"], functions["upper"]
    assert torch.equal(module(images_of(9)), tiny_network(5)(phi(images_of(9))))
    if lirpa.__version__ == "0.3":
        check_bounded_forward(wrapped(module), module, images_of(20))
        return
    with pytest.raises(UnsupportedModelError, match="other logits"):
        check_bounded_forward(wrapped(module), module, images_of(20))


@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_enclosure_sees_a_dropped_cell(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def without_the_last_cell(name: str, lookup: LookUp) -> LookUp:
        return lambda images: lookup(images.clamp(max=0.79))

    module = planted(monkeypatch, without_the_last_cell)
    module.network = nn.Flatten()
    lower, upper = torch.full((1, *SHAPE), 0.5), torch.full((1, *SHAPE), 0.9)
    low, high = bounds_of(wrapped(module), lower, upper, method)
    with pytest.raises(AssertionError, match="too high"):
        assert_encloses(low[0], high[0], reachable_logits(nn.Flatten(), Grid(5), lower[0], upper[0]))


@pytest.mark.parametrize("method", PLAIN_METHODS)
def test_enclosure_sees_ends_that_are_a_thousandth_too_narrow(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    module = planted(monkeypatch, lambda name, lookup: lambda images: lookup(images) * (1 - 1e-3))
    module.network = nn.Flatten()
    lower, upper = torch.full((1, *SHAPE), 0.05), torch.full((1, *SHAPE), 0.95)
    low, high = bounds_of(wrapped(module), lower, upper, method)
    with pytest.raises(AssertionError, match="too high"):
        assert_encloses(low[0], high[0], reachable_logits(nn.Flatten(), Grid(5), lower[0], upper[0]))
