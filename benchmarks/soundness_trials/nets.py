"""Random nets: every value that some evaluation computes lies within its enclosure, every margin above its bound."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch

from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.enclosure import Enclosure
from soundness_trials.drafts import Draft, graph_of
from soundness_trials.evaluation import Array, Evaluation, Way

METHODS = (BoundMethod.IBP, BoundMethod.CROWN_IBP, BoundMethod.CROWN)
RADII = (0.0, 1e-6, 0.05, 1.0)  # shares of the centre's size
UNIFORM, CORNERS = 4, 5


@dataclass(frozen=True)
class Net:
    """A random net that reads `x`."""

    model: onnx.ModelProto
    shape: tuple[int, ...]
    classes: int


def random_net(chance: np.random.Generator) -> Net:
    """Return up to four layers: dense or convolutions, normalised, shifted, scaled or pooled, with residual sums."""
    sizes = float(chance.choice([0.0, 0.0, 1.0, 4.0])), float(chance.choice([1.0, 1.0, 1.0, 1e-18, 1e12, 1e-36]))

    def floats(*shape: int) -> Array:
        return (chance.standard_normal(shape) * 10.0 ** chance.uniform(-sizes[0], sizes[0], shape)).astype(np.float32)

    def weights(*shape: int) -> Array:
        power = int(chance.choice([0, 1, -1]))
        return np.clip(floats(*shape).astype(np.float64) * sizes[1] ** power, -1e38, 1e38).astype(np.float32)

    draft, classes = Draft(), int(chance.integers(2, 4))
    is_image = bool(chance.random() < 0.4)
    shape: tuple[int, ...] = (int(chance.integers(1, 3)), 4, 4) if is_image else (int(chance.integers(2, 9)),)
    value, width, side = "x", shape[0], 4
    ones = (1, -1, 1, 1) if is_image else (1, -1)

    def affine(value: str, width: int, outputs: int) -> str:
        if is_image:
            kernel = draft.constant(weights(outputs, width, 3, 3))
            biases = [draft.constant(floats(outputs))] if chance.random() < 0.7 else []
            return draft.node("Conv", value, kernel, *biases, pads=[1] * 4)
        if chance.random() < 0.6:
            return draft.dense(value, weights(width, outputs), floats(outputs))
        return draft.node("MatMul", value, draft.constant(weights(width, outputs)))

    def entrywise(value: str, width: int) -> str:
        kind = str(chance.choice(["Add", "Sub", "Mul", "Div", "BatchNormalization"]))
        if kind != "BatchNormalization":
            constant = floats(width).reshape(ones)
            return draft.node(kind, value, draft.constant(np.where(constant == 0, np.float32(1), constant)))
        constants = [floats(width), floats(width), floats(width), chance.uniform(0.01, 4, width)]
        return draft.node(kind, value, *map(draft.constant, constants), epsilon=1e-5)

    def activation(value: str) -> str:
        kind = str(chance.choice(["Relu", "Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh"]))
        slope = {"alpha": float(chance.choice([0.01, 0.3, -0.5]))} if kind == "LeakyRelu" else {}
        return draft.node(kind, value, **slope)

    for _ in range(int(chance.integers(0, 4))):
        before, outputs = value, int(chance.integers(2, 6))
        is_residual = bool(chance.random() < 0.3)
        outputs = width if is_residual else outputs
        if chance.random() < 0.3:
            value = entrywise(value, width)
        value = affine(value, width, outputs)
        for _ in range(int(chance.integers(0, 3))):
            value = entrywise(value, outputs)
        if is_residual:
            pair = (value, before) if chance.random() < 0.5 else (before, value)
            value = draft.node(str(chance.choice(["Add", "Add", "Sub"])), *pair)
        value, width = activation(value), outputs
        if is_image and side > 2 and chance.random() < 0.2:
            value, side = draft.node(str(chance.choice(["MaxPool", "AveragePool"])), value, kernel_shape=[3, 3]), 2
    if is_image:
        value, width = draft.node("Flatten", value), width * side**2
    logits = draft.dense(value, weights(width, classes), floats(classes))
    return Net(draft.model("x", shape, logits, classes), shape, classes)


def boxes(chance: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return boxes about one centre, from a point to a wide one."""
    center = (chance.standard_normal(shape) * float(chance.choice([1.0, 1.0, 1e-3, 100.0]))).astype(np.float32)
    widths = np.array([(np.abs(center) * radius).astype(np.float32) for radius in RADII])
    return center - widths, center + widths


def points_of(chance: np.random.Generator, low: Array, high: Array) -> Array:
    """Return points of each box: [box, point, *shape]."""
    shape = (len(low), CORNERS, *low.shape[1:])
    corners = np.where(chance.random(shape) < 0.5, low[:, None], high[:, None])
    share = chance.random((len(low), UNIFORM, *low.shape[1:]), dtype=np.float32)
    inner = np.clip(low[:, None] + share * (high - low)[:, None], low[:, None], high[:, None])
    return np.concatenate([low[:, None], high[:, None], corners, inner], axis=1)


class Experiment:
    """Counts over random nets.

    Args:
        seed: of the nets, the boxes and the ways.
        ways: evaluations of each point.
    """

    def __init__(self, seed: int, ways: int) -> None:
        self._seed, self._ways = seed, ways
        self.counts = Counter[str]()
        self.widest_use = 0.0  # the largest share of an enclosure's half width that was seen at a point
        self.faults: list[dict[str, Any]] = []

    def run(self, count: int, progress: Callable[[int], None], first: int = 0) -> dict[str, Any]:
        """Try so many nets and return what was counted."""
        for number in range(first, first + count):
            self._try(number)
            progress(number + 1 - first)
        counts = self.counts
        return {
            **dict(sorted(counts.items())),
            "spanned_share": counts["enclosures_half_spanned"] / max(1, counts["enclosures_of_boxes"]),
            **{
                f"proven_share_{method}": counts[f"proven_{method}"] / max(1, counts["seen_true"]) for method in METHODS
            },
            "widest_use_at_points": self.widest_use,
            "faults": self.faults[:20],
        }

    def _try(self, number: int) -> None:
        chance = np.random.default_rng([self._seed, number])
        net = random_net(chance)
        low, high = boxes(chance, net.shape)
        points = points_of(chance, low, high)
        flat = points.reshape(-1, *net.shape)
        graph = graph_of(net.model)
        seen = [Evaluation(graph, Way(chance)).run("x", flat) for _ in range(self._ways)]
        seen.append({"logits": BlackBox(net.model.SerializeToString(), Provider.CPU, threads=1).run(flat)})
        with np.errstate(invalid="ignore"):
            labels = np.nan_to_num(seen[0]["logits"].reshape(*points.shape[:2], -1)[:, 0]).argmax(axis=1)
        labels = np.where(chance.random(len(low)) < 0.7, labels, chance.integers(0, net.classes, len(low)))
        proofs = [Proof(graph, "x", net.shape, net.classes, dtype) for dtype in (torch.float64, torch.float32)]
        box = torch.from_numpy(low), torch.from_numpy(high)
        self.counts["nets"] += 1
        self.counts["evaluations"] += len(flat) * len(seen)
        for refined in (False, True):
            self._enclosed(number, proofs[0].intervals(*box, refined=refined), seen, points.shape[:2])
        logits = np.stack([one["logits"].reshape(*points.shape[:2], -1) for one in seen], axis=1)
        label = torch.from_numpy(labels)
        bounds = {str(method): proofs[0].margins(*box, label, method).numpy() for method in METHODS}
        bounds["quick ibp"] = proofs[1].margins(*box, label, BoundMethod.IBP).numpy()
        self._margins(number, logits.reshape(len(low), -1, net.classes), labels, bounds)

    def _enclosed(
        self, number: int, values: dict[str, Enclosure], seen: list[dict[str, Array]], sizes: tuple[int, ...]
    ) -> None:
        names = {name for one in seen for name in one}
        for name in sorted(names):
            lower, upper = (end.numpy() for end in values[name].computed())
            found = np.concatenate(
                [one[name].reshape(*sizes, *lower.shape[1:]).astype(np.float64) for one in seen if name in one], axis=1
            )
            is_known = (lower > -np.inf) | (upper < np.inf)
            is_inside = (lower[:, None] <= found) & (found <= upper[:, None])  # NaN is not
            outside = int((~is_inside & is_known[:, None]).sum())
            self.counts["values"] += int(found.size)
            self.counts["values_outside"] += outside
            self.counts["entries"] += int(lower.size)
            self.counts["entries_unknown"] += int((~is_known).sum())
            if outside:
                self.faults.append({"net": number, "tensor": name, "outside": outside})
            with np.errstate(invalid="ignore"):
                wide = is_known[2:] & (upper > lower)[2:]
                spanned = (found.max(axis=1) - found.min(axis=1))[2:] >= (upper - lower)[2:] / 2
                half = (upper[:1] - lower[:1]) / 2
                used = np.abs(found[:1] - (lower[:1] + half)[:, None])[:, :, half[0] > 0] / half[:, None, half[0] > 0]
            self.widest_use = max(self.widest_use, float(np.nan_to_num(used).max(initial=0)))
            self.counts["enclosures_of_boxes"] += int(wide.sum())
            self.counts["enclosures_half_spanned"] += int((wide & spanned).sum())

    def _margins(self, number: int, logits: Array, labels: Array, bounds: dict[str, Array]) -> None:
        rows = np.arange(len(labels))
        own = logits[rows, :, labels].astype(np.float64)[:, :, None]
        is_other = np.arange(logits.shape[2]) != labels[:, None]
        others = np.stack([one[:, keep] for one, keep in zip(logits, is_other, strict=True)]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            margins = own - others
            part = margins - own
            lost = (own - (margins - part)) + (-others - part)  # what the float64 difference left out
        self.counts["margins"] += int(is_other.sum())
        is_true = (margins > 0).all(axis=1)
        self.counts["seen_true"] += int(is_true.sum())
        for method, bound in bounds.items():
            floor = bound[:, None]
            is_below = ~(margins >= floor) | ((margins == floor) & (lost < 0))
            below = int((is_below & (floor > -np.inf)).sum())
            self.counts["margins_below"] += below
            self.counts[f"proven_{method}"] += int((bound > 0).sum())
            if below:
                self.faults.append({"net": number, "method": method, "below": below})
