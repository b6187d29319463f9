"""How much an affine map can lengthen a vector: upper bounds of its largest singular value.

The largest singular value s of A is that of its Gram matrix G = A A^T, or A^T A, to the power of 1/2, and for every k

    s^2 <= |G^(2^k)|_F ^ (1 / 2^k),

since a norm is not below an eigenvalue; after k squarings the right side is above s^2 by at most the 2^(k+1)-th root of
its size (Delattre et al., ICML 2023).

A convolution over zeros outside of the image is that over all of the plane between an embedding and a restriction,
which lengthen nothing. With a stride it is a sum over the images of each phase, whose lengths' squares add up to that
of the image: a convolution without one of as many times the channels. So s^2 is at most the maximum over frequencies w
of the largest eigenvalue of K(w) K(w)*, K the sum of taps times exp(i q w). Every v* K K* v is a real trigonometric
polynomial of degree d, one less than the taps along an axis; where its maximum is M, it is at least M cos(d x) at a
distance x of that, up to pi / d (M. Riesz 1914), so the largest value at n > 2 d evenly spaced frequencies is at
least M cos(pi d / n), axis by axis.

Our own arithmetic is float64: a product of matrices of unit length is off by at most gamma(its terms), what 2^-20 on
top of it all is far more than.
"""

import math
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof.maps import Convolution, LinearMap, Matrix

_SQUARINGS: Final = 5
_FREQUENCIES: Final = (16, 8)  # of a degree, along an axis: as many as there is time for
_MOST_PRODUCTS: Final = 2**33  # that a bound may take: a second or two
_ROOM: Final = 1 + 2.0**-20


def stretch(linear: LinearMap) -> float:
    """Return an upper bound of how much a map whose weights are known lengthens a vector, by Euclid's length.

    Where nothing better is known or quick enough, of the largest sums of absolute weights of a row and of a column
    (Schur 1911).
    """
    weights = linear.weights.center.double()
    most = float(linear.weights.absolute.max()) if weights.numel() else 0.0
    found = math.sqrt(linear.row_sum) * math.sqrt(linear.readers * most)
    if isinstance(linear, Matrix) and _products(*weights.shape) <= _MOST_PRODUCTS:
        found = min(found, _of_matrices(weights.unsqueeze(0)))
    elif isinstance(linear, Convolution) and weights.ndim <= 4:
        found = min(found, _of_convolution(weights, linear.options))
    return found * _ROOM


def row_lengths(linear: LinearMap) -> Tensor:
    """Return upper bounds of the lengths of a map's rows, in a shape that goes with its outputs, or a single one."""
    weights = linear.weights.center.double()
    if isinstance(linear, Matrix):
        return weights.norm(dim=0) * _ROOM
    if isinstance(linear, Convolution):
        return weights.flatten(1).norm(dim=1).reshape(-1, *(1 for _ in weights.shape[2:])) * _ROOM
    return torch.tensor(math.sqrt(linear.row_sum) * math.sqrt(float(linear.weights.absolute.max())) * _ROOM).double()


def _of_convolution(weights: Tensor, options: dict[str, object]) -> float:
    """Return the bound of a convolution over one or two axes, the largest of its groups."""
    stride, dilation, groups = options["stride"], options["dilation"], options["groups"]
    assert isinstance(stride, tuple | list)
    assert isinstance(dilation, tuple | list)
    assert isinstance(groups, int)
    apart = weights
    for axis, (step, between) in enumerate(zip(stride, dilation, strict=True), 2):
        apart = _by_phases(apart, axis, int(step), int(between))
    outputs, degrees = len(weights) // groups, [size - 1 for size in apart.shape[2 : weights.ndim]]
    axes = list(range(-len(degrees), 0))
    spread = apart.movedim(list(range(2, weights.ndim)), axes).flatten(1, -1 - len(degrees))
    for frequencies in _FREQUENCIES:
        counts = [frequencies * degree if degree else 1 for degree in degrees]
        if 2 * math.prod(counts) * groups * _products(outputs, spread.shape[1]) <= _MOST_PRODUCTS:
            # weights are real: the other half of the frequencies has the same singular values
            at = torch.fft.rfftn(spread, s=counts, dim=axes).flatten(2).permute(2, 0, 1)
            loss = math.prod(math.cos(math.pi * degree / count) for degree, count in zip(degrees, counts, strict=True))
            return max(_of_matrices(part) for part in at.split(outputs, 1)) / math.sqrt(loss)
    return math.inf


def _by_phases(weights: Tensor, axis: int, step: int, between: int) -> Tensor:
    """Return taps of one axis as taps of each phase, which are further channels, at the end."""
    places = between * torch.arange(weights.shape[axis])
    taps = -(-(int(places[-1]) + 1) // step)
    wide = weights.new_zeros((*weights.shape[:axis], taps * step, *weights.shape[axis + 1 :]))
    wide.index_copy_(axis, places, weights)
    return wide.unflatten(axis, (taps, step)).movedim(axis + 1, -1)


def _products(rows: int, columns: int) -> int:
    """Return how many products the bound of a matrix takes."""
    few, many = sorted((rows, columns))
    return few * few * (many + _SQUARINGS * few)


def _of_matrices(matrices: Tensor) -> float:
    """Return the bound for the largest singular value among matrices, [some, rows, columns]."""
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    power, logarithm = matrices @ matrices.mH, torch.zeros(len(matrices), dtype=torch.float64)
    for squaring in range(_SQUARINGS + 1):
        length = torch.linalg.matrix_norm(power).clamp(min=1e-300)
        logarithm = logarithm + length.log() / 2**squaring
        power = power / length[:, None, None]
        if squaring < _SQUARINGS:
            power = power @ power
    return math.exp(float(logarithm.max()) / 2)
