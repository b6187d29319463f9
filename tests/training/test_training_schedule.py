"""How the radius rises: against the closed formula of DeepMind's and CROWN-IBP's schedule, in steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abscert_plugin.errors import ConfigError
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.schedule import Ramp

STEPS = 1000  # 10 epochs of 100 steps
ROUNDING = 1e-9  # float64 shares of a thousand steps, to the fourth power


def moment(step: float) -> Moment:
    return Moment(step, 100, 10)  # type: ignore[arg-type]  # schedules are asked between two steps too


def closed_formula(step: float, first: float, last: float) -> float:
    """Return eps(step) / eps_max: alpha (t - T0)^4 up to mid, then the tangent to 1 at T1."""
    mid = first + 0.25 * (last - first)
    m = mid - first
    alpha = 1 / ((last - mid) * 4 * m**3 + m * m**3)
    if step <= first:
        return 0.0
    if step <= mid:
        return alpha * (step - first) ** 4
    if step <= last:
        return alpha * m**4 + 4 * alpha * m**3 * (step - mid)
    return 1.0


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    """Return the first and the last step of a rise of at least 4 steps."""
    first = draw(st.integers(0, STEPS - 4))
    return first, draw(st.integers(first + 4, STEPS))


def ramp_of(span: tuple[int, int], smooth: bool) -> Ramp:
    first, last = span
    return Ramp(first / STEPS, (last - first) / STEPS, smooth)


@given(spans(), st.integers(0, STEPS))
def test_the_smoothed_rise_is_the_closed_formula(span: tuple[int, int], step: int) -> None:
    found = ramp_of(span, smooth=True).progress(moment(step))
    assert found == pytest.approx(closed_formula(step, *span), abs=ROUNDING)


@given(spans(), st.integers(0, STEPS))
def test_the_linear_rise_is_the_share_of_its_steps(span: tuple[int, int], step: int) -> None:
    first, last = span
    expected = min(max(step - first, 0), last - first) / (last - first)
    assert ramp_of(span, smooth=False).progress(moment(step)) == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.slow
@given(spans(), st.booleans())
def test_a_rise_is_monotone_from_0_to_1(span: tuple[int, int], smooth: bool) -> None:
    ramp, (first, last) = ramp_of(span, smooth), span
    values = [ramp.progress(moment(step)) for step in range(STEPS + 1)]
    assert values == sorted(values)
    assert values[: first + 1] == pytest.approx([0.0] * (first + 1), abs=ROUNDING)
    assert values[last:] == pytest.approx([1.0] * (STEPS + 1 - last), abs=ROUNDING)
    assert 0 < values[(first + last) // 2] < 1
    assert min(values) >= 0
    assert max(values) <= 1  # a ball is never wider than the one that was asked for


@pytest.mark.parametrize(
    ("step", "smooth", "expected"),
    [
        (200, False, 0.0),
        (300, False, 0.25),
        (400, False, 0.5),
        (600, False, 1.0),
        (200, True, 0.0),
        (250, True, 1 / 13 / 16),  # half of the way to the bend: a sixteenth of its height
        (300, True, 1 / 13),  # the bend: m^4 / (12 m^4 + m^4)
        (400, True, 5 / 13),  # a third of the rest, 12/13, above the bend
        (600, True, 1.0),
    ],
)
def test_values_by_hand(step: int, smooth: bool, expected: float) -> None:
    assert Ramp(0.2, 0.4, smooth).progress(moment(step)) == pytest.approx(expected, abs=ROUNDING)


@given(st.floats(0, 0.5), st.floats(0.1, 0.5))
def test_value_and_slope_are_continuous_at_the_bend(start: float, length: float) -> None:
    ramp = Ramp(start, length, smooth=True)
    total, width = 10**9, 10**4  # steps fine enough to differentiate by
    bend = round((start + 0.25 * length) * total)
    below, at, above = (ramp.progress(Moment(bend + move, total, 1)) for move in (-width, 0, width))
    span = width / (length * total)  # of the rise, at most 1e-4
    left, right = (at - below) / span, (above - at) / span
    assert at == pytest.approx(1 / 13, rel=1e-3)
    # the slope is 16/13 of the mean one; the fourth power's curvature there, 3 / 0.25 slopes, adds its half
    assert left == pytest.approx(right, rel=12 * span + 1e-4)
    assert right == pytest.approx(16 / 13, rel=1e-4)


@given(spans(), st.integers(1, STEPS - 1))
def test_the_smoothed_rise_is_slow_first_and_never_slows_down(span: tuple[int, int], step: int) -> None:
    first, last = span
    smooth, linear = ramp_of(span, smooth=True), ramp_of(span, smooth=False)
    if first < step < last:
        assert smooth.progress(moment(step)) < linear.progress(moment(step))
        before, at, after = (smooth.progress(moment(step + move)) for move in (-1, 0, 1))
        assert after - at >= at - before - ROUNDING


@given(st.integers(0, STEPS), st.booleans())
def test_a_rise_of_no_length_is_a_step(first: int, smooth: bool) -> None:
    ramp = Ramp(first / STEPS, 0.0, smooth)
    assert ramp.progress(moment(first)) == 1.0
    assert ramp.progress(moment(STEPS)) == 1.0
    if first:
        assert ramp.progress(moment(first - 1)) == 0.0


@given(st.integers(0, 100))
def test_start_and_length_may_fill_the_training(percent: int) -> None:
    # 0.07 + 0.93 and others are a rounding above 1
    assert Ramp(percent / 100, (100 - percent) / 100).progress(moment(STEPS)) == pytest.approx(1.0, abs=ROUNDING)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.inf, -math.inf, math.nan])
def test_shares_outside_0_to_1_are_refused(bad: float) -> None:
    with pytest.raises(ConfigError, match=rf"expected start from 0 to 1.*got {bad}"):
        Ramp(bad, 0.0)
    with pytest.raises(ConfigError, match=rf"expected ramp from 0 to 1.*got {bad}"):
        Ramp(0.0, bad)


def test_a_rise_past_the_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"start and ramp within the training, got 0\.6 \+ 0\.5"):
        Ramp(0.6, 0.5)
