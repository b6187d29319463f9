r"""What is known of a value that a file computes in float32: the theory of the proof.

**Chains.** An affine node (Conv, Gemm, MatMul, BatchNormalization, Add, Mul, a mean, ...) may be folded by a runtime
into an affine node beside it, in either direction, with weights multiplied beforehand in float32; or not. So errors
are not counted node by node: a *chain* of affine nodes reaches back to values that a runtime has to hold, the *held*
ones, which are the network's input and what nonlinear nodes give out. Of every value the proof knows

- `lower`, `upper`: ends of the *ideal* value, the exact real result of the chain at the held values *as computed*;
- `magnitude` M: a bound of the sum of the absolute terms, |b| + sum |w| |z| over all paths of the chain;
- `roundings` n: a bound of the roundings that one term of that sum meets, in any evaluation;
- `underflow` T: a bound of what underflow and flushing add up to.

**Theorem.** Every evaluation of the chain in binary32 with rounding to nearest gives a value within
`gamma(n) M + T` of the ideal one.

*Proof.* Write what is computed as a sum over paths, from a held value z (or a constant) to the node:
weight * ... * weight * z * product of (1 + delta_i), |delta_i| <= u, plus what underflow adds. Where a node is
evaluated as it stands, a product is one rounding, and in a sum of p products and a bias a term takes part in at most
p additions, in whatever order and tree: p + 1 more roundings than it had. A fused multiply-add has fewer. Where a
node that acts entry by entry (Mul, Add, BatchNormalization) is folded into its neighbour, the same products are made
of the weights, each once rounded, and sums then go over the same p products; only a bias that is moved through a
matrix takes part in two sums, the one that makes the new bias and the one it is added in. So each affine node counts
2 (p + 1) where it continues a chain, p + 1 where it begins one. Computed constants (BatchNormalization's
scale / sqrt(var + eps), a reciprocal in place of a division) bring the roundings of their own. The product of k
factors (1 + delta) is within gamma(k) of 1, so the sum is within gamma(n) M of the ideal value (Higham, chapter 3).
For underflow: each operation may change its result and each operand by at most t, its constant operands too; an
operand's t is multiplied by the other factor. The first are 4 (p + 1) t and sum |w| t; a weight that is flushed, or
that underflows when weights are folded, changes the term by t |z|: `reach`, the largest sum of |z| along a chain,
bounds those. What underflowed before is carried on by |W|, times 1 + gamma. A single factor in front of a matrix may
also be multiplied behind it (onnxruntime's FusedMatMul), so that what underflows there is scaled by what came before
it in the chain: the terms of a node are counted `gain` times. QED.

The sum of two values that are no constants may be fused into a convolution as its start, so it counts n1 + n2 + 1.

**Overflow.** If M (1 + gamma(n)) + T, or a product of weights that may be folded, or behind a sum reach times
gain, which bounds what it is where some factors of the chain are still left out, is not below the largest float32, or
anything is infinite or NaN, the ends are infinite, the magnitude too, and so is that of all that reads the value.

**Own rounding.** The ends and magnitudes are computed in float64, whose errors the same inequality bounds with
u = 2^-53; |ideal| <= M always, so `own_gamma(p + few) M` covers an affine step. No rounding modes are used.

Assumptions: a held value is one tensor, computed once; its readers read the same numbers. Dense nodes are not
multiplied with one another. No reduced precision, no Winograd or FFT convolutions, no integer kernels in place of
QuantizeLinear and DequantizeLinear: onnxruntime makes them, and quantises float weights and activations on the way,
unless `session.disable_quant_qdq` is 1, as `BlackBox` has it.

**Fewer bits.** Nodes on float16 are covered as they stand: a rounding to it counts as 2^13 roundings to float32
(`arithmetic.Format`), t is 2^-14 and the largest number 65,504. A runtime may compute such a node in float32 and round
what it gives, or leave that out where the next node reads it in float32 too, one reader unlike another. So a held value
stands for what is computed before it is rounded, and each reader has a rounding and a flush of its own. Sums are held
in either, or with `with_wide_sums` in float32 alone, where weights are no longer folded in float16 than they are added.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic

_BY_IMAGE: Final = ("lower", "upper", "magnitude", "underflow", "reach")


@final
@dataclass(frozen=True, slots=True)
class Enclosure:
    """What is known of a tensor, image by image; of a constant, without a batch.

    Args:
        lower: lower ends of the ideal value, -inf where nothing is known.
        upper: upper ends.
        magnitude: bounds of the sum of absolute terms (M), inf where nothing is known.
        roundings: how many roundings a term meets at most (n); 0 of a held value.
        underflow: what underflow adds up to (T), for each image.
        reach: largest sum of absolute held values along the chain, weights left out, for each image.
        gain: largest product of absolute weights along the chain, at least 1.
    """

    lower: Float64[Tensor, "*shape"]
    upper: Float64[Tensor, "*shape"]
    magnitude: Float64[Tensor, "*shape"]
    roundings: int
    underflow: Float64[Tensor, "images"]
    reach: Float64[Tensor, "images"]
    gain: float

    @property
    def is_point(self) -> bool:
        """Whether it is known without any error."""
        return not self.roundings and not bool(self.underflow.any()) and torch.equal(self.lower, self.upper)

    def error(self) -> Tensor | None:
        """Return by how much the computed value may differ from the ideal one, [*shape]; None of a held value."""
        if not self.roundings:
            return None
        size = arithmetic.gamma(self.roundings) * (1 + arithmetic.own_gamma(8)) + arithmetic.own_gamma(8)
        return size * self.magnitude + spread(self.underflow * (1 + arithmetic.own_gamma(8)), self.magnitude)

    def computed(self) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
        """Return ends of the value that the file may compute."""
        error = self.error()
        return (self.lower, self.upper) if error is None else (self.lower - error, self.upper + error)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Enclosure":
        """Return it with its entries moved."""
        lower, upper, magnitude = move(self.lower), move(self.upper), move(self.magnitude)
        return replace(self, lower=lower, upper=upper, magnitude=magnitude)

    def take(self, images: Int64[Tensor, "some"]) -> "Enclosure":
        """Return what is known of some images of the batch, in this order."""
        return replace(self, **{name: getattr(self, name)[images] for name in _BY_IMAGE})

    @classmethod
    def joined(cls, parts: "Sequence[Enclosure]") -> "Enclosure":
        """Return what is known of the images of several batches."""
        return replace(
            parts[0],
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in _BY_IMAGE},
            roundings=max(part.roundings for part in parts),
            gain=max(part.gain for part in parts),
        )

    def negated(self) -> "Enclosure":
        """Return the enclosure of -x, which is exact."""
        return replace(self, lower=-self.upper, upper=-self.lower)

    def size(self) -> Tensor:
        """Return a bound of the absolute value that the file may compute, [*shape]."""
        error = self.error()
        return self.magnitude if error is None else (self.magnitude + error) * (1 + arithmetic.own_gamma(2))

    def narrowed(self, kind: arithmetic.Format) -> "Enclosure":
        """Return it as others read it in a format: one of fewer bits may round and flush it, or hold it as it is."""
        if not kind.narrowing:
            return self
        made = replace(self, roundings=self.roundings + kind.narrowing, underflow=self.underflow + 2 * kind.tiny)
        return made.checked(top=kind.largest)

    def checked(self, peak: float = 1.0, top: float = arithmetic.LARGEST) -> "Enclosure":
        """Return it with infinite ends wherever a step may have overflowed.

        Args:
            peak: bound of sums on the way, as a multiple of the reach.
            top: the largest finite number that they are computed in.
        """
        fits = (self.size() < top) & spread(self.reach * peak < top, self.magnitude)
        fits &= (self.gain < top) & (self.lower <= self.upper)
        if bool(fits.all()):
            return self
        inf = torch.inf
        return replace(
            self,
            lower=self.lower.masked_fill(~fits, -inf),
            upper=self.upper.masked_fill(~fits, inf),
            magnitude=self.magnitude.masked_fill(~fits, inf),
        )


def spread(numbers: Tensor, like: Tensor) -> Tensor:
    """Return one number for each image, in a shape that goes with a tensor; of a constant there is one number."""
    return numbers.reshape(-1, *(1 for _ in like.shape[1:])) if like.ndim else numbers.reshape(())


def largest(values: Tensor) -> Tensor:
    """Return the largest entry for each image: the first axis is that of images."""
    return values.flatten(1).amax(1) if values.ndim > 1 else values.reshape(-1)


def held(lower: Tensor, upper: Tensor, is_constant: bool = False) -> Enclosure:
    """Return what is known of a value that has to be held, from ends of what may be computed.

    Args:
        lower: lower ends.
        upper: upper ends.
        is_constant: whether it has no batch.
    """
    magnitude = torch.maximum(lower.abs(), upper.abs())
    reach = magnitude.amax().reshape(1) if is_constant else largest(magnitude)
    fresh = Enclosure(lower, upper, magnitude, 0, torch.zeros_like(reach), reach, 1.0)
    return fresh.checked()


def clipped(lower: Tensor, upper: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Return ends cut to the magnitude, which bounds the ideal value too."""
    return torch.maximum(lower, -magnitude), torch.minimum(upper, magnitude)
