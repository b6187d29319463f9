"""TAPS and STAPS: the loss by hand, the gradient connector, limits in which it is IBP's, and a training that learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_interval_baselines import AFTER, CPU, EARLY, RADIUS, at, batch, ends, network
from test_interval_baselines import interval_margins as by_hand
from torch import Tensor, nn

from abscert_plugin.bounds.intervals import Box, propagated
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.training.config import Precision, TrainingConfig
from abscert_plugin.training.loop import SilentObserver, TrainingJob, train
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Objective
from baselines import taps
from baselines.taps import STAPS, TAPS, connected, differences, split, worst_points

BALL = Radius.parse(str(RADIUS))
CLOSE: dict[str, Any] = {"rel": 2e-5, "abs": 2e-5}  # float32 sums of numbers around 1, against float64
BOTH = pytest.mark.parametrize("entry", [TAPS, STAPS], ids=lambda entry: entry.name)


def objective(entry: MethodEntry, **options: str) -> Objective:
    return entry.create(BALL, {"start": "0.2", "ramp": "0.5", **options}).build(None, 255, CPU)


class Seen:
    """The boxes that the classifier was attacked in, and the points that were found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boxes: list[Box] = []
        self.points: list[Tensor] = []
        right = taps.worst_points

        def recorded(classifier: nn.Sequential, box: Box, labels: Tensor, steps: int) -> Tensor:
            self.boxes.append(box)
            self.points.append(right(classifier, box, labels, steps))
            return self.points[-1]

        monkeypatch.setattr(taps, "worst_points", recorded)


def logistic(values: np.ndarray) -> np.ndarray:
    """Return log(1 + sum of exp) over the rows."""
    return np.asarray(np.log1p(np.exp(values).sum(axis=0)))


# --- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [0, 1, 2])
def test_the_loss_of_taps_is_that_by_hand(monkeypatch: pytest.MonkeyPatch, activations: int) -> None:
    made, (images, labels), seen = network(5), batch(5), Seen(monkeypatch)
    found = objective(TAPS, classifier=str(activations)).loss(made, images, labels, at(AFTER))
    low, high = ends(images, RADIUS)
    weights = [(layer.weight, layer.bias) for layer in made if isinstance(layer, nn.Linear)]
    numbers = [(w.detach().double().numpy(), b.detach().double().numpy()) for w, b in weights]
    for weight, bias in numbers[: 2 - activations]:  # the box that the classifier is fed
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        low, high = low @ up.T + high @ down.T + bias, high @ up.T + low @ down.T + bias
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    np.testing.assert_allclose(seen.boxes[0].lower.detach().numpy(), low, rtol=0, atol=1e-5)
    np.testing.assert_allclose(seen.boxes[0].upper.detach().numpy(), high, rtol=0, atol=1e-5)
    points = seen.points[0].double().numpy()
    assert (points >= low - 1e-5).all()
    assert (points <= high + 1e-5).all()
    for weight, bias in numbers[2 - activations : -1]:
        points = np.maximum(points @ weight.T + bias, 0)
    logits = points @ numbers[-1][0].T + numbers[-1][1]
    attacked, images_left = np.zeros((2, len(labels))), range(len(labels))
    for row in range(2):
        for image in images_left:
            label = int(labels[image])
            attacked[row, image] = logits[row, image, (label + 1 + row) % 3] - logits[row, image, label]
    bounds = -by_hand(made, *ends(images, RADIUS), labels.numpy())
    sound = np.log(np.exp(bounds).sum(axis=1))
    assert found.item() == pytest.approx((logistic(attacked) * sound).mean(), **CLOSE)
    assert (logistic(attacked) <= sound + 1e-5).all()


def test_a_classifier_of_the_last_layer_alone_is_attacked_up_to_the_interval_bound() -> None:
    made, (images, labels) = network(3), batch(3)
    found = objective(TAPS, classifier="0").loss(made, images, labels, at(AFTER)).item()
    sound = np.log(np.exp(-by_hand(made, *ends(images, RADIUS), labels.numpy())).sum(axis=1))
    assert found == pytest.approx((sound**2).mean(), **CLOSE)


@BOTH
@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
def test_the_gradient_is_the_weighted_one(monkeypatch: pytest.MonkeyPatch, entry: MethodEntry, weight: float) -> None:
    made, (images, labels), seen = network(7), batch(7), Seen(monkeypatch)
    parameters = list(made.parameters())
    loss = objective(entry, weight=str(weight)).loss(made, images, labels, at(AFTER))
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    box, points = seen.boxes[0], seen.points[0]
    _, classifier = split(made, 1)
    values = differences(classifier, connected(box, points, 0.5), labels)
    attacked = torch.log1p(values.exp().sum(dim=0))
    # the interval bound by the rule of the centre, another way than the product of ends
    center, spread = box.center, box.radius
    for layer in list(classifier)[:-1]:
        if isinstance(layer, nn.Linear):
            center, spread = layer(center), nn.functional.linear(spread, layer.weight.abs())
        else:
            low, high = (center - spread).relu(), (center + spread).relu()
            center, spread = (low + high) / 2, (high - low) / 2
    last = made[-1]
    assert isinstance(last, nn.Linear)
    rows, offset = last.weight[labels][:, None] - last.weight, last.bias[labels][:, None] - last.bias
    upper = -(rows @ center[..., None])[..., 0] + (rows.abs() @ spread[..., None])[..., 0] - offset
    sound = upper.logsumexp(dim=1)
    parts = (weight * sound.detach() * attacked).mean() + (attacked.detach() * sound).mean()
    expected = torch.autograd.grad(parts, parameters, allow_unused=True, materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize(("entry", "rising"), [(TAPS, "ibp"), (STAPS, "sabr")])
def test_while_the_radius_rises_the_loss_is_that_of_ibp_or_of_sabr(entry: MethodEntry, rising: str) -> None:
    made, (images, labels) = network(2), batch(2)
    other = METHODS.named(rising).create(BALL, {"start": "0.2", "ramp": "0.5"}).build(None, 255, CPU)
    losses = []
    for one in (objective(entry), other):
        torch.manual_seed(0)
        losses.append(one.loss(made, images, labels, at(EARLY)).item())
    assert losses[0] == losses[1]


def test_the_whole_loss_begins_where_a_smoothed_rise_ends() -> None:
    made, (images, labels) = network(2), batch(2)
    at_end = objective(TAPS, classifier="0").loss(made, images, labels, at(70)).item()
    assert at_end == pytest.approx(objective(TAPS, classifier="0").loss(made, images, labels, at(99)).item(), **CLOSE)


def test_the_box_of_staps_is_the_share_of_that_of_taps(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (images, labels), seen = network(6), batch(6), Seen(monkeypatch)
    for entry, options in ((TAPS, {}), (STAPS, {"share": "1"}), (STAPS, {"share": "0.3"})):
        objective(entry, classifier="2", **options).loss(made, images, labels, at(AFTER))
    whole, same, small = (box.radius for box in seen.boxes)
    torch.testing.assert_close(same, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(small, 0.3 * whole, rtol=0, atol=1e-6)


# --- its parts -----------------------------------------------------------------------------------------------------


@given(st.floats(0, 1), st.floats(0.05, 1), st.floats(-2, 2), st.floats(0.125, 4))
@settings(max_examples=30)
def test_the_connector_is_its_formula(place: float, share: float, low: float, width: float) -> None:
    lower = torch.tensor([[low]], requires_grad=True)
    upper = torch.tensor([[low + width]], requires_grad=True)
    point = (lower + place * (upper - lower)).detach()[None]
    joined = connected(Box.between(lower, upper), point, share)
    assert torch.equal(joined, point)
    of_lower, of_upper = torch.autograd.grad(joined.sum(), (lower, upper))
    assert of_lower.item() == pytest.approx(max(0.0, 1 - place / share), abs=1e-4)  # float32 places
    assert of_upper.item() == pytest.approx(max(0.0, 1 - (1 - place) / share), abs=1e-4)


def test_a_box_without_width_moves_as_a_whole() -> None:
    lower, upper = (torch.tensor([[0.25, -1.0]], requires_grad=True) for _ in range(2))
    joined = connected(Box.between(lower, upper), lower.detach()[None], 0.5)
    gradients = torch.autograd.grad(joined.sum(), (lower, upper))
    assert all(torch.equal(gradient, torch.full((1, 2), 0.5)) for gradient in gradients)


@pytest.mark.parametrize("seed", range(5))
def test_more_steps_find_no_less_than_none_and_no_more_than_the_bound(seed: int) -> None:
    made, (images, labels) = network(seed), batch(seed)
    low, high = (torch.from_numpy(end).float().reshape(images.shape) for end in ends(images, RADIUS))
    extractor, classifier = split(made, 1)
    with torch.no_grad():
        box = propagated(extractor, Box.between(low, high))[0]
    found = []
    for steps in (0, 1, 8):
        torch.manual_seed(seed)
        with torch.enable_grad():
            points = worst_points(classifier, box, labels, steps)
        found.append(differences(classifier, points, labels).detach())
    others = (labels + torch.arange(1, 3)[:, None]) % 3
    bounds = torch.from_numpy(-by_hand(made, *ends(images, RADIUS), labels.numpy())).T.gather(0, others)
    assert (found[1] >= found[0]).all()
    assert (found[2] >= found[0]).all()
    assert (found[2] <= bounds + 1e-5).all()
    assert found[2].sum() > found[0].sum()


def test_a_step_that_goes_too_far_is_not_taken_for_the_worst_point() -> None:
    first, last = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
    tent = nn.Sequential(first, nn.ReLU(), last)  # logits 0 and -|z|
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        last.weight.copy_(torch.tensor([[0.0, 0.0], [-1.0, -1.0]]))
    box, labels = Box(torch.zeros(20, 1), torch.ones(20, 1)), torch.zeros(20, dtype=torch.int64)
    found = []
    for steps in (0, 1):  # one step is longer than the box is wide
        torch.manual_seed(0)
        found.append(differences(tent, worst_points(tent, box, labels, steps), labels).detach())
    assert torch.equal(found[0], found[1])
    assert found[0].min() > -1


@pytest.mark.parametrize(("activations", "count"), [(0, 7), (1, 5), (2, 2), (3, 0)])
def test_the_classifier_begins_with_the_layer_before_its_first_activation(activations: int, count: int) -> None:
    made = NetworkConfig("cnn-2layer", Activation.RELU, (1, 28, 28), 10, takes_intervals=False).build(0)
    extractor, classifier = split(made, activations)
    assert len(extractor) == count
    assert sum(isinstance(layer, nn.ReLU) for layer in classifier) == activations
    assert [*extractor, *classifier] == list(made.children())


@BOTH
@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("classifier", "-1", "classifier of at least 0"),
        ("latent_steps", "0", "latent_steps of at least 1"),
        ("connector", "0", "connector above 0 and at most 1"),
        ("weight", "nan", "weight of at least 0"),
        ("ramp", "2", "ramp from 0 to 1"),
    ],
)
def test_values_without_meaning_are_refused(entry: MethodEntry, option: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        entry.create(BALL, {option: text})


def test_a_network_with_too_few_activations_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ConfigError, match="classifier of at most 2 activation layers, got 3"):
        TAPS.create(BALL, {"classifier": "3"}).prepare(network(0))


@BOTH
def test_a_network_with_batch_norm_records_the_clean_batch_alone(entry: MethodEntry) -> None:
    images, labels = batch(1)
    made = nn.Sequential(
        *(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU()),
        *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
    )
    twin = nn.Sequential(*made)
    loss = objective(entry).loss(made, images, labels, at(AFTER))
    torch.autograd.backward(loss)
    recorded = [layer.running_mean.clone() for layer in made if isinstance(layer, nn.BatchNorm1d)]  # type: ignore[union-attr]
    for layer in twin:
        if isinstance(layer, nn.BatchNorm1d):
            layer.reset_running_stats()
    with torch.no_grad():
        twin(2 * (images.float() / 255) - 1)
    again = [layer.running_mean for layer in twin if isinstance(layer, nn.BatchNorm1d)]
    for one, other in zip(recorded, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# --- a training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@BOTH
def test_a_few_hundred_images_teach_it_the_ball(mnist_dir: Path, tmp_path: Path, entry: MethodEntry) -> None:
    training, validation = (
        load_data("mnist", part, mnist_dir).first(count)
        for part, count in ((Split.TRAIN, 400), (Split.VALIDATION, 200))
    )
    short: dict[str, str] = {name: "2" for name in ("latent_steps", "attack_steps") if name in entry.option_names}
    method = entry.create(Radius.parse("0.01"), {"ramp": "0.2", **short})
    made = NetworkConfig("cnn-2layer", Activation.RELU, training.shape, 10, takes_intervals=False).build(0)
    config = TrainingConfig(
        epochs=5, batch_size=20, learning_rate=2e-3, patience=0, gradient_clip=10.0, precision=Precision.FLOAT32
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method.prepare(made)
        goal = method.build(None, training.levels, CPU)
        job = TrainingJob(made, goal, training, validation, config, CPU, tmp_path, {"of": "a test"})
        checkpoint = train(job, None, SilentObserver())
    errors = [row["validation_error"] for row in checkpoint.history]  # of interval bounds; the first epochs are IBP's
    assert errors[-1] < 0.5
    assert errors[-1] < min(errors[:2]) - 0.05
