"""Lines of any slope lie below and above what an activation may compute; a little tighter, and a test here fails."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import RELU, Function, Piecewise, Ramp
from abscert_plugin.bounds.proof.s_shaped import SIGMOID, TANH, SShaped

LEAKY = Piecewise((0.0,), (0.25, 1.0), roundings=2)
CLIP = Piecewise((-0.25, 0.75), (0.0, 1.0, 0.0), -0.25)
EXACT: dict[str, tuple[Piecewise | Ramp, Callable[[Fraction], Fraction]]] = {
    "Relu": (RELU, lambda x: max(x, Fraction(0))),
    "LeakyRelu": (LEAKY, lambda x: max(x, x / 4)),
    "Clip": (CLIP, lambda x: min(max(x, Fraction(-1, 4)), Fraction(3, 4))),
}
COUNT = 300


def ends_and_slopes(seed: int, spread: float) -> tuple[Tensor, Tensor, list[Any]]:
    """Return ends of all signs, and slopes: those that are chosen for a function, and random ones."""
    chance = torch.Generator().manual_seed(seed)
    ends = (torch.randn(COUNT, 2, dtype=torch.float64, generator=chance) * spread).sort(dim=1).values
    ends[::7, 1] = ends[::7, 0]
    return ends[:, 0], ends[:, 1], [None, tuple(torch.rand(2, COUNT, dtype=torch.float64, generator=chance))]


def piecewise_oracle(name: str, seed: int) -> None:
    """Check lines against rationals at ends, kinks and middles, where straight pieces come nearest to them."""
    function, exact = EXACT[name]
    kinks = function.kinks if isinstance(function, Piecewise) else (0.0,)
    lower, upper, slopes = ends_and_slopes(seed, 1.0)
    for given_slopes in slopes:
        below, above = given_slopes or function.slopes(lower, upper)
        rows = torch.stack([lower, upper, below, above, *function.offsets(lower, upper, below, above)], dim=1)
        for low, high, first, second, least, most in rows.tolist():
            points = [low, high, (low + high) / 2, *(kink for kink in kinks if low < kink < high)]
            for x in map(Fraction, points):
                value = exact(x)
                assert Fraction(first) * x + Fraction(least) <= value <= Fraction(second) * x + Fraction(most)


def s_shaped_oracle(function: SShaped, seed: int, spread: float) -> None:
    """Check lines at points between ends, and that they are not loose where both ends are one."""
    lower, upper, slopes = ends_and_slopes(seed, spread)
    exact = torch.sigmoid if function is SIGMOID else torch.tanh
    share = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
    points = lower + share * (upper - lower)
    for given_slopes in slopes:
        below, above = given_slopes or function.slopes(lower, upper)
        least, most = function.offsets(lower, upper, below, above)
        assert bool((exact(points) - function.error >= below * points + least - 1e-13).all())
        assert bool((exact(points) + function.error <= above * points + most + 1e-13).all())
        is_point = lower == upper
        room = (most - least)[is_point] - ((below - above) * lower)[is_point]
        assert float(room.max()) < 3 * function.error


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_lines_of_any_slope_enclose_a_function_of_straight_pieces(name: str, seed: int) -> None:
    piecewise_oracle(name, seed)


@pytest.mark.parametrize("function", [SIGMOID, TANH])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([1e-6, 0.1, 4.0, 30.0]))
def test_lines_of_any_slope_enclose_an_s_shaped_function(function: SShaped, seed: int, spread: float) -> None:
    s_shaped_oracle(function, seed, spread)


def tighter(monkeypatch: pytest.MonkeyPatch, kind: type[Function], side: int, offsets: Callable[..., Any]) -> None:
    """Have one line's offset, below or above, come from somewhere else."""
    right = kind.offsets

    def wrong(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple((offsets if place == side else right)(*arguments)[place] for place in (0, 1))

    monkeypatch.setattr(kind, "offsets", wrong)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", ["Relu", "Clip"])
def test_the_oracle_sees_a_line_without_its_margin(name: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(EXACT[name][0])
    right = kind.offsets

    def without(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(arithmetic, "own_gamma", lambda roundings: 0.0)
            patch.setattr(arithmetic, "underflow", lambda count: 0.0)
            return right(*arguments)

    tighter(monkeypatch, kind, side, without)
    with pytest.raises(AssertionError):
        piecewise_oracle(name, 0)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("function", [SIGMOID, TANH])
def test_the_oracle_sees_an_s_shaped_line_that_is_too_tight(
    function: SShaped, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SShaped.offsets
    nearer = function.error / 100 * (1 if side == 0 else -1)
    tighter(monkeypatch, SShaped, side, lambda *arguments: [offset + nearer for offset in right(*arguments)])
    with pytest.raises(AssertionError):
        s_shaped_oracle(function, 0, 4.0)


@pytest.mark.parametrize("function", [SIGMOID, TANH], ids=["sigmoid", "tanh"])
@pytest.mark.parametrize("spread", [0.5, 3.0, 20.0])
def test_lines_that_are_not_chosen_lose_the_least_area(function: SShaped, spread: float) -> None:
    """Of lines that a share chooses none leaves less between itself and the curve, over the ends as a whole."""
    lower, upper, _ = ends_and_slopes(1, spread)
    middle = (lower + upper) / 2
    low, high = (line(middle) for line in lines_of(function, lower, upper, function.slopes(lower, upper)))
    for share in torch.linspace(0, 1, 16, dtype=torch.float64):
        chosen = function.chosen(lower, upper, share.expand_as(lower))
        below, above = (line(middle) for line in lines_of(function, lower, upper, chosen))
        assert (below <= low + 1e-4).all()
        assert (above >= high - 1e-4).all()


def lines_of(
    function: SShaped, lower: Tensor, upper: Tensor, slopes: tuple[Tensor, Tensor]
) -> list[Callable[[Tensor], Tensor]]:
    """Return the lines of two slopes below and above a function between two ends."""
    offsets = function.offsets(lower, upper, *slopes)
    return [lambda x, line=line: line[0] * x + line[1] for line in zip(slopes, offsets, strict=True)]  # type: ignore[misc]
