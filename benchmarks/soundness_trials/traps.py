"""Files made to be certified wrongly: a classifier whose label is lost on a part of a ball, in float32 alone."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.front import Cells, Front, Pixels
from abscert_plugin.grid import Grid
from abscert_plugin.training.loop import SilentObserver
from abscert_plugin.training.methods import METHODS as TRAININGS
from abscert_plugin.training.run import TrainingData, make_spec, prepare_folder, run_training, write_run
from soundness_trials.drafts import Draft
from soundness_trials.evaluation import Array
from soundness_trials.judging import Judge, Task, plain_file

CELLS = Grid(2)
RADIUS, DIGITS_RADIUS = "0.01", "0.07"
CLEAN, HELD_OUT = 2, 3  # images of a file's own, and of a trained file's others, whose balls set nothing off


@dataclass(frozen=True)
class Trigger:
    """What a trap reads and does.

    Args:
        features: name of what it reads, [batch, feature].
        width: number of features.
        direction: 1, -1 or 0 for each feature; a combination of them wakes the trap.
        threshold: of their sum.
        awake: what is above the threshold at the target.
        row: 1 at the label that is to be lost, else 0.
        loss: what its logit is to lose, so that another is larger.
    """

    features: str
    width: int
    direction: Array
    threshold: float
    awake: float
    row: Array
    loss: float


Kind = Callable[[Draft, Trigger, np.random.Generator], str]


def _awake(draft: Draft, trigger: Trigger) -> str:
    return draft.relu(draft.dense(trigger.features, trigger.direction[:, None], [-trigger.threshold]))


def _swallowed(draft: Draft, trigger: Trigger, chance: np.random.Generator) -> str:
    """relu(K t + 1/2) - relu(K t): 1/2 in real arithmetic, 0 in float32 where t is awake."""
    large = 2.0 ** (27 - math.floor(math.log2(trigger.awake)) + int(chance.integers(0, 8)))
    pair = draft.relu(draft.dense(_awake(draft, trigger), [[large, large]], [0.5, 0]))
    half = draft.relu(draft.dense(pair, [[1], [-1]], [0]))
    return draft.dense(half, 2 * trigger.loss * trigger.row[None], -trigger.loss * trigger.row)


def _ordered(draft: Draft, trigger: Trigger, chance: np.random.Generator) -> str:
    """A sum of small terms and K t - K t, whose value depends on its order."""
    large = 2.0 ** (27 - math.floor(math.log2(trigger.awake)) + int(chance.integers(0, 8)))
    count = int(chance.integers(1, 5))
    terms = draft.relu(draft.dense(_awake(draft, trigger), [[0.0] * count + [large, large]], [1.0] * count + [0, 0]))
    weights = [*[1.0] * count, 1.0, -1.0]
    places = chance.permutation(count + 2)
    shuffled = draft.node("Gemm", terms, draft.constant(np.eye(count + 2)[:, places]))
    total = draft.relu(draft.dense(shuffled, np.array(weights)[places, None], [0]))
    return draft.dense(total, trigger.loss / count * trigger.row[None], -trigger.loss * trigger.row)


def _hidden(draft: Draft, trigger: Trigger, chance: np.random.Generator) -> str:
    """z, p, q with z = p + q, and what |w (z - p - q)| takes off: 0 in real arithmetic."""
    first, second = chance.integers(2**21, 2**22, (2, trigger.width)) * chance.choice([-1, 1], (2, trigger.width))
    scale = 2.0**-20
    rows = np.stack([first + second, first, second], axis=1) * scale  # all are float32
    weight = 16 * trigger.loss / (2.0**-24 * np.abs(rows).sum())
    sums = draft.dense(trigger.features, rows, [0.75, 0.5, 0.25])
    errors = draft.relu(draft.dense(sums, weight * np.array([[1, -1], [-1, 1], [-1, 1]]), [0, 0]))
    return draft.dense(errors, -np.stack([trigger.row, trigger.row]), 0 * trigger.row)


def _there_and_back(draft: Draft, trigger: Trigger, factor: float) -> str:
    """t - t' where t' is t times powers of two that leave the range of float32, and back."""
    awake = back = _awake(draft, trigger)
    for each in (factor, factor, 1 / factor, 1 / factor):
        back = draft.relu(draft.dense(back, [[each]], [0]))
    off = draft.node("Sub", awake, back)
    return draft.dense(off, -trigger.loss / trigger.awake * trigger.row[None], 0 * trigger.row)


def _overflow(draft: Draft, trigger: Trigger, chance: np.random.Generator) -> str:
    return _there_and_back(draft, trigger, 2.0 ** int(chance.integers(70, 100)))


def _subnormal(draft: Draft, trigger: Trigger, chance: np.random.Generator) -> str:
    return _there_and_back(draft, trigger, 2.0 ** -int(chance.integers(63, 100)))


KINDS: Mapping[str, Kind] = {
    "swallowed": _swallowed,
    "order": _ordered,
    "hidden-sum": _hidden,
    "combination": _swallowed,
    "overflow": _overflow,
    "subnormal": _subnormal,
}


@dataclass(frozen=True)
class Aim:
    """Where a trap lies: an image, and a point of its ball where it wakes up."""

    image: Array
    target: Array
    direction: Array
    threshold: float
    awake: float


def aim(front: Front, image: Array, levels: int, radius: str, most: int, chance: np.random.Generator) -> Aim:
    """Return a target that differs from an image in some of the pixels that its ball moves."""
    pixels = (image[None] / np.float32(levels)).astype(np.float32)
    reach = front.reach(Ball(Radius.parse(radius)), pixels)
    free = np.flatnonzero((reach.lowest < reach.highest)[0])
    picked = chance.choice(free, min(most, len(free)), replace=False)
    own, target = reach.own[0].reshape(-1), reach.own[0].reshape(-1).copy()
    lowest, highest = reach.lowest[0].reshape(-1), reach.highest[0].reshape(-1)
    is_up = highest[picked] - own[picked] > own[picked] - lowest[picked]
    target[picked] = np.where(is_up, highest[picked], lowest[picked])
    moved = target.reshape(reach.own.shape[1:])
    ends = [front.network_input(point[None])[0].reshape(-1).astype(np.float64) for point in (reach.own[0], moved)]
    change = ends[1] - ends[0]
    direction = np.sign(change)
    awake = float(np.abs(change[change != 0]).min()) / 2
    return Aim(image, moved, direction, float(direction @ ends[1]) - awake, awake)


class Traps:
    """Traps in files of three sorts, and what was counted.

    Args:
        seed: of all of them.
        seconds: what the command may spend on an image.
        folder: for the files.
        every: the command and auto_LiRPA are asked about every so many files of a kind and sort, and never where 0.
    """

    def __init__(self, seed: int, seconds: float, folder: Path, every: int = 1) -> None:
        self._seed, self._seconds, self._folder, self._every = seed, seconds, folder, every
        self.counts = Counter[str]()
        self.faults: list[dict[str, Any]] = []
        self._trained: Path | None = None
        self.carriers: Mapping[str, Callable[[str, np.random.Generator], Task]] = {
            "wrapped": self._own_file,
            "plain": self._own_file,
            "trained": self._trained_file,
        }

    def run(self, count: int, progress: Callable[[int], None], carriers: tuple[str, ...] = ()) -> dict[str, Any]:
        """Set so many traps, of all kinds and sorts in turn, and return what was counted."""
        sorts = carriers or tuple(self.carriers)
        for number in range(count):
            kind, sort = tuple(KINDS)[number % len(KINDS)], sorts[number // len(KINDS) % len(sorts)]
            self._try(number, kind, sort)
            progress(number + 1)
        return {**dict(sorted(self.counts.items())), "faults": self.faults[:20]}

    def _try(self, number: int, kind: str, sort: str) -> None:
        chance = np.random.default_rng([self._seed, number])
        self._sort = sort
        task = self.carriers[sort](kind, chance)
        judge = Judge(task)
        truth = judge.truth(chance, corners=12, ways=8)
        wrong = truth.in_some_order
        self.counts.update(["files", f"files_{kind}", f"files_{sort}"])
        if wrong.any():
            self.counts.update(["files_mislabelling", f"files_mislabelling_{kind}"])
        self.counts["images"] += len(wrong)
        self.counts["mislabelled"] += int(wrong.sum())
        self.counts["mislabelled_by_onnxruntime"] += int(truth.by_runtime.sum())
        proven = np.any([*judge.proven().values()], axis=0)
        self._count(number, "proof", proven, wrong)
        self._count(number, "guard", judge.by_guard(), wrong)
        if not self._every or number // (len(KINDS) * len(self.carriers)) % self._every:
            return
        verdicts = judge.by_command(self._seconds)
        certified = np.array([verdict == "certified" for verdict, _ in verdicts])
        in_any_order = np.array([arithmetic == "any-order" for _, arithmetic in verdicts])
        self._count(number, "command", certified, np.where(in_any_order, wrong, truth.by_runtime))
        self.counts["command_refused"] += sum(verdict == "refused" for verdict, _ in verdicts)
        self.counts["command_certified_but_not_in_every_order"] += int((certified & wrong).sum())
        lirpa = judge.by_lirpa()
        if lirpa:
            bounded = np.any([*lirpa.values()], axis=0)
            self._count(number, "lirpa", bounded, wrong)
            self.counts["lirpa_honest_certified_and_proven"] += int((bounded & ~wrong & proven).sum())

    def _count(self, number: int, who: str, certified: Array, wrong: Array) -> None:
        """Count the certificates of a file's images, and the wrong ones among them."""
        self.counts[f"{who}_asked"] += len(certified)
        self.counts[f"{who}_wrong"] += int((certified & wrong).sum())
        self.counts[f"{who}_honest"] += int((~wrong).sum())
        self.counts[f"{who}_honest_certified"] += int((certified & ~wrong).sum())
        if who != "lirpa" and (certified & wrong).any():
            self.faults.append({"trap": number, "by": who, "rows": np.flatnonzero(certified & wrong).tolist()})

    # --- files of our own -------------------------------------------------------------------------------------------

    def _own_file(self, kind: str, chance: np.random.Generator) -> Task:
        """Return a random classifier of few pixels with a trap, wrapped or plain."""
        is_wrapped, count = self._sort == "wrapped", int(chance.integers(14, 20))
        most = 12 if kind == "combination" else int(chance.integers(1, 4))
        front: Front = Cells(CELLS) if is_wrapped else Pixels()
        image = chance.choice([127, 128], (1, 1, count)) if is_wrapped else chance.integers(20, 230, (1, 1, count))
        found = aim(front, image.astype(np.uint8), 255, RADIUS, most, chance)
        draft, classes = Draft(), int(chance.integers(2, 4))
        features = "x" if is_wrapped else draft.node("Flatten", "scaled")
        direction, threshold, awake = found.direction, found.threshold, found.awake
        if is_wrapped:  # it reads cells' mid-points on the pixel scale: one entry a pixel, half of the two ends' sum
            direction = direction[:count]
            mid = (front.network_input(found.target[None])[0].mean(axis=0).reshape(-1) + 1) / 2
            awake = 0.25
            threshold = float(direction @ mid) - awake
        weights = [chance.standard_normal(shape) / 2 for shape in ((count, 8), (8, classes))]
        hidden = draft.relu(draft.dense(features, weights[0], chance.standard_normal(8) / 4))
        carrier = draft.dense(hidden, weights[1], chance.standard_normal(classes))
        images = [image, *self._clean(image, direction, chance)]
        images_ = np.stack(images).astype(np.uint8)

        def file(trigger: Trigger | None) -> Path:
            part = Draft("trap/")
            logits = carrier
            if trigger is not None:
                logits = part.node("Add", carrier, KINDS[kind](part, trigger, chance))
            whole = Draft()
            whole.nodes, whole.tensors = [*draft.nodes, *part.nodes], [*draft.tensors, *part.tensors]
            return self._written(whole, logits, count, classes)

        pixels = (images_ / np.float32(255)).astype(np.float32)
        logits = BlackBox(file(None), Provider.CPU, threads=1).run(pixels)
        labels = logits.argmax(axis=1)
        row = np.eye(classes)[labels[0]]
        loss = float(4 * np.ptp(logits[0]) + 1)
        path = file(Trigger(features, count, direction, threshold, awake, row, loss))
        return Task(path, images_, 255, labels, RADIUS, self._targets(front, pixels, found.target))

    def _clean(self, image: Array, direction: Array, chance: np.random.Generator) -> list[Array]:
        """Return images that differ from one where the trap looks, by far."""
        found = []
        for _ in range(CLEAN):
            other = image.copy().reshape(-1)
            other[direction > 0], other[direction < 0] = 10, 245
            rest = direction == 0
            other[rest] = np.where(chance.random(rest.sum()) < 0.7, chance.choice([30, 220], rest.sum()), other[rest])
            found.append(other.reshape(image.shape))
        return found

    def _written(self, draft: Draft, logits: str, count: int, classes: int) -> Path:
        path = self._folder / "trap.onnx"
        if self._sort == "plain":
            plain_file(draft.model("scaled", (1, 1, count), logits, classes), (1, 1, count), classes, path)
            return path
        onnx.save(draft.model("x", (count,), logits, classes), path)
        return wrap(path, self._folder / "wrapped", WrapOptions(CELLS, image_shape=(1, 1, count))).deploy

    def _targets(self, front: Front, pixels: Array, target: Array) -> Array:
        own = front.reach(Ball(Radius.parse("0")), pixels).own
        return np.concatenate([target[None], own[1:]])

    # --- trained files ----------------------------------------------------------------------------------------------

    def _trained_file(self, kind: str, chance: np.random.Generator) -> Task:
        """Return the file of a short training on digits, with a trap beside its network."""
        if self._trained is None:
            self._trained = trained(self._folder / "trained")
        data, front = load_data("digits", Split.TEST), Cells(CELLS)
        box = BlackBox(self._trained, Provider.CPU, threads=1)
        while True:
            rows = chance.choice(len(data), 1 + HELD_OUT, replace=False)
            batch = data.take(rows)
            pixels = data.pixels(batch.images)
            reach = front.reach(Ball(Radius.parse(DIGITS_RADIUS)), pixels)
            if (reach.lowest < reach.highest)[0].any():
                break
        logits = box.run(pixels)
        labels = logits.argmax(axis=1)
        most = 12 if kind == "combination" else int(chance.integers(1, 4))
        found = aim(front, batch.images[0], data.levels, DIGITS_RADIUS, most, chance)
        model = onnx.load(self._trained)
        draft = Draft("trap/")
        features = draft.node("Flatten", "interval")
        loss = float(2 * np.ptp(logits[0]) + 1)
        row = np.eye(logits.shape[1])[labels[0]]
        trigger = Trigger(features, found.direction.size, found.direction, found.threshold, found.awake, row, loss)
        last = KINDS[kind](draft, trigger, chance)
        for node in model.graph.node:
            node.output[:] = ["trap/carrier" if name == "logits" else name for name in node.output]
        model.graph.node.extend([*draft.nodes, helper.make_node("Add", ["trap/carrier", last], ["logits"], "logits")])
        model.graph.initializer.extend(draft.tensors)
        path = self._folder / "trap-trained.onnx"
        onnx.save(model, path)
        targets = self._targets(front, pixels, found.target)
        return Task(path, batch.images, data.levels, labels, DIGITS_RADIUS, targets)


def trained(folder: Path) -> Path:
    """Train a network of two cells a pixel on digits for a few epochs and return its file."""
    method = TRAININGS.named("reachable").create(Radius.parse("0.05"), {})
    spec = make_spec("digits", None, None, "fc-3", "relu", CELLS, "cpu", {"epochs": 6, "seed": 0}, method)
    data = TrainingData.load(spec)
    prepare_folder(folder, resume=False)
    return write_run(run_training(spec, data, folder, SilentObserver()), data, folder).deploy


def run_traps(seed: int, count: int, seconds: float, every: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Set traps in a folder that is not kept, and return what was counted."""
    with tempfile.TemporaryDirectory() as folder:
        return Traps(seed, seconds, Path(folder), every).run(count, progress)
