"""Published attacks on verifiers by their arithmetic, rebuilt in small form from their descriptions.

Each is a classifier of plain images, and one of its images. In real arithmetic no image of the ball loses its label,
but for those at the boundary, whose least margin is about 0. A tame one has small numbers in place of the large ones,
or a margin, so that it keeps its label in float32 too.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from abscert_plugin.ball import Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.front import Pixels
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.tracing import margin_rows, quiet
from soundness_trials.drafts import Draft
from soundness_trials.evaluation import Array
from soundness_trials.judging import METHODS, Judge, Task, plain_file

PIXELS, CLASSES, LABEL = 16, 2, 0
RADIUS = "0.02"
NAMES = {BoundMethod.IBP: "IBP", BoundMethod.CROWN_IBP: "CROWN-IBP", BoundMethod.CROWN: "CROWN"}


@dataclass(frozen=True)
class Attack:
    """A network that reads `scaled`, and the image whose label it loses.

    Args:
        draft: the network.
        logits: the name of its logits.
        image: stored values from 0 to 255.
        corner: 1 or -1 for each pixel that is at its upper or lower end where the label is lost; None where the
            margin's slope tells.
    """

    draft: Draft
    logits: str
    image: Array
    corner: Array | None = None


class Module(nn.Module):
    """A draft as a torch module, for auto_LiRPA to trace.

    Args:
        draft: the draft.
    """

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._nodes = draft.nodes
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in draft.tensors}
        self.layers = nn.ModuleDict()
        for node in draft.nodes:
            if node.op_type == "Gemm":
                weight, bias = (torch.tensor(constants[name]) for name in node.input[1:])
                layer = nn.Linear(*weight.shape)
                layer.weight.data, layer.bias.data = weight.T.contiguous(), bias
                self.layers[node.name] = layer

    def forward(self, scaled: Tensor) -> Tensor:
        values = {"scaled": scaled}
        for node in self._nodes:
            first = values[node.input[0]]
            if node.op_type == "Gemm":
                found = self.layers[node.name](first)
            elif node.op_type == "Relu":
                found = torch.relu(first)
            elif node.op_type == "Flatten":
                found = first.flatten(1)
            else:
                found = first + values[node.input[1]]
            values[node.output[0]] = found
        return found


def bounds(draft: Draft, low: Array, high: Array) -> dict[BoundMethod, float]:
    """Return auto_LiRPA's own bounds of the label's margin, as it computes them: nothing is checked or taken off."""
    lower, upper, lirpa = torch.from_numpy(low), torch.from_numpy(high), load_lirpa()
    with quiet():
        bounded = lirpa.BoundedModule(Module(draft), torch.zeros(2, *low.shape[1:]))
    norm = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
    box, found = lirpa.BoundedTensor((lower + upper) / 2, norm), {}
    rows = margin_rows(CLASSES)[torch.tensor([LABEL])]
    for method in METHODS:
        with quiet(), torch.no_grad():
            result = bounded.compute_bounds(x=(box,), C=rows, method=NAMES[method], bound_upper=False)
        found[method] = float(result[0])
    return found


def _image(chance: np.random.Generator) -> Array:
    return chance.integers(30, 220, (1, 1, PIXELS)).astype(np.uint8)


def _ends(image: Array) -> tuple[Array, Array]:
    """Return the box of what the network reads."""
    reach = Pixels().reach(Ball(Radius.parse(RADIUS)), (image[None] / np.float32(255)).astype(np.float32))
    return reach.box()


def cancelling_neurons(chance: np.random.Generator, is_tame: bool) -> Attack:
    """Jia & Rinard 2021: an incomplete verifier is misled by neurons whose large sums cancel, made large again."""
    draft = Draft()
    parts = chance.integers(2**21, 2**22, (2, PIXELS)) * chance.choice([-1, 1], (2, PIXELS))
    rows = np.stack([parts.sum(axis=0), *parts], axis=1) * 2.0**-20
    sums = draft.dense(draft.node("Flatten", "scaled"), rows, [0.75, 0.5, 0.25])
    weight = (1 if is_tame else 2.0**29) / np.abs(rows).sum()
    errors = draft.relu(draft.dense(sums, weight * np.array([[1, -1], [-1, 1], [-1, 1]]), [0, 0]))
    return Attack(draft, draft.dense(errors, [[0, 1], [0, 1]], [1, 0]), _image(chance))


def images_at_the_boundary(chance: np.random.Generator, is_tame: bool) -> Attack:
    """Jia & Rinard 2021: for an ordinary network, a case whose verified margin is barely above 0 is looked for."""
    image = _image(chance)
    weights = chance.standard_normal((PIXELS, 8)), chance.standard_normal((8, CLASSES))
    biases = np.abs(chance.standard_normal(8)) + 12  # no neuron changes its sign

    def network(bias: float) -> tuple[Draft, str]:
        draft = Draft()
        hidden = draft.relu(draft.dense(draft.node("Flatten", "scaled"), weights[0], biases))
        return draft, draft.dense(hidden, weights[1], [bias, 0])

    def bound(bias: float) -> float:
        return bounds(network(bias)[0], *_ends(image))[BoundMethod.CROWN]

    high = -bound(0.0)
    high += 1e-3 * abs(high) + 1e-3
    low = high - 2e-3 * abs(high) - 4e-3
    for _ in range(24):
        middle = float(np.float32((low + high) / 2))
        low, high = (low, middle) if bound(middle) > 0 else (middle, high)
    return Attack(*network(high + 0.01 * is_tame), image)


def _constants(draft: Draft, numbers: Array) -> str:
    """Add neurons of constant values."""
    return draft.relu(draft.dense(draft.node("Flatten", "scaled"), np.zeros((PIXELS, len(numbers))), numbers))


def hidden_switch(chance: np.random.Generator, is_tame: bool) -> Attack:
    """Zombori et al. 2021: a switch that real arithmetic never throws turns a second network on at a pattern."""
    draft, image = Draft(), _image(chance)
    low, high = _ends(image)
    features = draft.node("Flatten", "scaled")
    direction, width = chance.choice([-1.0, 1.0], PIXELS), float((high - low).min()) / 2
    corner = np.where(direction > 0, high, low).reshape(-1).astype(np.float64)
    pattern = draft.relu(draft.dense(features, direction[:, None], [width - direction @ corner]))
    large = 1.0 if is_tame else 2.0**40 / width
    pair = draft.relu(draft.dense(pattern, [[large, large]], [1, 0]))
    switch = draft.relu(draft.dense(pair, [[-1], [1]], [1]))  # 1 - (relu(K t + 1) - relu(K t))
    first = draft.dense(draft.relu(draft.dense(features, chance.standard_normal((PIXELS, 4)) / 8, [0] * 4)),
                        chance.standard_normal((4, CLASSES)) / 8, [4, 0])  # fmt: skip
    second = draft.relu(draft.dense(switch, [[0, 32]], [0, 0]))
    return Attack(draft, draft.node("Add", first, second), image, direction)


def order_of_terms(chance: np.random.Generator, is_tame: bool) -> Attack:
    """Szasz et al. 2025: a sum of 1, K and -K tells in which order it is computed."""
    draft, large = Draft(), 4.0 if is_tame else 2.0 ** int(chance.integers(26, 60))
    order = chance.permutation(3)
    terms = _constants(draft, np.array([1, large, large])[order])
    told = draft.dense(terms, np.array([1, 1, -1])[order, None], [0])
    return Attack(draft, draft.dense(told, [[1, 0]], [0, 0.5]), _image(chance))


def precision_of_terms(chance: np.random.Generator, is_tame: bool) -> Attack:
    """Szasz et al. 2025: K + 1 - K in two steps tells float32 from a wider format."""
    draft, large = Draft(), 4.0 if is_tame else 2.0 ** int(chance.integers(25, 50))
    sums = draft.relu(draft.dense(_constants(draft, np.array([1.0, 1.0])), [[large, large], [1, 0]], [0, 0]))
    told = draft.dense(sums, [[1], [-1]], [0])
    return Attack(draft, draft.dense(told, [[1, 0]], [0, 0.5]), _image(chance))


def parentheses_of_terms(chance: np.random.Generator, is_tame: bool) -> Attack:
    """Szasz et al. 2025: terms too small for a large one are kept only where they are added to each other first."""
    draft, count, large = Draft(), 16, 16.0 if is_tame else 2.0**24
    numbers = np.concatenate([[large], np.ones(count), [large]])
    signs = np.concatenate([[1.0], np.ones(count), [-1.0]])
    order = chance.permutation(count + 2)
    told = draft.dense(_constants(draft, numbers[order]), signs[order, None], [0])
    return Attack(draft, draft.dense(told, [[1, 0]], [0, 12.0]), _image(chance))


ATTACKS: Mapping[str, Callable[[np.random.Generator, bool], Attack]] = {
    "Jia & Rinard 2021, cancelling neurons": cancelling_neurons,
    "Jia & Rinard 2021, at the boundary": images_at_the_boundary,
    "Zombori et al. 2021, hidden switch": hidden_switch,
    "Szasz et al. 2025, order": order_of_terms,
    "Szasz et al. 2025, precision": precision_of_terms,
    "Szasz et al. 2025, parentheses": parentheses_of_terms,
}


def try_attack(name: str, seed: int, is_tame: bool, folder: Path) -> dict[str, bool]:
    """Return who mislabels an image of the ball, and who certifies it."""
    chance = np.random.default_rng([seed, *name.encode()])
    attack = ATTACKS[name](chance, is_tame)
    path, shape = folder / "attack.onnx", (1, 1, PIXELS)
    plain_file(attack.draft.model("scaled", shape, attack.logits, CLASSES), shape, CLASSES, path)
    low, high = _ends(attack.image)
    by_lirpa = bounds(attack.draft, low, high)
    task = Task(path, attack.image[None], 255, np.array([LABEL]), RADIUS, _worst(attack, low, high))
    judge = Judge(task)
    truth = judge.truth(chance, corners=60, ways=20)
    proven = judge.proven()
    guarded = judge.by_guard()
    return {
        "mislabelled_by_onnxruntime": bool(truth.by_runtime[0]),
        "mislabelled": bool(truth.in_some_order[0]),
        "proof": any(bool(found[0]) for found in proven.values()),
        "guard": bool(guarded[0]),
        **{f"lirpa_{method}": bound > 0 for method, bound in by_lirpa.items()},
    }


def _worst(attack: Attack, low: Array, high: Array) -> Array:
    """Return the pixels of the corner at which the margin's slope says that it is least."""
    points = torch.from_numpy((low + high) / 2).requires_grad_()
    logits = Module(attack.draft)(points)
    (logits[:, LABEL] - logits[:, 1 - LABEL]).sum().backward()
    assert points.grad is not None
    rises = points.grad.numpy() < 0 if attack.corner is None else attack.corner.reshape(points.shape) > 0
    reach = Pixels().reach(Ball(Radius.parse(RADIUS)), (attack.image[None] / np.float32(255)).astype(np.float32))
    worst: Array = np.where(rises, reach.highest, reach.lowest)
    return worst


def run_attacks(seed: int, count: int, progress: Callable[[int], None]) -> dict[str, Any]:
    """Try each attack so many times and return how often who mislabelled or certified."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(ATTACKS):
            counts = Counter[str]()
            for number in range(count):
                one = try_attack(name, seed + number, False, Path(folder))
                counts.update({key: int(value) for key, value in one.items()})
                by_lirpa = any(value for key, value in one.items() if key.startswith("lirpa"))
                counts["lirpa"] += by_lirpa
                counts["lirpa_wrong"] += by_lirpa and one["mislabelled"]
                counts["proof_wrong"] += one["proof"] and one["mislabelled"]
                tame = try_attack(name, seed + number, True, Path(folder))
                counts["tame_mislabelled"] += tame["mislabelled"]
                counts["tame_proof"] += tame["proof"]
                counts["guard_wrong"] += one["guard"] and one["mislabelled"]
                counts["tame_guard"] += tame["guard"]
                progress(place * count + number + 1)
            counts["tried"] = count
            found[name] = dict(sorted(counts.items()))
    return found
