"""Options of a training: what is refused, the defaults, and the schedule of the learning rate."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_trainings import small_config

from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.training.abstrain import ABSTRAIN
from abscert_plugin.training.config import Augmentation, Precision, TrainingConfig, default_config, learning_rate_at
from abscert_plugin.training.machine import choose_device
from abscert_plugin.training.run import make_spec

PEAK = 3e-3
ROUNDING = 1e-12  # float64 against exact fractions, a few operations


def formula(step: int, total: int, warmup_steps: int) -> float:
    """Return the share of the peak: linear from 1 / warmup_steps to 1, then (1 + cos) / 2 from 0 to pi."""
    if step < warmup_steps:
        return float(Fraction(step + 1, warmup_steps))
    angle = math.pi * float(Fraction(step - warmup_steps, total - warmup_steps))
    return math.cos(angle / 2) ** 2  # (1 + cos a) / 2 = cos^2(a / 2)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("epochs", 0, "expected epochs of at least 1, got 0"),
        ("epochs", -3, "expected epochs of at least 1, got -3"),
        ("batch_size", 0, "expected batch_size of at least 1, got 0"),
        ("batch_size", -1, "expected batch_size of at least 1, got -1"),
        ("learning_rate", 0.0, "expected a learning rate above 0, got 0.0"),
        ("learning_rate", -1e-3, "expected a learning rate above 0, got -0.001"),
        ("learning_rate", math.nan, "expected a learning rate above 0, got nan"),
        ("learning_rate", math.inf, "expected a learning rate above 0, got inf"),
        ("weight_decay", -1e-9, "expected a weight decay of at least 0"),
        ("weight_decay", math.nan, "expected a weight decay of at least 0"),
        ("warmup", -0.1, "expected a warm-up share"),
        ("warmup", 1.0, "expected a warm-up share"),
        ("warmup", math.nan, "expected a warm-up share"),
        ("seed", -1, "expected a seed from 0"),
        ("seed", 2**31, "expected a seed from 0"),
        ("patience", -1, "expected a patience of at least 0"),
    ],
)
def test_options_without_meaning_are_refused(option: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 1),
        ("batch_size", 1),
        ("learning_rate", 5e-324),
        ("weight_decay", 0.0),
        ("warmup", 0.0),
        ("warmup", math.nextafter(1, 0)),
        ("seed", 0),
        ("seed", 2**31 - 1),
        ("patience", 0),
    ],
)
def test_options_at_the_end_of_their_range_are_taken(option: str, value: float) -> None:
    assert getattr(small_config(**{option: value}), option) == value


@pytest.mark.parametrize(
    ("chosen", "activation", "message"),
    [
        (
            {"augmentation": "mirror"},
            "relu",
            "expected --augmentation: one of none, cifar, shift, elastic; got 'mirror'",
        ),
        ({"augmentation": ""}, "relu", "expected --augmentation: one of none, cifar, shift, elastic; got ''"),
        ({"precision": "float8"}, "relu", "expected --precision: one of auto, float32, bfloat16; got 'float8'"),
        ({}, "swish", "expected --activation: one of relu, sigmoid, tanh, param-ramp; got 'swish'"),
        ({"batch_size": 0}, "relu", "batch_size of at least 1"),
        ({"average": 1.0}, "relu", r"average in \[0, 1\)"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(chosen: dict[str, Any], activation: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_spec("digits", None, None, "dm-small", activation, Grid(4), "cpu", chosen)


def test_chosen_options_replace_the_defaults_and_no_others() -> None:
    spec = make_spec(
        "cifar10", None, None, "dm-small", "tanh", Grid(4), "cpu", {"augmentation": "none", "epochs": None}
    )
    assert spec.training.augmentation is Augmentation.NONE
    assert spec.training.epochs == default_config("cifar10", "dm-small").epochs


@pytest.mark.parametrize(
    ("data", "network", "augmentation"),
    [
        ("cifar10", "dm-large", Augmentation.CIFAR),
        ("cifar10", "fc-3", Augmentation.NONE),
        ("mnist", "dm-small", Augmentation.NONE),
        ("digits", "dm-small", Augmentation.NONE),
    ],
)
def test_only_convolutional_networks_on_colour_images_are_augmented(
    data: str, network: str, augmentation: Augmentation
) -> None:
    config = default_config(data, network)
    assert config.augmentation is augmentation
    assert config.precision is Precision.AUTO
    assert config.weight_decay == 2e-4  # the paper's code


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cuda:1"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a device: one of auto, cpu, cuda"):
        choose_device(name)


@given(st.integers(1, 400), st.floats(0, 1, exclude_max=True), st.data())
def test_rate_follows_the_formula_at_every_step(total: int, share: float, data: st.DataObject) -> None:
    config = TrainingConfig(epochs=1, batch_size=1, learning_rate=PEAK, warmup=share)
    warmup_steps = 0 if share == 0 else max(1, round(share * total))
    step = data.draw(st.integers(0, total - 1))
    assert learning_rate_at(step, total, config) == pytest.approx(
        PEAK * formula(step, total, warmup_steps), rel=ROUNDING, abs=ROUNDING * PEAK
    )


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 1 / 20),  # the first step of the warm-up
        (9, 1 / 2),  # half of it
        (19, 1.0),  # its last
        (20, 1.0),  # the cosine begins at the peak
        (110, 1 / 2),  # a quarter turn
        (80, 3 / 4),  # a third of the way: (1 + cos(pi / 3)) / 2
        (140, 1 / 4),
        (200, 0.0),  # where the step after the last would be
    ],
)
def test_schedule_of_two_hundred_steps(step: int, share: float) -> None:
    config = TrainingConfig(epochs=1, batch_size=1, learning_rate=PEAK, warmup=0.1)
    assert learning_rate_at(step, 200, config) == pytest.approx(share * PEAK, rel=1e-12, abs=1e-15)


@given(st.integers(2, 300), st.floats(0, 1, exclude_max=True))
def test_rate_rises_to_the_peak_then_falls_and_stays_above_zero(total: int, share: float) -> None:
    config = TrainingConfig(epochs=1, batch_size=1, learning_rate=PEAK, warmup=share)
    rates = [learning_rate_at(step, total, config) for step in range(total)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(PEAK, rel=ROUNDING)
    assert all(before < after for before, after in pairwise(rates[: top + 1]))
    assert all(before >= after for before, after in pairwise(rates[top:]))
    assert min(rates) > 0


def test_a_radius_without_its_scale_is_refused_before_anything_is_trained() -> None:
    kind: Any = type(ABSTRAIN)

    class Unscaled(kind):  # type: ignore[misc]  # its class has no public name
        def describe(self) -> dict[str, float]:
            return {"radius": 0.1}

    with pytest.raises(ConfigError, match="radius with a radius_scale"):
        make_spec("digits", None, None, "fc-3", "relu", Grid(4), "cpu", {}, Unscaled())
