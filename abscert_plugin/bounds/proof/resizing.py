"""From Resize and Upsample nodes, by the nearest entry or by lines or cubic curves between entries, to steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from types import MappingProxyType
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.building import View, need_plain_axes
from abscert_plugin.bounds.proof.maps import Bilinear, Weights
from abscert_plugin.graph.walk import BATCH, need

_OPSET_OF_MODES: Final = 11  # before it, coordinates are divided by the scale and rounded down
_ERROR: Final = Fraction(1, 2**20)  # of a coordinate in float32, a share of the size: sixteen roundings
_SLACK: Final = 2.0**-20  # of a weight, where a runtime computes a + (b - a) f in place of (1 - f) a + f b

_PARTS: Final = 16  # of one, in which a cubic's parameter has to be given, so that its weights at 0 are exact

_HALF: Final = Fraction(1, 2)


def _resize(view: View) -> None:
    is_old = view.node.operator == "Upsample" or view.walk.graph.opset < _OPSET_OF_MODES
    mode, antialias = view.attribute("mode", b"nearest"), view.attribute("antialias", 0)
    need(mode in (b"nearest", b"linear", b"cubic"), f"expected the mode nearest, linear or cubic, got {mode!r}")
    curve = _cubic(view) if mode == b"cubic" else _LINE
    need(not antialias, "expected no antialias")
    kind = "asymmetric" if is_old else view.attribute("coordinate_transformation_mode", b"half_pixel").decode()
    told = () if is_old else (view.attribute("nearest_mode", b"round_prefer_floor").decode(),)
    need(kind in _COORDINATES, f"expected another coordinate_transformation_mode than {kind}")
    scales, sizes = _targets(view, 1 if is_old else 2)
    need(scales[0] == 1 and sizes[0] == 1, "expected the batch as it is")
    changed: list[tuple[int, int, list[tuple[Fraction, Fraction]]]] = []
    for axis, (size, scale, target) in enumerate(zip((1, *view.shape()), scales, sizes, strict=True)):
        places = [_COORDINATES[kind](Fraction(place), _Axis(scale, size, target)) for place in range(target)]
        if places != [Fraction(place) for place in range(size)]:
            # halves are exact in float32, and a quotient that is a whole number
            is_exact = kind != "align_corners" and scale.numerator.bit_count() == scale.denominator.bit_count() == 1
            doubts = [
                Fraction(0) if is_exact or (kind == "asymmetric" and at.denominator == 1) else _ERROR * (size + 2)
                for at in places
            ]
            changed.append((axis, size, list(zip(places, doubts, strict=True))))
    if not changed:
        view.moved(lambda values: values)
    source = view.name()
    for count, (axis, size, coordinates) in enumerate(changed, 1):
        output = view.output if count == len(changed) else view.part()
        if mode == b"nearest":
            # the tenth set of operators does not say how: onnxruntime rounds up where it shrinks
            roundings = told or (("floor", "ceil") if scales[axis] < 1 else ("floor",))
            entries = [_nearest(*at, size, roundings) for at in coordinates]
            source = view.move(source, _picker(axis, entries), output)
        else:
            source = view.walk.append(Affine(output, source, _between(view, source, axis, coordinates, size, curve)))


def _targets(view: View, place: int) -> tuple[list[Fraction], list[int]]:
    """Return scales and sizes along all axes."""
    shape, policy = (1, *view.shape()), view.attribute("keep_aspect_ratio_policy", b"stretch")
    axes = [int(axis) % len(shape) for axis in view.attribute("axes", range(len(shape)))]
    need_plain_axes(axes, len(shape))
    scales, sizes = [Fraction(1)] * len(shape), list(shape)
    if view.has(place) and view.array(place).size:
        for axis, scale in zip(axes, view.array(place).reshape(-1).tolist(), strict=True):
            scales[axis] = Fraction(scale)
            # where a size is no whole number, runtimes disagree about the scale
            need(scale > 0 and (shape[axis] * Fraction(scale)).denominator == 1, f"expected whole sizes, got {scale}")
            sizes[axis] = int(shape[axis] * Fraction(scale))
        return scales, sizes
    if view.attribute("scales", None) is not None:
        scales = [Fraction(scale) for scale in view.attribute("scales", None)]
        sizes = [int(size * scale) for size, scale in zip(shape, scales, strict=True)]
        need(
            all(size * scale == target for size, scale, target in zip(shape, scales, sizes, strict=True)), "whole sizes"
        )
        return scales, sizes
    need(policy == b"stretch", f"expected keep_aspect_ratio_policy = stretch, got {policy!r}")
    for axis, wanted in zip(axes, view.array(place + 1).reshape(-1).tolist(), strict=True):
        sizes[axis] = shape[axis] if axis == 0 and wanted in (BATCH, 1) else int(wanted)
        need(sizes[axis] >= 1, "expected sizes of at least 1")
        scales[axis] = Fraction(sizes[axis], shape[axis])
    return scales, sizes


def _picker(axis: int, places: list[int]) -> Callable[[Tensor], Tensor]:
    index = torch.tensor(places, dtype=torch.int64)
    return lambda values: values.index_select(axis, index)


def _nearest(at: Fraction, doubt: Fraction, size: int, roundings: tuple[str, ...]) -> int:
    """Return the entry that is nearest to a coordinate, where no rounding of the coordinate can change which."""
    need(_ROUNDINGS.keys() >= set(roundings), f"expected another nearest_mode than {roundings[0]}")
    found = {
        min(max(_ROUNDINGS[rounding](at + shift), 0), size - 1) for shift in (-doubt, doubt) for rounding in roundings
    }
    need(len(found) == 1, "which entry is nearest depends on the rounding of coordinates")
    return found.pop()


@final
@dataclass(frozen=True, slots=True)
class _Curve:
    """How much an entry counts, from its distance.

    Args:
        share: the function, 0 beyond its reach.
        reach: the largest distance at which an entry counts.
        steepness: a bound of its slope.
        slack: what a runtime may be off by in a weight, beside what it makes of the coordinate.
        is_cut: whether coordinates are cut to those of the entries; else entries at the ends are repeated beyond them.
        only_inside: whether these count for nothing, and the others for so much more.
    """

    share: Callable[[Fraction], Fraction]
    reach: int
    steepness: int
    slack: float
    is_cut: bool
    only_inside: bool = False


_LINE: Final = _Curve(lambda distance: max(Fraction(0), 1 - distance), 1, 1, _SLACK, True)


def _cubic(view: View) -> _Curve:
    """Return the curve of Keys, "Cubic convolution interpolation for digital image processing" (1981)."""
    given = float(view.attribute("cubic_coeff_a", -0.75))
    need(-1 <= given <= 0, f"expected cubic_coeff_a from -1 to 0, got {given}")
    a = Fraction(given)
    need(a.denominator <= _PARTS, f"expected cubic_coeff_a in sixteenths, got {given}")

    def share(distance: Fraction) -> Fraction:
        if distance <= 1:
            return ((a + 2) * distance - (a + 3)) * distance**2 + 1
        return a * (((distance - 5) * distance + 8) * distance - 4) if distance < 2 else Fraction(0)

    # the polynomials round about ten times, at numbers below 16
    return _Curve(share, 2, 2, 16 * _SLACK, False, bool(view.attribute("exclude_outside", 0)))


def _between(
    view: View, source: str, axis: int, places: list[tuple[Fraction, Fraction]], size: int, curve: _Curve
) -> Bilinear:
    """Return the map to values between neighbours along an axis, with whatever coordinates float32 may give."""
    shape = tuple(view.walk.values[source].lower.shape[1:])
    center, room, absolute = (np.zeros((len(places), size)) for _ in range(3))
    for row, (place, doubt) in enumerate(places):
        at = min(max(place, Fraction(0)), Fraction(size - 1)) if curve.is_cut else place
        for entry in range(floor(at) - curve.reach, floor(at) + curve.reach + 2):
            distance, column = abs(at - entry), min(max(entry, 0), size - 1)
            if (column != entry and (curve.is_cut or curve.only_inside)) or distance >= curve.reach + doubt:
                continue
            share = curve.share(distance)
            center[row, column] += float(share)
            absolute[row, column] += abs(float(share))
            if doubt or 0 < distance != 1:
                room[row, column] += curve.steepness * float(doubt) * (1 + 2.0**-40) + curve.slack
        if curve.only_inside:
            whole, lost = float(center[row].sum()), float(room[row].sum())
            need(whole > 0.25, "expected more weight inside than outside")
            room[row] = (room[row] + np.abs(center[row]) * (lost / whole + curve.slack)) / (whole - lost)
            center[row], absolute[row] = center[row] / whole, absolute[row] / whole
    radius = torch.from_numpy(room) if room.any() else None
    weights = Weights(torch.from_numpy(center), torch.from_numpy(absolute + room), radius, 2)
    move: Callable[[Tensor, Tensor], Tensor] = lambda weight, values: (  # noqa: E731
        values.movedim(axis, -1) @ weight.T
    ).movedim(-1, axis)
    return Bilinear(move, weights, 2 * curve.reach + 1, shape)


# --- where an entry of the result lies among those of the input ------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis that is resized: from `size` entries to `target`, by `scale`."""

    scale: Fraction
    size: int
    target: int


def _half_pixel(at: Fraction, axis: _Axis) -> Fraction:
    return (at + _HALF) / axis.scale - _HALF


def _symmetric(at: Fraction, axis: _Axis) -> Fraction:
    adjusted = Fraction(axis.target) / (axis.scale * axis.size)
    return Fraction(axis.size) / 2 * (1 - adjusted) + _half_pixel(at, axis)


def _torch(at: Fraction, axis: _Axis) -> Fraction:
    return _half_pixel(at, axis) if axis.target > 1 else Fraction(0)


def _corners(at: Fraction, axis: _Axis) -> Fraction:
    return at * (axis.size - 1) / (axis.target - 1) if axis.target > 1 else Fraction(0)


_COORDINATES: Final[Mapping[str, Callable[[Fraction, _Axis], Fraction]]] = MappingProxyType(
    {
        "align_corners": _corners,
        "asymmetric": lambda at, axis: at / axis.scale,
        "half_pixel": _half_pixel,
        "half_pixel_symmetric": _symmetric,
        "pytorch_half_pixel": _torch,
    }
)
_ROUNDINGS: Final[Mapping[str, Callable[[Fraction], int]]] = MappingProxyType(
    {
        "ceil": ceil,
        "floor": floor,
        "round_prefer_ceil": lambda at: floor(at + _HALF),
        "round_prefer_floor": lambda at: ceil(at - _HALF),
    }
)

RESIZING_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType({"Resize": _resize, "Upsample": _resize})
