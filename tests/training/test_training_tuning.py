"""Algorithm 3: which cells are tried, when the gradients stop it, which step is best, and going on after a kill."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_trainings import CPU, digits_data, digits_spec, random_data, softmax_network, streamed
from torch import nn

from abscert_plugin.data import DataSet
from abscert_plugin.errors import ConfigError, TrainingError
from abscert_plugin.grid import Grid
from abscert_plugin.training import tuning
from abscert_plugin.training.abstrain import Abstrain
from abscert_plugin.training.loop import SilentObserver
from abscert_plugin.training.run import TrainedRun, run_training
from abscert_plugin.training.tuning import Tuned, TuningConfig, mean_gradients, tune
from abscert_plugin.training.tuning_step import TUNING, TuningStep

CLASSES = 3
MOST_CELLS = 255
STEP = TuningStep(2, 1.0, 0.5, 1, 2, -1e-3, 1e-3, 0.1, False)


# --- which cells are tried --------------------------------------------------------------------------------------------


def counts_by_definition(radius: Fraction, coarsest: int, least_step: Fraction, most_steps: int | None) -> list[int]:
    """Algorithm 3 in exact numbers: d falls by at least the step, down to the least d with d >= 2 epsilon."""
    epsilon = 2 * radius  # training scale
    legal = [cells for cells in range(1, MOST_CELLS + 1) if Fraction(2, cells) >= 2 * epsilon]
    counts = [coarsest]
    while counts[-1] != legal[-1]:
        finer = [n for n in legal if Fraction(2, n) <= Fraction(2, counts[-1]) - least_step]
        counts.append(finer[0] if finer else legal[-1])
    return counts[:most_steps]


radii = st.one_of(
    st.integers(2, MOST_CELLS).map(lambda cells: Fraction(1, 2 * cells)),  # d = 2 epsilon exactly
    st.integers(1, 63).map(lambda levels: Fraction(levels, 255)),
    st.fractions(Fraction(1, 700), Fraction(1, 4), max_denominator=1000),
)
least_steps = st.one_of(
    st.integers(1, 200).map(lambda part: Fraction(part, 1000)),
    # differences of two granularities, where rounding could lose a step
    st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda pair: Fraction(2 * pair[1], pair[0] * sum(pair))),
)


@pytest.mark.slow
@given(radii, least_steps, st.none() | st.integers(1, 6), st.data())
def test_cell_counts_are_those_of_the_exact_algorithm(
    radius: Fraction, least_step: Fraction, most_steps: int | None, data: st.DataObject
) -> None:
    finest = min(MOST_CELLS, int(1 / (2 * radius)))
    coarsest = data.draw(st.integers(1, min(finest, 6)))
    config = TuningConfig(float(radius), coarsest, float(least_step), most_steps)
    assert config.cell_counts() == counts_by_definition(radius, coarsest, least_step, most_steps)


@given(radii)
def test_no_cell_is_narrower_than_two_epsilon_and_the_finest_is_the_last_that_is_not(radius: Fraction) -> None:
    config = TuningConfig(float(radius), 1)
    widths = [Fraction(2, cells) for cells in config.cell_counts()]
    assert min(widths) >= 4 * radius
    assert config.finest == MOST_CELLS or Fraction(2, config.finest + 1) < 4 * radius
    assert config.cell_counts()[-1] == config.finest
    assert widths == sorted(set(widths), reverse=True)


def test_cell_counts_of_the_paper_radii() -> None:
    # MNIST, 0.05 in pixels (the paper's epsilon 0.1): d from 1 to 0.2, each step above 0.01
    assert TuningConfig(0.05).cell_counts() == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert TuningConfig(8 / 255).cell_counts()[-1] == 15
    assert TuningConfig(0.25).cell_counts() == [2]
    assert TuningConfig(1e-300, least_step=0.5).cell_counts() == [2, 4, 255]
    # from 8 to 10 cells d falls by 0.05, although 2 / 8 - 2 / 10 is less in floating point
    assert TuningConfig(0.04, least_step=0.05).cell_counts() == [2, 3, 4, 5, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius above 0"),
        ({"radius": -0.1}, "radius above 0"),
        ({"radius": float("nan")}, "radius above 0"),
        ({"radius": float("inf")}, "radius above 0"),
        ({"radius": 0.05, "coarsest": 0}, "coarsest number of cells from 1 to 10"),
        ({"radius": 0.05, "coarsest": 11}, "coarsest number of cells from 1 to 10"),
        ({"radius": 0.3}, "coarsest number of cells from 1 to 1"),
        ({"radius": 0.05, "least_step": 0.0}, "least step above 0"),
        ({"radius": 0.05, "least_step": -0.01}, "least step above 0"),
        ({"radius": 0.05, "least_step": float("nan")}, "least step above 0"),
        ({"radius": 0.05, "most_steps": 0}, "at least 1 step"),
    ],
)
def test_tunings_without_meaning_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuningConfig(**options)


# --- the gradients ----------------------------------------------------------------------------------------------------


@cache
def a_run() -> TrainedRun:
    """Return a finished training, whose parts the tests replace."""
    with TemporaryDirectory() as folder:
        spec = digits_spec(epochs=1)
        return run_training(spec, digits_data(8, 8), Path(folder), SilentObserver())


def linear_run(data: DataSet, cells: int, seed: int) -> TrainedRun:
    """Return a training that ended with a network of one layer."""
    network = softmax_network(2 * int(np.prod(data.shape)), CLASSES, seed).eval()
    return replace(a_run(), network=network, grid=Grid(cells), objective=Abstrain(Grid(cells), data.levels, CPU))


def mean_loss(run: TrainedRun, data: DataSet, cells: int, lower_shift: float, upper_shift: float) -> float:
    """Cross-entropy per pixel in float64, with all lower and all upper ends of the intervals moved."""
    batch = data.take(np.arange(len(data)))
    cell = np.minimum(batch.images.astype(int) * cells // data.levels, cells - 1)
    lower, upper = 2 * cell / cells - 1 + lower_shift, 2 * (cell + 1) / cells - 1 + upper_shift
    inputs = np.concatenate([lower, upper], axis=1).reshape(len(data), -1)
    layer = cast(nn.Linear, cast(nn.Sequential, run.network)[1])
    logits = inputs @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(data)), batch.labels]
    return float(losses.sum() / (len(data) * np.prod(data.shape)))


def finite_differences(run: TrainedRun, data: DataSet, cells: int) -> tuple[float, float]:
    step = 1e-5
    lower = mean_loss(run, data, cells, step, 0) - mean_loss(run, data, cells, -step, 0)
    upper = mean_loss(run, data, cells, 0, step) - mean_loss(run, data, cells, 0, -step)
    return lower / (2 * step), upper / (2 * step)


SHAPES = [(1, 2, 3), (3, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cells", [2, 5])
def test_mean_gradients_equal_finite_differences(shape: tuple[int, int, int], cells: int) -> None:
    data = random_data(shape, 200)
    for seed in range(3):
        run = linear_run(data, cells, seed)
        expected = finite_differences(run, data, cells)
        # the network runs in float32; the differences are good to 1e-9
        assert mean_gradients(run, data) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_gradients_do_not_depend_on_where_the_images_come_from(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_BATCH", 7)  # the last batch is smaller
    data = random_data(shape, 40)
    run = linear_run(data, 4, seed=1)
    expected = finite_differences(run, data, 4)
    assert mean_gradients(run, data) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert mean_gradients(run, streamed(data)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_interleaved_channels_would_be_seen(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one channel both layouts are the same; with three, the planted bug mixes lower and upper ends."""
    data = random_data(shape, 60)
    run = linear_run(data, 4, seed=2)
    expected = finite_differences(run, data, 4)
    monkeypatch.setattr(torch.Tensor, "chunk", lambda tensor, parts, dim: (tensor[:, ::2], tensor[:, 1::2]))
    agrees = mean_gradients(run, data) == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert agrees == (shape[0] == 1)


def test_gradients_that_are_no_numbers_are_refused() -> None:
    data = random_data((1, 2, 2), 8)
    run = linear_run(data, 4, seed=0)
    with torch.no_grad():
        cast(nn.Linear, cast(nn.Sequential, run.network)[1]).weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="lower --learning-rate"):
        mean_gradients(run, data)


# --- the stop rule and the choice, with scripted trainings ------------------------------------------------------------


class Script:
    """Stands in for trainings: validation errors and gradients by number of cells."""

    def __init__(self, errors: Mapping[int, float], gradients: Mapping[int, tuple[float, float]]) -> None:
        self.errors, self.gradients = errors, gradients
        self.trained: list[int] = []

    def run_training(self, spec: Any, data: Any, folder: Path, observer: Any) -> TrainedRun:
        cells = int(folder.name.removeprefix("cells-"))
        self.trained.append(cells)
        errors = (self.errors.get(cells, 0.5), 1.0)
        rows = tuple({"seconds": 0.5, "validation_error": error} for error in errors)
        checkpoint = replace(a_run().checkpoint, best_epoch=1, epoch=2, history=rows)
        return replace(a_run(), grid=Grid(cells), checkpoint=checkpoint)

    def mean_gradients(self, run: TrainedRun, data: DataSet) -> tuple[float, float]:
        assert run.grid is not None
        return self.gradients.get(run.grid.cells, (-1.0, 1.0))

    def tune(self, folder: Path, monkeypatch: pytest.MonkeyPatch, config: TuningConfig | None = None) -> Tuned:
        monkeypatch.setattr(tuning, "run_training", self.run_training)
        monkeypatch.setattr(tuning, "mean_gradients", self.mean_gradients)
        data = digits_data(8, 8)
        return tune(
            digits_spec(), config or TuningConfig(0.1), data, folder, lambda _: SilentObserver(), lambda _: None
        )


@pytest.mark.parametrize("lower", [-2.0, -1e-30, 0.0, 1e-30, 2.0])
@pytest.mark.parametrize("upper", [-2.0, -1e-30, 0.0, 1e-30, 2.0])
def test_it_stops_where_upper_ends_want_to_rise_and_lower_ends_to_fall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lower: float, upper: float
) -> None:
    """Mean gradients below 0 at the upper ends and above 0 at the lower ends, both strictly (Algorithm 3, line 10)."""
    script = Script({}, {3: (lower, upper)})
    tuned = script.tune(tmp_path, monkeypatch)
    stops = upper < 0 and lower > 0
    assert script.trained == ([2, 3] if stops else [2, 3, 4, 5])
    assert [step.stops for step in tuned.steps] == [False, stops, *([] if stops else [False, False])]
    assert (tuned.steps[1].lower_gradient, tuned.steps[1].upper_gradient) == (lower, upper)


def test_steps_say_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = Script({2: 0.25, 3: 0.125}, {}).tune(tmp_path, monkeypatch, TuningConfig(0.1, most_steps=2))
    assert tuned.steps == (
        TuningStep(2, 1.0, 0.25, 1, 2, -1.0, 1.0, 1.0, False),
        TuningStep(3, 2 / 3, 0.125, 1, 2, -1.0, 1.0, 1.0, False),
    )
    assert tuned.best == tuned.steps[1]
    assert {path.name for path in tmp_path.iterdir()} == {TUNING}  # a step's folder is its training's


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=6))
def test_best_is_the_least_validation_error_and_the_coarser_of_equals(errors: list[float]) -> None:
    steps = tuple(
        msgspec.structs.replace(STEP, cells=cells, validation_error=error) for cells, error in enumerate(errors, 2)
    )
    best = Tuned(steps).best
    for step in steps:
        assert best.validation_error <= step.validation_error
        assert best.validation_error < step.validation_error or best.cells <= step.cells


def test_a_stopped_tuning_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Script({}, {3: (1.0, -1.0)}).tune(tmp_path, monkeypatch)
    again = Script({}, {})
    assert again.tune(tmp_path, monkeypatch) == first
    assert again.trained == []
