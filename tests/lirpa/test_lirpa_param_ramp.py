"""ParamRamp for auto_LiRPA: lines that enclose it, bounds that hold and follow the training, and what must be seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from box_oracle import CLASSES, SHAPE, assert_below, boxes, lirpa_or_skip, margins_of, sampled_least_margins
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.intervals import Box, interval_margins
from abscert_plugin.bounds.lines import Lines, ramp_lines
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.lirpa import param_ramp
from abscert_plugin.lirpa.bounds import LirpaBounder
from abscert_plugin.lirpa.param_ramp import bounded_with_ramps
from abscert_plugin.lirpa.tracing import quiet
from abscert_plugin.lirpa.training import CrownIbpMargins
from abscert_plugin.networks.param_ramp import LEAST_BEND_POINT, ParamRamp, collecting, ramps_of

lirpa = lirpa_or_skip()
CPU = torch.device("cpu")
METHODS = [BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN]
SIDES = ["lower_slope", "lower_offset", "upper_slope", "upper_offset"]
# ends that meet 0 and the bend points 0.5 and 1, and the cases' own ties: upper = -lower, upper - r = r - lower
ends = st.sampled_from([-2.0, -1.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 1.0, 1.5, 2.0, 3.0]) | st.floats(-4, 4, width=32)
bend_points = st.sampled_from([0.5, 1.0, LEAST_BEND_POINT, 0.0, -1.0]) | st.floats(0, 3, width=32)
etas = st.sampled_from([0.0, 0.01, 0.5, 1.0])


def float64(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def lines_of(low: float, high: float, bend: float, eta: float, bends: bool) -> Lines:
    return ramp_lines(float64([[low]]), float64([[high]]), float64([bend]), float64(eta), torch.tensor(bends))


def function(inputs: Tensor, bend: float, eta: float, bends: bool) -> Tensor:
    """Return ParamRamp by its definition."""
    bend = max(bend, LEAST_BEND_POINT)
    beyond = bend + eta * (inputs - bend)
    return torch.where(inputs < 0, eta * inputs, torch.where((inputs > bend) & bends, beyond, inputs))


def gaps(lines: Lines, low: float, high: float, bend: float, eta: float, bends: bool) -> tuple[Tensor, Tensor]:
    """Return how far the lower line is below the function, and the upper above it, on a dense grid."""
    corners = float64([value for value in (0.0, max(bend, LEAST_BEND_POINT)) if low <= value <= high])
    inputs = torch.cat([torch.linspace(low, high, 401, dtype=torch.float64), corners])
    values = function(inputs, bend, eta, bends)
    lower = lines.lower_slope[0] * inputs + lines.lower_offset[0]
    upper = lines.upper_slope[0] * inputs + lines.upper_offset[0]
    return values - lower, upper - values


def is_enclosed(lines: Lines, *case: Any) -> bool:
    # a float64 line through two points, one of which may be 1e-4 of the other's size
    return all(float(gap.min()) >= -1e-11 for gap in gaps(lines, *case))


def network(seed: int = 0, *, with_bend: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Conv2d(2, 3, 3, 2, 1),
            ParamRamp((3, 3, 3), 0.05),
            nn.Conv2d(3, 2, 3, 1, 1),
            ParamRamp((2, 3, 3), 0.1),
            nn.Flatten(),
            nn.Linear(18, 8),
            ParamRamp((8,), 0.0),
            nn.Linear(8, CLASSES),
        )
        if with_bend:
            bend(made)
    return made


def bend(made: nn.Module) -> None:
    with collecting(made), torch.no_grad():
        made(2 * torch.rand(20, *SHAPE) - 1)
    for layer in ramps_of(made):
        layer.begin_bend()


def margins_over(made: nn.Module, method: BoundMethod, free: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return bounds, and the least margins that sampling finds."""
    lower, upper, labels = boxes(4, free, seed)
    bounds = LirpaBounder(made, SHAPE, CLASSES, CPU).margins(lower, upper, labels, method)
    return bounds, sampled_least_margins(made.eval(), lower, upper, labels)


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=400)
@given(ends, ends, bend_points, etas, st.booleans())
@example(0.0, 0.0, 0.0, 0.01, True)
@example(1.0, 1.0, 1.0, 0.01, True)
@example(-1.0, 1.0, 0.5, 0.0, True)
@example(-1.0, 2.0, 0.5, 0.01, True)
@example(0.0, 2.0, 1.0, 0.01, True)
def test_lines_enclose_the_function_and_touch_it(
    first: float, second: float, bend: float, eta: float, bends: bool
) -> None:
    low, high = min(first, second), max(first, second)
    case = (low, high, bend, eta, bends)
    lines = lines_of(*case)
    assert is_enclosed(lines, *case)
    assert min(float(lines.lower_slope), float(lines.upper_slope)) >= 0
    for gap in gaps(lines, *case):
        assert float(gap.min()) <= 1e-11  # neither is looser than it need be


@given(ends, ends, bend_points, etas)
def test_lines_are_the_function_where_it_has_no_corner(first: float, second: float, bend: float, eta: float) -> None:
    low, high = min(first, second), max(first, second)
    for corner in (0.0, max(bend, LEAST_BEND_POINT)):
        if low < corner < high:
            low = corner
    case = (low, high, bend, eta, True)
    assert all(float(gap.abs().max()) <= 1e-11 for gap in gaps(lines_of(*case), *case))


@pytest.mark.parametrize(("low", "high", "slope"), [(-1.0, 1.5, 1.0), (-1.5, 1.0, 0.0), (-1.0, 1.0, 0.0)])
def test_without_bend_and_slope_they_are_the_adaptive_lines_of_relu(low: float, high: float, slope: float) -> None:
    lines = lines_of(low, high, 0.0, 0.0, False)
    assert (float(lines.lower_slope), float(lines.lower_offset)) == (slope, 0.0)
    assert float(lines.upper_slope) == pytest.approx(high / (high - low))
    assert float(lines.upper_offset) == pytest.approx(-low * high / (high - low))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "case", [(-1.0, 2.0), (-2.0, 0.4), (-0.3, 0.4), (0.2, 2.0), (1.0, 3.0), (0.0, 0.4), (-2.0, 0.0)]
)
def test_the_check_sees_a_line_that_is_shifted_by_a_hundredth(case: tuple[float, float], side: str) -> None:
    whole = (*case, 0.5, 0.01, True)
    lines = lines_of(*whole)
    # a line that is turned about 0 leaves the function on one side only, which depends on where it touches
    shift = 1e-2 if side.startswith("lower") else -1e-2
    if side.endswith("slope") and case[0] < 0:
        seen = [
            not is_enclosed(replace(lines, **{side: getattr(lines, side) + sign * shift}), *whole) for sign in (1, -1)
        ]
        assert any(seen)
    else:
        assert not is_enclosed(replace(lines, **{side: getattr(lines, side) + shift}), *whole)


def test_gradients_of_lines_are_numbers_in_every_case() -> None:
    values = float64([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    low, high = (grid.flatten()[:, None] for grid in torch.meshgrid(values, values, indexing="ij"))
    low, high = torch.minimum(low, high).requires_grad_(), torch.maximum(low, high).requires_grad_()
    bend = float64([0.5]).requires_grad_()
    lines = ramp_lines(low, high, bend, float64(0.01), torch.tensor(True))
    sum(getattr(lines, side).sum() for side in SIDES).backward()
    assert all(bool(cast(Tensor, value.grad).isfinite().all()) for value in (low, high, bend))
    assert bool(bend.grad != 0)


# --- bounds of networks ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("with_bend", [False, True])
@pytest.mark.parametrize("method", [*METHODS, BoundMethod.OPTIMISED])
def test_bounds_are_below_every_sampled_margin(method: BoundMethod, with_bend: bool) -> None:
    for seed in range(6):
        made = network(seed, with_bend=with_bend)
        for free in (0.1, 0.7):
            assert_below(*margins_over(made, method, free, seed))


@pytest.mark.parametrize("method", METHODS)
def test_bounds_are_the_margins_where_nothing_is_free(method: BoundMethod) -> None:
    lower, _, labels = boxes(5, 0.0)
    made = network().eval()
    bounds = LirpaBounder(made, SHAPE, CLASSES, CPU).margins(lower, lower, labels, method)
    with torch.no_grad():
        expected = margins_of(made(lower), labels)
    torch.testing.assert_close(bounds, expected, rtol=0, atol=3e-5)  # `ROUNDING`, and float32 sums


def test_linear_bounds_are_tighter_than_intervals() -> None:
    lower, upper, labels = boxes(6, 0.5)
    bounder = LirpaBounder(network(3), SHAPE, CLASSES, CPU)
    interval, linear = (bounder.margins(lower, upper, labels, method).mean() for method in (METHODS[0], METHODS[2]))
    assert linear > interval + 0.01


def test_a_bounder_keeps_the_network_as_it_was() -> None:
    lower, upper, labels = boxes(3, 0.5)
    made = network(1, with_bend=False)
    bounder = LirpaBounder(made, SHAPE, CLASSES, CPU)
    before = bounder.margins(lower, upper, labels, BoundMethod.CROWN_IBP)
    bend(made)
    assert torch.equal(bounder.margins(lower, upper, labels, BoundMethod.CROWN_IBP), before)


def test_training_bounds_follow_the_bend_its_points_and_the_slope() -> None:
    made = network(2, with_bend=False)
    lower, upper, labels = boxes(4, 0.4)
    bounds = CrownIbpMargins(made, lower, CLASSES)
    found = [bounds.lower(lower, upper, labels)]

    def lowered() -> None:
        with torch.no_grad():
            for layer in ramps_of(made):
                layer.bend_point.mul_(0.5)

    def sloped() -> None:
        for layer in ramps_of(made):
            layer.set_eta(0.3)

    changes: list[Callable[[], None]] = [lambda: bend(made), lowered, sloped]
    for change in changes:
        change()
        found.append(bounds.lower(lower, upper, labels))
        assert not torch.allclose(found[-1], found[-2])
        fresh = CrownIbpMargins(network(5).requires_grad_(), lower, CLASSES)
        fresh.network.load_state_dict(made.state_dict())
        # that module was traced before it was given this state
        torch.testing.assert_close(found[-1], fresh.lower(lower, upper, labels), rtol=1e-5, atol=1e-5)
        others = found[-1][labels[:, None] != torch.arange(CLASSES)].reshape(len(labels), -1)
        assert_below(others.detach(), sampled_least_margins(made, lower, upper, labels))
        intervals = interval_margins(made, Box.between(lower, upper), labels).lower
        assert (found[-1] >= intervals - 1e-5).all()  # float32 sums of numbers around 1


def test_gradients_reach_every_weight_and_bend_point_and_are_those_of_differences() -> None:
    made = network(4).double()
    lower, upper = (end.double() for end in boxes(4, 0.4)[:2])
    with quiet():
        bounded = bounded_with_ramps(made, lambda: lirpa.BoundedModule(made, lower[:2]))

    def total() -> Tensor:
        norm = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        box = lirpa.BoundedTensor((lower + upper) / 2, norm)
        rows = torch.eye(CLASSES, dtype=torch.float64).expand(4, -1, -1)
        with quiet():
            return bounded.compute_bounds(x=(box,), C=rows, method="CROWN-IBP", bound_upper=False)[0].sum()

    total().backward()
    assert all(bool(cast(Tensor, layer.bend_point.grad).any()) for layer in ramps_of(made))
    for parameter in made.parameters():
        gradient = cast(Tensor, parameter.grad)
        place = int(gradient.abs().argmax())
        step, values = 1e-5, []
        for sign in (1, -2, 1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
            values.append(float(total().detach()))
        slope = (values[0] - values[1]) / (2 * step)
        assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-5)  # no line is chosen anew here


def test_a_trace_leaves_the_layers_as_they_were() -> None:
    made = network()
    CrownIbpMargins(made, boxes(2, 0.5)[0], CLASSES)
    assert not any("forward" in vars(layer) for layer in ramps_of(made))
    assert all(int(layer.seen_count) == 20 for layer in ramps_of(made))  # nor has it counted as seen


# --- planted bugs ----------------------------------------------------------------------------------------------------


def test_sampling_sees_lines_that_are_shifted_by_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(*given: Any) -> Lines:
        lines = ramp_lines(*given)
        return Lines(lines.lower_slope, lines.lower_offset + 1e-2, lines.upper_slope, lines.upper_offset - 1e-2)

    monkeypatch.setattr(param_ramp, "ramp_lines", shifted)
    with pytest.raises(AssertionError, match="too high"):
        assert_below(*margins_over(network(), BoundMethod.CROWN, 0.0, 0))


def test_an_operator_of_another_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(param_ramp, "_ramp", lambda inputs, *state: nn.functional.relu(inputs))
    with pytest.raises(UnsupportedModelError, match="other logits"):
        LirpaBounder(network(), SHAPE, CLASSES, CPU)
