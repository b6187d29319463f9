"""How far the logits of any two evaluations of a file may be apart at one point, at most over a box of points.

So one evaluation that is known at a point bounds all others there, without another pass. Beside the ends of a box, a
distance d of two evaluations' held values is kept. What they compute from these lies within |W| (d / 2 + g X) + g |b| +
T (`quick`) of the middle of both, so the next distance is twice that. A nonlinear node changes it as its steepest slope
does, and its own errors add to it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.ends import EndsPass, size_of
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation, Largest
from abscert_plugin.bounds.proof.quick import Layer


def apart(steps: Sequence[Step], output: str, source: str, lower: Tensor, upper: Tensor) -> float:
    """Return the largest distance of a logit from the same one of another evaluation; infinite where none is found.

    Args:
        steps: all steps, in order.
        output: name of the logits.
        source: name of the tensor that the box is of.
        lower: lower ends of one box, [1, *shape], float64.
        upper: upper ends.
    """
    boxes, ends, distances = EndsPass(steps, torch.float64), {source: (lower, upper)}, {source: torch.zeros_like(lower)}
    for step in steps:
        if any(name not in ends for name in step.inputs):
            continue
        layer, name = boxes.layer(step), step.inputs[0]
        if layer is None and step.output == output and isinstance(step, Affine) and step.map.weights.radius is None:
            layer = Layer(step, torch.float64)
        distance = _after(step, layer, *ends[name], distances[name])
        if step.output == output:
            return math.inf if distance is None or not bool(distance.isfinite().all()) else float(distance.max())
        made = boxes.made(step, ends)
        if distance is not None and made is not None:
            ends[step.output], distances[step.output] = made, distance
    return math.inf


def _after(step: Step, layer: Layer | None, lower: Tensor, upper: Tensor, distance: Tensor) -> Tensor | None:
    if isinstance(step, Move):
        return step.move(distance)
    if isinstance(step, Largest):
        return step.pool(distance)
    if isinstance(step, Activation):
        return step.function.apart(distance, lower, upper)
    if layer is None:
        return None
    size = size_of(lower, upper)
    half = layer.room(distance + 2 * layer.share * size, float(size.max()))
    return None if half is None else 2 * half
