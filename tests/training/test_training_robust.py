"""Sound training for a ball: its boxes, its schedule, and its losses against formulas written out here."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import grids, uint8_images
from tiny_networks import tiny_network
from torch import Tensor, nn
from torch.nn import functional

from abscert_plugin.bounds.intervals import Box, interval_margins, warmup_regulariser
from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.reachable import ReachableCells
from abscert_plugin.training.robust import CellAttack, RobustConfig, RobustLoss, RobustObjective, Selection

CPU = torch.device("cpu")
RADIUS = Radius.parse("0.2")
START, MIDDLE, END = Moment(0, 10, 10), Moment(50, 10, 10), Moment(100, 10, 10)


def stored(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return images, torch.randint(3, (count,), generator=generator)


def config(**options: Any) -> RobustConfig:
    return RobustConfig(RADIUS, **{"start": 0.0, "ramp": 1.0, "regulariser": 0.0, **options})


# --- boxes --------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(st.data(), grids(12), st.sampled_from([0.0, 1 / 255, 0.05, 0.1, 0.3, 1.0]), st.sampled_from([16, 255]))
def test_boxes_are_those_of_the_lowest_and_highest_reachable_cells(
    data: st.DataObject, grid: Grid, radius: float, levels: int
) -> None:
    images = data.draw(uint8_images((3, 2, 2, 2), levels))
    balls = ReachableCells(grid, levels, CPU)
    pixels = images.astype(np.float32) / np.float32(levels)
    low, high = grid.reachable(pixels, radius)
    box = balls.box(torch.from_numpy(images), radius)
    expected = Box.between(torch.from_numpy(grid.ends(low)), torch.from_numpy(grid.ends(high)))
    assert torch.equal(box.center, expected.center)
    assert torch.equal(box.radius, expected.radius)
    center = balls.center(torch.from_numpy(images))
    assert np.array_equal(center.numpy(), grid.interval_image(pixels))
    # half-sums of float32 ends round once
    assert (box.lower <= center + 1e-6).all()
    assert (center <= box.upper + 1e-6).all()


def test_another_radius_gives_another_box() -> None:
    balls, (images, _) = ReachableCells(Grid(5), 255, CPU), stored(0)
    narrow, wide, again = (balls.box(images, radius).radius for radius in (0.05, 0.3, 0.05))
    assert float(wide.sum()) > float(narrow.sum())
    assert torch.equal(narrow, again)


@pytest.mark.parametrize("attack", CellAttack)
@pytest.mark.parametrize("steps", [1, 3])
def test_adversarial_inputs_are_reachable_and_raise_the_loss(steps: int, attack: CellAttack) -> None:
    network, balls, (images, labels) = tiny_network(3), ReachableCells(Grid(4), 255, CPU, attack), stored(1, 64)
    box = balls.box(images, 0.2)
    torch.manual_seed(0)
    found = balls.adversarial(network, box, labels, steps)
    at_low, at_high = (found - box.lower).abs() < 1e-6, (found - box.upper).abs() < 1e-6
    assert (at_low | at_high).all()
    # both ends of a pixel belong to one cell
    both_low, both_high = at_low[:, :1] & at_low[:, 1:], at_high[:, :1] & at_high[:, 1:]
    assert (both_low | both_high).all()
    before, after = (functional.cross_entropy(network(x), labels) for x in (balls.center(images), found))
    assert after > before


def test_steps_between_ends_find_more_than_those_that_jump_from_end_to_end() -> None:
    images, labels = stored(1, 64)
    losses = {}
    for attack in CellAttack:
        balls = ReachableCells(Grid(2), 255, CPU, attack)
        box = balls.box(images, 0.3)
        torch.manual_seed(0)
        losses[attack] = [
            float(functional.cross_entropy(network(balls.adversarial(network, box, labels, 10)), labels).detach())
            for network in map(tiny_network, range(8))
        ]
    ends, between = losses[CellAttack.ENDS], losses[CellAttack.BETWEEN]
    assert sum(b >= a for a, b in zip(ends, between, strict=True)) >= 6
    assert sum(between) > sum(ends)


def test_runs_from_before_there_was_a_choice_of_attacks_are_described_alike() -> None:
    config = RobustConfig(Radius.parse("0.1"))
    assert "attack" not in config.describe()
    assert replace(config, attack=CellAttack.BETWEEN).describe() == {**config.describe(), "attack": "between"}


# --- schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "ramp", "step", "expected"),
    [
        (0.0, 1.0, 0, 0.0),
        (0.0, 1.0, 50, 0.5),
        (0.0, 1.0, 100, 1.0),
        (0.2, 0.4, 19, 0.0),
        (0.2, 0.4, 20, 0.0),
        (0.2, 0.4, 40, 0.5),
        (0.2, 0.4, 60, 1.0),
        (0.2, 0.4, 99, 1.0),
        (0.3, 0.0, 29, 0.0),
        (0.3, 0.0, 30, 1.0),
    ],
)
def test_the_radius_rises_as_the_schedule_says(start: float, ramp: float, step: int, expected: float) -> None:
    found = RobustConfig(RADIUS, start=start, ramp=ramp).progress(Moment(step, 10, 10))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"share": -0.1}, "share from 0 to 1"),
        ({"share": float("nan")}, "share from 0 to 1"),
        ({"natural_end": 1.1}, "natural_end from 0 to 1"),
        ({"start": -0.1}, "start from 0 to 1"),
        ({"ramp": 1.5}, "ramp from 0 to 1"),
        ({"start": 0.6, "ramp": 0.6}, "start and ramp within the training"),
        ({"regulariser": -1.0}, "regulariser of at least 0"),
        ({"regulariser": float("inf")}, "regulariser of at least 0"),
        ({"attack_steps": 0}, "attack_steps of at least 1"),
        ({"interval_batch": 0.0}, "interval_batch above 0"),
        ({"interval_batch": 0.5}, "loss of mtl-ibp"),
        ({"attacked_batch": 0.0}, "attacked_batch above 0"),
        ({"attacked_batch": 1.5}, "attacked_batch above 0 and at most 1"),
        ({"attacked_batch": 0.5, "loss": RobustLoss.SABR}, "loss of mtl-ibp .* with attacked_batch"),
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RobustConfig(RADIUS, **options)


# --- losses -------------------------------------------------------------------------------------------------------


class Fixed:
    """Balls whose adversarial input is known: three quarters of the way from the lower to the upper end."""

    def __init__(self, balls: ReachableCells) -> None:
        self.center, self.box = balls.center, balls.box

    def adversarial(self, network: nn.Module, box: Box, labels: Tensor, steps: int) -> Tensor:
        return box.lower + 0.75 * (box.upper - box.lower)


class RecordingAttack(Fixed):
    """Remembers how many inputs were attacked with how many steps."""

    def __init__(self, balls: Fixed) -> None:
        self.center, self.box = balls.center, balls.box
        self.asked: list[tuple[int, int]] = []

    def adversarial(self, network: nn.Module, box: Box, labels: Tensor, steps: int) -> Tensor:
        self.asked.append((len(labels), steps))
        return super().adversarial(network, box, labels, steps)


class FartherWithSteps(Fixed):
    """Whose inputs lie a tenth farther from the lower end with each step, ten of which reach the upper one."""

    def adversarial(self, network: nn.Module, box: Box, labels: Tensor, steps: int) -> Tensor:
        return box.lower + steps / 10 * (box.upper - box.lower)


def objective(balls: Fixed, **options: object) -> RobustObjective:
    return RobustObjective("reachable", balls, config(**options))


def interval_loss(network: nn.Sequential, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the worst margins: log of the sum of exp(-margin)."""
    margins = interval_margins(network, Box.between(lower, upper), labels).lower
    return (-margins).exp().sum(dim=1).log().mean()


def natural_loss(network: nn.Sequential, inputs: Tensor, labels: Tensor) -> Tensor:
    logits = network(inputs)
    return (logits.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]).mean()


@pytest.mark.parametrize("natural_end", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("moment", [START, MIDDLE, END])
@pytest.mark.parametrize("loss", list(RobustLoss))
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_losses_are_their_formulas(natural_end: float, moment: Moment, loss: RobustLoss, share: float) -> None:
    network, (images, labels) = tiny_network(5), stored(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.1)
    grid, progress = Grid(4), moment.step / 100
    balls = Fixed(ReachableCells(grid, 255, CPU))
    pixels = images.numpy().astype(np.float32) / np.float32(255)
    low, high = (torch.from_numpy(grid.ends(cells)) for cells in grid.reachable(pixels, 0.2 * progress))
    point = low + 0.75 * (high - low)
    if loss is RobustLoss.SABR:  # the small box around the point, of `share` of the size, moved into the whole one
        half = share * (high - low) / 2
        center = torch.minimum(torch.maximum(point, low + half), high - half)
        robust = interval_loss(network, center - half, center + half, labels)
    else:
        robust = interval_loss(network, low, high, labels)
    if loss is RobustLoss.MTL_IBP:
        robust = (1 - share) * natural_loss(network, point, labels) + share * robust
    weight = 1 - progress * (1 - natural_end)
    natural = natural_loss(network, torch.from_numpy(grid.interval_image(pixels)), labels)
    found = objective(balls, natural_end=natural_end, loss=loss, share=share).loss(network, images, labels, moment)
    # float32 sums of a few numbers around 1
    torch.testing.assert_close(found, weight * natural + (1 - weight) * robust, rtol=1e-5, atol=1e-5)


def test_intervals_of_a_part_of_the_batch() -> None:
    network, (images, labels) = tiny_network(5), stored(5, count=8)
    balls, options = Fixed(ReachableCells(Grid(4), 255, CPU)), {"loss": RobustLoss.MTL_IBP, "share": 0.4}
    found = objective(balls, **options, interval_batch=0.25).loss(network, images, labels, END)
    only, part = ({**options, "share": share} for share in (0.0, 1.0))
    attacked = objective(balls, **only).loss(network, images, labels, END)
    bounded = objective(balls, **part).loss(network, images[:2], labels[:2], END)
    torch.testing.assert_close(found, 0.6 * attacked + 0.4 * bounded)


@pytest.mark.parametrize(("part", "count"), [(0.5, 4), (0.01, 1)])
def test_boxes_of_a_part_are_normalised_by_the_whole_batch(part: float, count: int) -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    images, labels = stored(5, count=8)
    balls = Fixed(ReachableCells(Grid(4), 255, CPU))
    found = objective(balls, loss=RobustLoss.MTL_IBP, share=1.0, interval_batch=part).loss(network, images, labels, END)
    box = balls.box(images, RADIUS.outward).of(slice(count))
    bounds = interval_margins(network, box, labels[:count], balls.center(images))
    torch.testing.assert_close(found, functional.cross_entropy(-bounds.lower, labels[:count]))


@pytest.mark.parametrize(("part", "count"), [(0.25, 2), (0.01, 1), (1.0, 8)])
def test_an_attack_on_the_images_of_the_largest_loss(part: float, count: int) -> None:
    network, (images, labels) = tiny_network(5), stored(5, count=8)
    balls, options = Fixed(ReachableCells(Grid(4), 255, CPU)), {"loss": RobustLoss.MTL_IBP, "share": 0.4}
    attacked = RecordingAttack(balls)
    found = objective(attacked, **options, attacked_batch=part).loss(network, images, labels, END)
    point = balls.adversarial(network, balls.box(images, 0.2), labels, 0)
    losses = torch.stack([natural_loss(network, point[[i]], labels[[i]]) for i in range(8)])
    bounded = objective(balls, **{**options, "share": 1.0}).loss(network, images, labels, END)
    torch.testing.assert_close(found, 0.6 * losses.sort().values[-count:].sum() / 8 + 0.4 * bounded)
    assert attacked.asked == [(8, 0), (count, 3)][count == 8 :]  # a random input of all, three steps for some


def test_bounds_are_in_float32_where_passes_are_in_bfloat16() -> None:
    network, (images, labels) = tiny_network(5), stored(5)
    balls = Fixed(ReachableCells(Grid(4), 255, CPU))
    exact = objective(balls).loss(network, images, labels, END)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective(balls).loss(network, images, labels, END), exact)
        attacked = objective(balls, loss=RobustLoss.MTL_IBP, share=0.0).loss(network, images, labels, END)
    assert attacked.dtype == torch.float32


def test_epochs_chosen_by_an_attack_count_what_it_refutes() -> None:
    """Of a tiny network every reachable combination is run: an attack finds no less than the least margin."""
    for seed in range(6):
        network, (images, labels) = tiny_network(seed), stored(seed)
        balls = ReachableCells(Grid(4), 255, CPU)
        chosen = RobustObjective("reachable", balls, config(selection=Selection.ATTACK))
        torch.manual_seed(seed)
        with torch.no_grad():
            found = chosen.margins(network, images, labels)
            assert torch.equal(found, chosen.margins(network, images, labels))
        bounds = RobustObjective("reachable", balls, config()).margins(network, images, labels)
        own = network(balls.center(images))
        assert (found >= bounds - 1e-5).all()
        label = own.gather(1, labels[:, None])
        assert (found <= (label - own).scatter(1, labels[:, None], torch.inf).amin(dim=1) + 1e-5).sum() >= 5


def test_images_that_a_short_attack_nearly_refutes_are_attacked_for_long() -> None:
    network, (images, labels) = tiny_network(5), stored(5, count=24)
    balls = FartherWithSteps(ReachableCells(Grid(4), 255, CPU))
    chosen = RobustObjective("reachable", balls, config(selection=Selection.ATTACK))
    box = balls.box(images, 0.2)

    def margins_at(share: float) -> Tensor:
        logits = network(box.lower + share * (box.upper - box.lower))
        return (logits.gather(1, labels[:, None]) - logits).scatter(1, labels[:, None], torch.inf).amin(dim=1)

    with torch.no_grad():
        found, first, far = chosen.margins(network, images, labels), margins_at(0.3), margins_at(1.0)
    open_yet = first.where(first > 0, torch.inf)
    near = open_yet <= open_yet.sort().values[5]  # a quarter of 24
    assert (first > 0).sum() > 6
    assert all((far < first)[some].any() for some in (near, ~near))
    torch.testing.assert_close(found, torch.where(near, torch.minimum(first, far), first))


@pytest.mark.parametrize("loss", list(RobustLoss))
def test_a_ball_of_radius_0_has_the_cross_entropy_of_its_image(loss: RobustLoss) -> None:
    network, (images, labels) = tiny_network(6), stored(6)
    balls = Fixed(ReachableCells(Grid(4), 255, CPU))
    options = RobustConfig(Radius.parse("0"), loss=loss, start=0.0, ramp=0.5, regulariser=0.0)
    expected = functional.cross_entropy(network(balls.center(images)), labels)
    for moment in (START, MIDDLE, END):
        found = RobustObjective("reachable", balls, options).loss(network, images, labels, moment)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # float32 sums in another order


def test_the_regulariser_fades_as_the_radius_rises() -> None:
    network, (images, labels) = tiny_network(7), stored(7)
    balls = Fixed(ReachableCells(Grid(4), 255, CPU))
    for moment in (START, MIDDLE, END):
        progress = moment.step / 100
        box = balls.box(images, 0.2 * progress)
        penalty = warmup_regulariser(box, interval_margins(network, box, labels).hidden)
        with_it, without = (
            objective(balls, regulariser=weight).loss(network, images, labels, moment) for weight in (0.5, 0.0)
        )
        torch.testing.assert_close(with_it - without, 0.5 * (1 - progress) * penalty, rtol=1e-3, atol=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from(["0", "0.1", "0.2", "1/3"]))
def test_margins_hold_for_every_combination_of_reachable_cells(seed: int, cells: int, radius: str) -> None:
    network, (images, labels), grid = tiny_network(seed), stored(seed), Grid(cells)
    made = RobustObjective("reachable", ReachableCells(grid, 255, CPU), RobustConfig(Radius.parse(radius)))
    pixels = images.numpy().astype(np.float32) / np.float32(255)
    lowest, highest = grid.reachable(pixels, float(Radius.parse(radius).pixel))
    with torch.no_grad():
        found = made.margins(network, images, labels)
        for row, label in enumerate(labels.tolist()):
            ends = zip(lowest[row].ravel().tolist(), highest[row].ravel().tolist(), strict=True)
            choices = np.array(list(product(*(range(low, high + 1) for low, high in ends))), dtype=np.uint8)
            logits = network(torch.from_numpy(grid.ends(choices.reshape(-1, 1, 2, 2))))
            others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).amax(dim=1)
            least = (logits[:, label] - others).min()
            assert float(found[row]) <= float(least) + 1e-4  # float32 sums of numbers of some tens
            if len(choices) == 1:
                assert float(found[row]) == pytest.approx(float(least), abs=1e-4)


def test_a_network_that_is_no_sequence_is_refused() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_network(0)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs)

    images, labels = stored(0)
    with pytest.raises(ConfigError, match="a sequence of layers, got Wrapped"):
        objective(Fixed(ReachableCells(Grid(4), 255, CPU))).loss(Wrapped(), images, labels, END)
