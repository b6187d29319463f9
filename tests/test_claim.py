"""A radius is exact, and floats beside it lie on the side that they should."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abscert_plugin.claim import Arithmetic, Claim, Inputs, Radius, RadiusScale, scope
from abscert_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", Fraction(8, 255)),
        ("0.1", Fraction(1, 10)),
        (" 1 / 3 ", Fraction(1, 3)),
        ("1e-3", Fraction(1, 1000)),
        ("2.5/255", Fraction(5, 510)),
        ("0", Fraction(0)),
        ("1", Fraction(1)),
        ("1e-99", Fraction(1, 10**99)),
    ],
)
def test_a_radius_is_the_number_that_was_written(text: str, value: Fraction) -> None:
    assert Radius.parse(text).pixel == Radius.parse(text).given == value
    training = Radius.parse(text, RadiusScale.TRAINING)
    assert (training.given, training.pixel) == (value, value / 2)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_fractions_and_decimals_are_read_exactly(first: int, second: int) -> None:
    numerator, denominator = sorted((first, second))
    assert Radius.parse(f"{numerator}/{denominator or 1}").pixel == Fraction(numerator, denominator or 1)
    assert Radius.parse(f"0.{first:07d}").pixel == Fraction(first, 10**7)


@given(st.fractions(0, 1) | st.floats(0, 1).map(Fraction), st.sampled_from(RadiusScale))
def test_the_float_outward_is_the_least_that_is_not_below_the_radius(value: Fraction, scale: RadiusScale) -> None:
    radius = Radius(value, scale)
    below = math.nextafter(radius.outward, -math.inf)
    assert Fraction(below) < radius.pixel <= Fraction(radius.outward)


def test_two_is_the_largest_on_the_training_scale() -> None:
    assert Radius.parse("2", RadiusScale.TRAINING).pixel == 1
    with pytest.raises(ConfigError, match="from 0 to 1 on the pixel scale"):
        Radius.parse("2.001", RadiusScale.TRAINING)


@pytest.mark.parametrize("text", ["-0.1", "-1/255", "1/-255", "1.0000001", "256/255", "1e3"])
def test_radii_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1 on the pixel scale"):
        Radius.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "nan", "inf", "-inf", "0.1x", "8/255/2", "/", "1/", "/2", "1/0", "1//2", "1e-999999999", "1/1e999999999",
     "1e-00001000", "1e999", "1e+0100", "0" * 101, "1_0/255", "\N{FULLWIDTH DIGIT THREE}/255"],
)  # fmt: skip
def test_what_is_no_number_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a radius such as 0\.1 or 8/255"):
        Radius.parse(text)


def test_a_radius_says_its_scale() -> None:
    assert str(Radius.parse("0.3", RadiusScale.TRAINING)) == "0.3 (training scale)"
    assert str(Radius.parse("8/255")) == "0.0313725 (pixel scale)"
    assert str(Radius.parse("1e-400")) == "1e-400 (pixel scale)"  # less than any float


def test_any_order_alone_implies_other_evaluations() -> None:
    """docs/verdicts.md: every runtime computes one of its evaluations, and sums in float32 are some of them."""
    implied = {(one, other) for one in Arithmetic for other in Arithmetic if one.implies(other)}
    of_any_order = {(Arithmetic.ANY_ORDER, other) for other in (Arithmetic.WIDE_SUMS, Arithmetic.THIS_RUNTIME)}
    assert implied == {(one, one) for one in Arithmetic} | of_any_order


def test_a_ball_of_8_bit_images_is_not_said_to_be_one_of_all_images() -> None:
    assert "every image within the radius" in scope(Claim.BALL, Inputs.FLOAT) == scope(Claim.BALL)
    assert "every 8-bit image within the radius" in scope(Claim.BALL, Inputs.UINT8)
    assert "every image" not in scope(Claim.BALL, Inputs.UINT8)
    assert scope(Claim.CELL, Inputs.UINT8) == scope(Claim.CELL)
