"""The two lines between which an activation lies over an interval."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from abscert_plugin.networks.param_ramp import LEAST_BEND_POINT


@final
@dataclass(frozen=True, slots=True)
class Lines:
    """Two lines for each neuron: slope times input plus offset, from below and from above; no slope is below 0."""

    lower_slope: Float[Tensor, "batch *feature"]
    lower_offset: Float[Tensor, "batch *feature"]
    upper_slope: Float[Tensor, "batch *feature"]
    upper_offset: Float[Tensor, "batch *feature"]


def ramp_lines(
    lower: Float[Tensor, "batch *feature"],
    upper: Float[Tensor, "batch *feature"],
    bend_point: Float[Tensor, "*feature"],
    eta: Float[Tensor, ""],
    bends: Bool[Tensor, ""],
) -> Lines:
    """Return lines that enclose a ParamRamp between two ends, differentiable in all but `bends`.

    Where the function is a line between the ends, both are that line. Else each side that has one chord above (or
    below) the function takes it, and the other takes of the two lines that touch it at the bend the one that
    leaves less area: the lower line through 0 with slope 1 where upper > -lower, else eta; the upper through the
    bend point r with slope eta where upper - r > r - lower, else y = x or, below 0, the chord to the bend.

    Soundness: the lines hold for every input from `lower` to `upper`, up to the rounding of the arithmetic.

    Args:
        lower: lower ends.
        upper: upper ends, at least the lower ones.
        bend_point: where the right bend is (r); what is below `LEAST_BEND_POINT` counts as that.
        eta: the slope at both ends, 0 to 1; with eta 0 and no bend these are the adaptive lines of a ReLU.
        bends: whether there is a right bend.

    Source: Lyu et al. 2021, section 5; case by case as their code has them (bound_param_ramp.py, adaptive lower line).
    """
    bend = bend_point.clamp(min=LEAST_BEND_POINT)
    one = torch.ones_like(lower)
    zero = torch.zeros_like(lower)
    bent = bends & (upper > bend)
    beyond = bends & (lower >= bend)
    across_zero = (lower < 0) & (upper > 0)
    across_bend = bent & ~beyond
    at_end = eta * one
    beyond_offset = (1 - eta) * bend

    # the lower line where no right bend is crossed
    low_is_steep = torch.where(across_zero, upper > -lower, upper > 0) & ~beyond
    lower_slope = torch.where(low_is_steep, one, at_end)
    lower_offset = torch.where(beyond, beyond_offset, zero)
    # else the chord from where the function turns up to the upper end
    start = lower.clamp(min=0)
    run = torch.where(across_bend, upper - start, one)
    chord = torch.where(across_bend, bend + eta * (upper - bend) - start, one) / run
    is_chord = across_bend & low_is_steep
    lower_slope = torch.where(is_chord, chord, lower_slope)
    lower_offset = torch.where(is_chord, start - chord * start, lower_offset)

    # the upper line: the chord from the lower end to where the function turns down
    top = torch.where(bent, bend.expand_as(upper), upper)
    run = torch.where(across_zero, top - lower, one)
    chord = torch.where(across_zero, top - eta * lower, one) / run
    upper_slope = torch.where(across_zero, chord, torch.where((upper > 0) & ~beyond, one, at_end))
    upper_offset = torch.where(across_zero, (eta - chord) * lower, zero)
    is_flat = beyond | (across_bend & (upper - bend > bend - lower))
    upper_slope = torch.where(is_flat, at_end, upper_slope)
    upper_offset = torch.where(is_flat, beyond_offset, upper_offset)
    return Lines(lower_slope, lower_offset, upper_slope, upper_offset)
