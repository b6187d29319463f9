"""Numbers rounded to whole ones, and casts between types: QuantizeLinear, DequantizeLinear, Cast."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor
from typing_extensions import override

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Function, Interval, Piecewise
from abscert_plugin.bounds.proof.affine import Affine, Shift
from abscert_plugin.bounds.proof.building import FLOATS, View
from abscert_plugin.bounds.proof.constants import along_axis, exactly, point, reciprocal, weights
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.formats import NARROW
from abscert_plugin.bounds.proof.maps import Scale
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.graph.walk import need

_KEEPING: Final = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_EXACT: Final = 2  # bytes of whole numbers that are float32 numbers too
_LARGEST: Final = 2.0**31 - 1  # beyond it, runtimes cast differently


@final
@dataclass(frozen=True, slots=True)
class Rounded(Function):
    """A number rounded to a whole one, kept between two of them; where rounding is in doubt, either neighbour.

    Args:
        least: the least number that comes out, before the shift.
        most: the largest one.
        shift: a whole number that is added.
        is_cut: whether it is rounded towards 0, and nothing is known of numbers beyond the ends: a cast.
    """

    least: float
    most: float
    shift: float = 0.0
    is_cut: bool = False

    @override
    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        if self.is_cut:
            low, high = lower.trunc(), upper.trunc()
            fits = (low >= self.least) & (high <= self.most)
            return low.where(fits, -torch.inf), high.where(fits, torch.inf)
        # float64 rounds lower - 1/2 to no whole number that it does not reach
        low, high = (lower - 0.5).ceil(), (upper + 0.5).floor()
        return low.clamp(self.least, self.most) + self.shift, high.clamp(self.least, self.most) + self.shift

    @override
    def is_bent(self, lower: Tensor, upper: Tensor) -> Tensor:
        low, high = self.interval(lower, upper)
        return low < high

    @override
    def slopes(self, lower: Tensor, upper: Tensor) -> Interval:
        below, above = self._clip.slopes(lower, upper)
        low, high = self.interval(lower, upper)
        # of a step or two, a level line leaves less room than a steep one
        is_steep = high - low > 2 * self._reach
        return below.where(is_steep, 0.0), above.where(is_steep, 0.0)

    @override
    def offsets(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Interval:
        least, most = self._clip.offsets(lower, upper, below, above)
        low, high = self.interval(lower, upper)
        steepness, size = torch.maximum(below.abs(), above.abs()), torch.maximum(lower.abs(), upper.abs())
        ends = sum(abs(end) for end in (self.least, self.most, self.shift) if abs(end) < torch.inf)
        margin = arithmetic.own_gamma(16) * (size * (steepness + 1) + ends + 1)
        steps_below = low - torch.maximum(below * lower, below * upper)
        steps_above = high - torch.minimum(above * lower, above * upper)
        found_below = torch.maximum(least - self._reach + self.shift, steps_below) - margin
        found_above = torch.minimum(most + self._reach + self.shift, steps_above) + margin
        is_known = low > -torch.inf
        return found_below.where(is_known, -torch.inf), found_above.where(is_known, torch.inf)

    @property
    def _reach(self) -> float:
        """How far a number may move."""
        return 1.0 if self.is_cut else 0.5

    @property
    def _clip(self) -> Piecewise:
        """What it is without the rounding."""
        if self.least == -torch.inf:
            return Piecewise((0.0,), (1.0, 1.0))
        return Piecewise((self.least, self.most), (0.0, 1.0, 0.0), self.least)


def _quantise(view: View) -> None:
    view.require(block_size=0, precision=0)
    zero = view.array(2) if view.has(2) else np.zeros((), dtype=_numbers(view.attribute("output_dtype", 0)))
    need(zero.dtype.name in ("int8", "uint8", "int16", "uint16"), f"expected 8 or 16 bits, got {zero.dtype}")
    need(bool((zero == zero.reshape(-1)[0]).all()), "expected one zero point")
    need(view.walk.types.get(view.name()) is None, "expected float32")
    _need_no_pair(view, zero)
    start = float(zero.reshape(-1)[0])
    ends = np.iinfo(zero.dtype)
    scaled = view.walk.append(Affine(view.part(), view.name(), Scale(reciprocal(_scale(view)))))
    view.walk.append(Activation(view.output, scaled, Rounded(ends.min - start, ends.max - start, start)))
    view.walk.types[view.output] = zero.dtype


def _need_no_pair(view: View, zero: np.ndarray) -> None:
    """Raise if what is quantised was quantised before by another scale: onnxruntime leaves out the pair between."""
    node = view.giver(view.node.inputs[0], _KEEPING)
    if node is None or node.operator != "DequantizeLinear":
        return
    before = [*node.inputs, ""]
    same_scale = np.array_equal(view.walk.constant(before[1]), view.array(1))
    other = view.walk.constant(before[2]) if before[2] else np.zeros((), dtype=np.uint8)
    is_same = same_scale and other.dtype == zero.dtype and np.array_equal(other, zero)
    need(is_same, "expected no quantisation of what was quantised by another scale; onnxruntime joins them")


def _scale(view: View) -> Enclosure:
    """Return the scale in a shape that goes with the value."""
    scale, rank = view.array(1), len(view.shape()) + 1
    need(scale.dtype == np.float32 and bool((scale > 0).all()), "expected scales above 0, of float32")
    axis = int(view.attribute("axis", 1))
    need(scale.size == 1 or axis % rank > 0, "expected the same scale for all images")
    return point(along_axis(scale, axis, rank))


def _numbers(kind: int) -> np.dtype:
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind or TensorProto.UINT8))


def _dequantise(view: View) -> None:
    view.require(block_size=0)
    kind = view.walk.types.get(view.name())
    need(kind is not None and kind.kind in "iu" and kind.itemsize <= _EXACT, "expected whole numbers of 8 or 16 bits")
    need(view.attribute("output_dtype", TensorProto.FLOAT) in (0, TensorProto.FLOAT), "expected float32")
    scale, source = _scale(view), view.name()
    if view.has(2) and view.array(2).any():
        zero = view.array(2).astype(np.float32)
        bias = point(along_axis(zero, int(view.attribute("axis", 1)), scale.lower.ndim))
        source = view.walk.append(Shift(view.part(), source, 1, bias.negated()))
    view.affine(source, Scale(weights(scale)))


def _cast(view: View) -> None:
    target, given = _numbers(view.attribute("to", 0)), view.walk.types.get(view.name(), FLOATS[0])
    if {target, given} & set(NARROW):
        _cast_narrow(view, given, target)
        return
    need(target in FLOATS or target.kind in "iu", f"expected a Cast to numbers, got {target}")
    if target in FLOATS:
        is_exact = given == FLOATS[0] or given == target or (given.kind in "iub" and given.itemsize <= _EXACT)
        if is_exact:
            view.moved(lambda values: values)
        else:  # rounded once
            view.affine(view.name(), Scale(exactly(1.0)))
    elif given.kind in "iub":
        need(np.can_cast(given, target), f"expected a type that holds every {given}")
        view.moved(lambda values: values)
    else:
        ends = np.iinfo(target)
        least, most = max(float(ends.min), -_LARGEST), min(float(ends.max), _LARGEST)
        view.walk.append(Activation(view.output, view.name(), Rounded(least, most, is_cut=True)))
    if target != FLOATS[0]:
        view.walk.types[view.output] = target


def _cast_narrow(view: View, given: np.dtype, target: np.dtype) -> None:
    """Give numbers of fewer bits, rounded once, or numbers of float32 that are the same."""
    if target in NARROW:
        need(given in (FLOATS[0], target), f"expected a Cast from float32 to {target}, got one from {given}")
        view.walk.append(Shift(view.output, view.name(), 1, None))
        view.walk.types[view.output] = target
    else:
        need(target == FLOATS[0], f"expected a Cast from {given} to float32, got one to {target}")
        view.moved(lambda values: values)


QUANTISED_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {"Cast": _cast, "DequantizeLinear": _dequantise, "QuantizeLinear": _quantise}
)
