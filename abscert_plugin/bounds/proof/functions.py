"""The functions of one entry that proofs know, with how far float32 may be off: measured, or derived step by step.

Functions without a standard accuracy are assumed to keep to twice the largest error that onnxruntime 1.31.1 showed
(`benchmarks/function_error.py`): exp and log over every float32 argument, the others over every 16th, powers of ten
exponents over every 64th. A runtime may have one node for a function, or make it of others; an error here bounds
both. It is derived to first order from those of the parts, u = 2^-24 for each rounding, with room to spare.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.activations import Interval, Piecewise
from abscert_plugin.bounds.proof.s_shaped import SIGMOID_ERROR, TANH_ERROR
from abscert_plugin.bounds.proof.smooth import Error, Smooth, Stepped, Turns, turning, within

EXP_ERROR: Final = 2 * 7.62391e-08
"""Assumed relative error of a computed exp, up to `EXP_LIMIT`."""

EXP_LIMIT: Final = 88.0
"""Above it nothing is claimed of exp, which overflows at 88.7 and which runtimes cut off before."""

LOG_ERROR: Final = 2 * 1.09682e-07
"""Assumed error of log, in terms of 1 + |log x|."""

ERF_ERROR: Final = 2 * 5.95108e-08
"""Assumed largest error of erf."""

SINE_ERROR: Final = 2 * 1.02842e-07
"""Assumed largest error of sin and cos, up to `SINE_LIMIT`."""

SINE_LIMIT: Final = 2.0**20

TAN_ERROR: Final = 2 * 7.31920e-08
"""Assumed relative error of tan between -1.5 and 1.5, beyond which nothing is claimed."""

POWER_ERROR: Final = 2 * 1.17998e-07
"""Assumed relative error of pow, beside what multiplying again and again may do."""

_U: Final = arithmetic.UNIT
_SMALLEST: Final = 2 * arithmetic.TINY
_GELU: Final = ERF_ERROR / 2 + 6 * _U
_GELU_TANH: Final = TANH_ERROR / 2 + 8 * _U
_SOFTPLUS: Final = EXP_ERROR + LOG_ERROR + 2 * _U
_MISH: Final = TANH_ERROR + 1.5 * _SOFTPLUS + 4 * _U


def _nearest(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the least absolute value between two ends."""
    return torch.where(lower * upper > 0, torch.minimum(lower.abs(), upper.abs()), 0.0)


def _farthest(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.maximum(lower.abs(), upper.abs())


def _constant(bound: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda lower, _: torch.full_like(lower, bound)


def _above(least: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda lower, upper: (lower >= least) & (upper < torch.inf)


EXP: Final = Smooth(
    torch.exp, lambda _, upper: upper.exp(), Error(EXP_ERROR), known=within(-math.inf, EXP_LIMIT), own=0.0
)
LOG: Final = Smooth(
    torch.log, lambda lower, _: lower.pow(-2), Error(LOG_ERROR, 0.0, LOG_ERROR), known=_above(_SMALLEST), own=0.0
)
SQRT: Final = Smooth(
    torch.sqrt, lambda lower, _: lower.pow(-1.5) / 4, Error(arithmetic.gamma(2)), known=_above(0.0), own=0.0
)
RECIPROCAL: Final = Smooth(
    torch.reciprocal,
    lambda lower, upper: 2 * _nearest(lower, upper).pow(-3),
    Error(arithmetic.gamma(2)),
    known=lambda lower, upper: (_nearest(lower, upper) >= _SMALLEST) & (_farthest(lower, upper) < torch.inf),
    own=0.0,
)
INVERSE_ROOT: Final = Smooth(
    torch.rsqrt,
    lambda lower, _: 0.75 * (1 + 2.0**-40) * lower.pow(-2.5),
    Error(arithmetic.gamma(8)),
    known=_above(_SMALLEST),
    own=0.0,
)
ABS: Final = Piecewise((0.0,), (-1.0, 1.0))

# --- curves of networks ----------------------------------------------------------------------------------------------


def _erf_bend(lower: Tensor, upper: Tensor) -> Tensor:
    near = _nearest(lower, upper).clamp(min=0.5**0.5)  # |f''| is largest there, and falls beyond
    return 4 / math.sqrt(math.pi) * near * (-near.square()).exp() * (1 + 2.0**-40)


ERF: Final = Smooth(torch.erf, _erf_bend, Error(0.0, 0.0, ERF_ERROR))


def _gelu(points: Tensor) -> Tensor:
    return points / 2 * torch.special.erfc(-points / math.sqrt(2))


def _gelu_tanh(points: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (points + 0.044715 * points**3)
    return points * torch.sigmoid(2 * inner)  # (1 + tanh t) / 2


def _softplus(points: Tensor) -> Tensor:
    return points.clamp(min=0) + torch.log1p((-points.abs()).exp())


def _mish(points: Tensor) -> Tensor:
    return points * torch.tanh(_softplus(points))


def _swish(points: Tensor) -> Tensor:
    return points * torch.sigmoid(points)


def _hard_swish(points: Tensor) -> Tensor:
    return points * (points / 6 + 0.5).clamp(0, 1)


# beyond, products on the way might overflow in some order
_MODERATE: Final = within(-1e37, 1e37)

GELU: Final = Smooth(_gelu, _constant(0.7979), Error(0.0, _GELU), turning(_gelu, -0.7517915246935645), known=_MODERATE)
GELU_TANH: Final = Smooth(
    _gelu_tanh, _constant(0.81), Error(0.0, _GELU_TANH), turning(_gelu_tanh, -0.7524614220710162), known=_MODERATE
)
SOFTPLUS: Final = Smooth(
    _softplus, _constant(0.25), Error(LOG_ERROR, 0.0, _SOFTPLUS), known=within(-math.inf, EXP_LIMIT)
)
MISH: Final = Smooth(_mish, _constant(0.65), Error(0.0, _MISH), turning(_mish, -1.1924312145154868), known=_MODERATE)
SWISH: Final = Smooth(
    _swish, _constant(0.5), Error(0.0, SIGMOID_ERROR + 2 * _U), turning(_swish, -1.2784645427610738), known=_MODERATE
)


def swish(alpha: float) -> Smooth:
    """Return x sigmoid(alpha x), for alpha other than 0, which is Swish of alpha x over alpha."""

    def value(points: Tensor) -> Tensor:
        return points * torch.sigmoid(alpha * points)

    # alpha x is rounded, and t sigmoid'(t) is below 1 / 4
    error = Error(0.0, SIGMOID_ERROR + 3 * _U, arithmetic.underflow(2.0))
    most = 1e37 / max(1.0, abs(alpha))
    turns = turning(value, -1.2784645427610738 / alpha)
    return Smooth(value, _constant(0.5 * abs(alpha) * (1 + 2.0**-40)), error, turns, known=within(-most, most))


HARD_SWISH: Final = Smooth(
    _hard_swish,
    _constant(1 / 3 + 1e-9),
    Error(0.0, 8 * _U),
    turning(_hard_swish, -3.0, -1.5),
    kinks=(-3.0, 3.0),
    known=_MODERATE,
)
SOFTSIGN: Final = Smooth(
    lambda points: points / (1 + points.abs()),
    lambda lower, upper: 2 * (1 + _nearest(lower, upper)).pow(-3) * (1 + 2.0**-40),
    Error(arithmetic.gamma(6)),
)


def elu(alpha: float, factor: float = 1.0) -> Smooth:
    """Return factor * (x where x > 0, else alpha (exp(x) - 1)): Elu and Selu."""
    size = abs(alpha * factor)

    def value(points: Tensor) -> Tensor:
        return factor * torch.where(points > 0, points, alpha * torch.expm1(points.clamp(max=0)))

    def bend(_: Tensor, upper: Tensor) -> Tensor:
        return size * upper.clamp(max=0).exp() * (1 + 2.0**-40)

    error = Error(arithmetic.gamma(6), 0.0, size * (EXP_ERROR + 4 * _U))
    return Smooth(value, bend, error, turning(value, 0.0), kinks=(0.0,), own=1 + size)


def celu(alpha: float) -> Smooth:
    """Return x where x > 0, else alpha (exp(x / alpha) - 1), for alpha > 0; x / alpha may be off by two roundings."""

    def value(points: Tensor) -> Tensor:
        return torch.where(points > 0, points, alpha * torch.expm1(points.clamp(max=0) / alpha))

    def bend(_: Tensor, upper: Tensor) -> Tensor:
        return (upper.clamp(max=0) / alpha).exp() / alpha * (1 + 2.0**-40)

    return Smooth(value, bend, Error(arithmetic.gamma(6), 0.0, alpha * (EXP_ERROR + 6 * _U)), own=1 + alpha)


def hard_sigmoid(alpha: float, beta: float) -> Smooth:
    """Return alpha x + beta cut to [0, 1], for alpha other than 0."""
    kinks = tuple(sorted(((0.0 - beta) / alpha, (1.0 - beta) / alpha)))
    fixed = arithmetic.gamma(6) * (2 + 2 * abs(beta))  # what is cut off leaves |alpha x| <= 1 + |beta|
    return Smooth(
        lambda points: (alpha * points + beta).clamp(0, 1),
        _constant(0.0),
        Error(0.0, 0.0, fixed),
        kinks=kinks,
        own=1 + abs(alpha),
    )


# --- waves -----------------------------------------------------------------------------------------------------------


def _periodic(top: float) -> Turns:
    """Return the turns of a wave of period 2 pi that is 1 at `top`, and -1 half a period on."""

    def turns(lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        found = []
        for place, height in ((top, 1.0), (top + math.pi, -1.0)):
            count = ((lower - place - 1e-9) / (2 * math.pi)).ceil()
            found.append((place + count * 2 * math.pi <= upper + 1e-9, height))
        return found

    return turns


_WAVE: Final = Error(0.0, 0.0, SINE_ERROR)
SIN: Final = Smooth(torch.sin, _constant(1.0), _WAVE, _periodic(math.pi / 2), known=within(-SINE_LIMIT, SINE_LIMIT))
COS: Final = Smooth(torch.cos, _constant(1.0), _WAVE, _periodic(0.0), known=within(-SINE_LIMIT, SINE_LIMIT))


def _tan_bend(lower: Tensor, upper: Tensor) -> Tensor:
    steep = _farthest(lower, upper).tan()
    return 2 * steep * (1 + steep.square()) * (1 + 2.0**-40)


TAN: Final = Smooth(torch.tan, _tan_bend, Error(TAN_ERROR), known=within(-1.5, 1.5))


# --- powers ----------------------------------------------------------------------------------------------------------


def power(exponent: float) -> Smooth:
    """Return x^p for an exponent other than 0: whole ones of all x, but for x = 0 below 0; others of x >= 0.

    A product of n factors rounds n - 1 times, a pow as a library has it is assumed to keep to `POWER_ERROR`. One of an
    exponent below 0 may be one over such a product: that has to be large enough not to be flushed to 0.
    """
    is_whole = exponent == int(exponent)
    curve = abs(exponent * (exponent - 1)) * (1 + 2.0**-40)

    def value(points: Tensor) -> Tensor:
        return points.pow(exponent)

    def bend(lower: Tensor, upper: Tensor) -> Tensor:
        far = _farthest(lower, upper) if exponent >= 2 else _nearest(lower, upper)
        return curve * far.pow(exponent - 2)

    def known(lower: Tensor, upper: Tensor) -> Tensor:
        near = _nearest(lower, upper)
        fits = torch.minimum(near, near.pow(abs(exponent))) >= (_SMALLEST if exponent < 0 else 0.0)
        return fits & (_farthest(lower, upper) < torch.inf) & (is_whole | (lower >= 0))

    share = POWER_ERROR + arithmetic.gamma(2 * math.ceil(abs(exponent)) + 2)
    turns = turning(value, 0.0) if exponent > 0 else turning(value)
    return Smooth(value, bend, Error(share), turns, known=known, own=0.0)


# --- steps -----------------------------------------------------------------------------------------------------------


def monotone(function: Callable[[Tensor], Tensor]) -> Stepped:
    """Return a function that never falls and is computed without error."""
    return Stepped(lambda lower, upper: (function(lower), function(upper)))


SIGN: Final = monotone(torch.sign)
FLOOR: Final = monotone(torch.floor)
CEIL: Final = monotone(torch.ceil)
ROUND: Final = monotone(torch.round)
NOT: Final = Stepped(lambda lower, upper: (1 - upper, 1 - lower))


def cut_off(limit: float, shift: float = 0.0, below: bool = False) -> Stepped:
    """Return x where x > limit, else 0: ThresholdedRelu; or x - shift there and x + shift below -limit: Shrink."""

    def ends(lower: Tensor, upper: Tensor) -> Interval:
        parts = [(upper > limit, lower.clamp(min=limit) - shift, upper - shift)]
        if below:
            parts.append((lower < -limit, lower + shift, upper.clamp(max=-limit) + shift))
        is_zero = (lower <= limit) & ((upper >= -limit) if below else True)
        least, most = torch.where(is_zero, 0.0, torch.inf), torch.where(is_zero, 0.0, -torch.inf)
        for is_there, low, high in parts:
            least = torch.where(is_there, torch.minimum(least, low), least)
            most = torch.where(is_there, torch.maximum(most, high), most)
        error = arithmetic.gamma(2) * (abs(shift) + _farthest(lower, upper)) if shift else 0.0
        tiny = arithmetic.underflow(2.0)
        return least - error - tiny, most + error + tiny

    return Stepped(ends)
