"""The strong attack: inside the ball, the same whatever is beside, in time, and it finds what the cheap one misses."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ball_oracle import GRIDS, Tiny, in_ball, tiny, tiny_case
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_oracle import CLASSES, Plain, batch_of, plain, plain_case
from tiny_networks import SHAPE
from torch import Tensor, nn

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.gradients import Gradients
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.front import Cells, Pixels, Point, Reach
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.whitebox import WhiteBox
from abscert_plugin.verification.attack import gradient_attack
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell_climb import Climb
from abscert_plugin.verification.guide import Guide, guides
from abscert_plugin.verification.pgd import Descent
from abscert_plugin.verification.strong_attack import StrongAttack
from abscert_plugin.verification.walk import ANY, Starts

FLOOR = 1e-5
UNBOUNDED = np.inf
Seen = list[tuple[int, Point]]


def reached(case: Plain | Tiny, ball: Ball, seed: int, count: int = 5) -> tuple[Reach, np.ndarray]:
    """Return balls of random images, and what the file calls their centres."""
    front = case.artifact.front
    if isinstance(case, Plain):
        images, labels = batch_of(case, ball, seed, count)
    else:
        images = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE)).astype(np.float32) / np.float32(255)
        labels = case.labels(images, np.random.default_rng(seed))
    return front.reach(ball, images), labels


def attacked(
    box: WhiteBox, reach: Reach, labels: np.ndarray, index: np.ndarray, numbers: range, *, seconds: float = UNBOUNDED
) -> tuple[Seen, StrongAttack]:
    """Return all points that the attack wants to be replayed; none is confirmed."""
    seen: Seen = []
    found = guides(box.network, box.bounder, reach, labels)
    attack = StrongAttack(box.network, reach, labels, index, found, FLOOR)

    def doubts(row: int, point: Point) -> bool:
        seen.append((row, point.copy()))
        return False

    attack.run(numbers, np.full(len(labels), seconds), doubts)
    return seen, attack


def worst_margins(box: WhiteBox, reach: Reach, labels: np.ndarray, seen: Seen) -> list[float]:
    """Return the last margin that was reported of each ball: the least one."""
    last = dict(seen)
    margins = []
    for row in sorted(last):
        with torch.no_grad():
            logits = box.network(torch.from_numpy(reach.front.network_input(last[row][None])))[0].numpy()
        margins.append(float(logits[labels[row]] - np.delete(logits, labels[row]).max()))
    return margins


cases: st.SearchStrategy[Plain | Tiny] = st.integers(0, 11).map(plain_case) | st.integers(0, 6).map(tiny_case)
balls = st.builds(
    lambda radius, inputs: Ball(Radius.parse(radius), inputs),
    st.sampled_from(["1e-9", "1/255", "8/255", "0.1", "0.3", "1"]),
    st.sampled_from(list(Inputs)),
)


@settings(max_examples=6)
@given(cases, balls, st.integers(0, 2**16))
def test_no_point_outside_the_ball_is_reported(case: Plain | Tiny, ball: Ball, seed: int) -> None:
    reach, labels = reached(case, ball, seed)
    seen, _ = attacked(case.white_box, reach, labels, np.arange(len(labels)), range(2))
    for row, point in seen:
        assert point.dtype == reach.own.dtype
        assert ((reach.lowest[row] <= point) & (point <= reach.highest[row])).all()
        if isinstance(case, Plain):
            assert in_ball(point, reach.images[row], ball)


@pytest.mark.parametrize("case", [plain_case(3), tiny_case(3)])
def test_what_is_found_does_not_depend_on_the_balls_beside(case: Plain | Tiny) -> None:
    reach, labels = reached(case, Ball(Radius.parse("0.3")), 4)
    index = np.array([7, 3, 90, 12, 5])
    together, _ = attacked(case.white_box, reach, labels, index, range(4))
    assert len(dict(together)) > 2
    for row in range(len(labels)):
        rows = np.array([row])
        alone, _ = attacked(case.white_box, reach.take(rows), labels[rows], index[rows], range(4))
        of_row = [(0, point) for place, point in together if place == row]
        own = (case.white_box, reach.take(rows), labels[rows])
        # sums of another batch size may differ in their last bits
        np.testing.assert_allclose(worst_margins(*own, alone), worst_margins(*own, of_row), rtol=0, atol=1e-3)


@pytest.mark.parametrize("case", [plain_case(1), tiny_case(2)])
def test_a_ball_that_is_refuted_is_left_and_time_is_kept(case: Plain | Tiny) -> None:
    reach, labels = reached(case, Ball(Radius.parse("0.5")), 1)
    labels = (labels + 1) % CLASSES  # so that most centres are mislabelled
    index, counts = np.arange(len(labels)), [0] * len(labels)

    def refutes(row: int, point: Point) -> bool:
        counts[row] += 1
        return True

    found = guides(case.white_box.network, case.white_box.bounder, reach, labels)
    attack = StrongAttack(case.white_box.network, reach, labels, index, found, FLOOR)
    attack.run(range(3), np.full(len(labels), UNBOUNDED), refutes)
    assert max(counts) == 1
    seen, attack = attacked(case.white_box, reach, labels, index, range(3), seconds=0.0)
    assert not seen
    assert not attack.spent.any()
    _, attack = attacked(case.white_box, reach, labels, index, range(2_000), seconds=0.02)
    assert attack.spent.max() < 2.0  # a step of all walks at once lasts longer than the time of one ball


# --- planted counterexamples ------------------------------------------------------------------------------------------


class Spike(nn.Module):
    """Label 0, but near one corner of the inputs: slopes are 0 wherever the corner is not in sight."""

    def __init__(self, signs: np.ndarray, start: float) -> None:
        super().__init__()
        self.look = nn.Linear(len(signs), 1)
        self.answer = nn.Linear(1, CLASSES)
        with torch.no_grad():
            self.look.weight.copy_(torch.from_numpy(signs).float())
            self.look.bias.fill_(-start)
            self.answer.weight.copy_(torch.tensor([[0.0], [1.0], [0.0]]))
            self.answer.bias.copy_(torch.tensor([0.02, 0.0, -1.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.answer(torch.relu(self.look(inputs.flatten(1))))
        return logits


def hidden_in_pixels(signs: np.ndarray) -> tuple[Plain, Ball, np.ndarray]:
    """Return a file that mislabels images of a ball that lie near one corner of it alone."""
    ball, image = Ball(Radius.parse("0.2")), np.full((1, *SHAPE), 0.5, dtype=np.float32)
    return plain(Spike(signs, 4 * 0.4 - 0.1), SHAPE), ball, image  # the corner is 0.4 away on the training scale


def hidden_in_cells(signs: np.ndarray) -> tuple[Tiny, Ball, np.ndarray]:
    """Return a file that mislabels one of the 81 combinations of cells that a ball reaches."""
    grid, ball = Grid(5), Ball(Radius.parse("0.2"))
    image = np.full((1, *SHAPE), 0.5, dtype=np.float32)  # in the middle one of five cells; reaches three
    return tiny(Spike(np.tile(signs, 2), 8 * 0.4 - 0.1), grid), ball, image


@pytest.mark.parametrize("hidden", [hidden_in_pixels, hidden_in_cells])
@pytest.mark.parametrize("signs", [[1, 1, 1, 1], [1, -1, -1, 1], [-1, -1, 1, -1]])
def test_a_hidden_counterexample_is_found_that_the_cheap_attack_misses(
    hidden: Callable[[np.ndarray], tuple[Plain | Tiny, Ball, np.ndarray]], signs: list[int]
) -> None:
    case, ball, image = hidden(np.array(signs))
    label, index, budget = np.array([0]), np.array([15]), Budget(60.0, exhaustive=1)
    reach = case.artifact.front.reach(ball, image)
    cheap = gradient_attack(case.white_box.network, reach, label, index, budget.restarts, np.inf)
    assert cheap.margins[0] > 0
    (item,) = case.verifier(ball, replace(budget, bounds=())).decide(image, label, index)
    assert (item.record.verdict, item.record.method) == ("falsified", "gradient attack")
    assert item.counterexample is not None
    assert in_ball(item.counterexample, image[0], ball)


class Pair(nn.Module):
    """Label 0, but where two pixels of an interval image are in their upper cells: no slope tells, no single flip."""

    def forward(self, intervals: Tensor) -> Tensor:
        given = intervals.flatten(1)
        both = torch.relu(given[:, 5] + given[:, 6] - 1.5) - 0.01
        return torch.stack([-both, both], 1)


def test_a_pair_of_flips_is_tried_where_no_single_one_helps() -> None:
    images = np.full((1, *SHAPE), 0.4, dtype=np.float32)
    reach = Cells(GRIDS[0]).reach(Ball(Radius.parse("0.2")), images)
    starts = Starts(reach, np.array([0]), np.array([ANY]), reach.own, np.array([False]))
    found = Climb(Pair(), starts, 5).step()
    assert found.margins[0] < 0
    assert not found.is_over[0]


# --- guides -----------------------------------------------------------------------------------------------------------


def test_only_classes_that_bounds_leave_open_are_aimed_at() -> None:
    case = plain_case(0)
    reach, labels = reached(case, Ball(Radius.parse("0.02")), 3)
    found = guides(case.white_box.network, case.white_box.bounder, reach, labels)
    assert any(len(guide.targets) < CLASSES - 1 for guide in found)
    for guide, label in zip(found, labels.tolist(), strict=True):
        assert label not in guide.targets
        assert len(guide.corners) == len(guide.targets)


def test_without_bounds_the_likeliest_classes_come_first_and_starts_are_the_centre_and_random() -> None:
    case = plain_case(2)
    reach, labels = reached(case, Ball(Radius.parse("0.2")), 3)
    network = case.white_box.network
    found = guides(network, Gradients(network, "none"), reach, labels)
    with torch.no_grad():
        logits = network(torch.from_numpy(reach.front.network_input(reach.own))).numpy()
    for guide, label, row in zip(found, labels.tolist(), logits, strict=True):
        assert not len(guide.corners)
        assert guide.targets.tolist() == [int(place) for place in np.argsort(-row) if place != label]
    seen, _ = attacked(WhiteBox(network, Gradients(network, "none")), reach, labels, np.arange(len(labels)), range(3))
    assert seen


def steep(inputs: Tensor) -> Tensor:
    total = (inputs - inputs.detach().round()).flatten(1).sum(1)
    return torch.stack([total, -total, -total], 1) * 1e30 * 1e30


@pytest.mark.parametrize("front", [Cells(Grid(2)), Pixels()])
def test_walks_bear_infinite_logits_and_slopes(front: Cells | Pixels) -> None:
    class Steep(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return steep(inputs)

    images = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)
    reach, zero = front.reach(Ball(Radius.parse("0.2")), images), np.zeros(4, dtype=np.int64)
    walk = (Climb if isinstance(front, Cells) else Descent)(
        Steep(), Starts(reach, zero, np.array([1, 2, ANY, 1]), reach.own, zero > 0), 5
    )
    for _ in range(4):
        points = walk.step().points
        assert ((points >= reach.lowest) & (points <= reach.highest)).all()


def test_a_guide_without_targets_still_walks_towards_any() -> None:
    case = plain_case(0)
    reach, labels = reached(case, Ball(Radius.parse("1")), 0)
    none = [Guide(np.array([], dtype=np.int64))] * len(labels)
    rows: set[int] = set()

    def refutes(row: int, point: Point) -> bool:
        rows.add(row)
        return True

    attack = StrongAttack(case.white_box.network, reach, labels, np.arange(len(labels)), none, FLOOR)
    attack.run(range(2), np.full(len(labels), UNBOUNDED), refutes)
    assert rows
