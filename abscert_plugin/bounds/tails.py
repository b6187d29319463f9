r"""By how much a logit has to be larger than another so that what a file computes behind it is larger too.

Let x be the label's logit, y another one, both as computed, x - y >= d > 0 for all others, u = 2^-24, E the assumed
relative error of exp, L that of log in terms of 1 + |log|.

**Softmax.** x is the largest logit, so a runtime that takes it off computes exp(0) >= 1 - E and, of y, at most
exp(-d (1 - u)) (1 + E); one that takes nothing off has the same factors 1 +- E, and exp(-d) between them. Both are
divided by the one computed sum, or multiplied by its reciprocal, which rounds at most twice each, and by that of the
shares where a Normalizer stands behind, once more. The first is larger if
(1 - E)(1 - u)^3 > exp(-d (1 - u)) (1 + E)(1 + u)^3, for which d >= 2 E + 8 u suffices. A share that underflows to 0
is below the label's, which is at least 1 / n.

**LogSoftmax.** x - c and y - c, where c is the same number, or (x - m) - c' with a rounding more, or the logarithm of
the above. The first two round by no more than 3 u (|x - c| + |y - c|), with |x - c| <= log n + 1 and |y - c| at most
that and x - y; the third is off by 2 E + 8 u in what the log is of, and by L (1 + |log|) in itself. So
(x - y) (1 - 8 u - L) > 2 E + 8 u + (2 L + 16 u) (2 + log n) suffices.

**Sigmoid and Tanh** are off by at most e, so two results keep their order where the exact ones are more than 2 e apart;
far from 0 they saturate, and logits far apart give one and the same number. With x in [a, b] and y in [c, d] known, and
x - y >= m, the least f(x) - f(y) is f(y + m) - f(y) at an end of what y may be, from max(c, a - m) to min(d, b - m),
since f(y + m) - f(y) rises and then falls.
"""

import math
from typing import Final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from abscert_plugin.bounds.margin import other_classes
from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.bounds.proof.functions import EXP_ERROR, LOG_ERROR
from abscert_plugin.bounds.proof.s_shaped import SIGMOID_ERROR, TANH_ERROR
from abscert_plugin.graph.tail import Tail

BY_PLACE: Final = (Tail.SIGMOID, Tail.TANH)
"""Tails of which what is needed depends on where the logits lie."""

_U: Final = arithmetic.UNIT
_ROOM: Final = 1 + 2.0**-10  # for terms of second order
_SPARE: Final = 1e-5
_OWN: Final = 2.0**-46  # of float64's sigmoid and tanh


def kept_margins(
    tail: Tail,
    margins: Float64[Tensor, "batch others"],
    ends: tuple[Float64[Tensor, "batch classes"], Float64[Tensor, "batch classes"]] | None,
    labels: Int64[Tensor, "batch"],
) -> Float64[Tensor, "batch others"]:
    """Return numbers that are above 0 only where what is computed behind the logits puts the label first.

    Args:
        tail: what stands behind the logits.
        margins: lower bounds of logit[label] - logit[j] as computed, for all j other than the label, ascending.
        ends: of the logits that may be computed; None will do where the tail is not one of `BY_PLACE`.
        labels: the classes.
    """
    classes = margins.shape[1] + 1
    if tail is Tail.ARG_MAX:  # picks the largest of computed numbers
        return margins
    if tail is Tail.SOFTMAX:
        return margins - (2 * EXP_ERROR + 8 * _U) * _ROOM
    if tail is Tail.LOG_SOFTMAX:
        needed = 2 * EXP_ERROR + 8 * _U + (2 * LOG_ERROR + 16 * _U) * (2 + math.log(classes))
        return margins * (1 - 2 * (8 * _U + LOG_ERROR)) - needed * _ROOM
    assert ends is not None
    function, error = (torch.sigmoid, SIGMOID_ERROR) if tail is Tail.SIGMOID else (torch.tanh, TANH_ERROR)
    low, high = (end.gather(1, labels.unsqueeze(1)) for end in ends)
    other_low, other_high = (end.gather(1, other_classes(labels, classes)) for end in ends)
    first, last = torch.maximum(other_low, low - margins), torch.minimum(other_high, high - margins)
    gaps = [function(place + margins) - function(place) for place in (first, last)]
    least = torch.minimum(*gaps) - 2 * error - _OWN
    return torch.where(margins > 0, least, -torch.inf)


def answered(
    tail: Tail | None, lower: Float64[Tensor, "batch classes"], upper: Float64[Tensor, "batch classes"]
) -> tuple[Float64[Tensor, "batch classes"], Float64[Tensor, "batch classes"]]:
    """Return ends of what a file answers for logits between two, with room to spare: no verdict rests on them."""
    if tail is None:
        return lower, upper
    if tail is Tail.ARG_MAX:
        return torch.zeros_like(lower), torch.ones_like(upper)
    if tail in BY_PLACE:
        function = torch.sigmoid if tail is Tail.SIGMOID else torch.tanh
        return function(lower) - _SPARE, function(upper) + _SPARE
    least, most = (
        end - torch.logsumexp(torch.where(torch.eye(end.shape[1], dtype=torch.bool), end[:, None], other[:, None]), 2)
        for end, other in ((lower, upper), (upper, lower))
    )
    if tail is Tail.SOFTMAX:
        return least.exp() - _SPARE, most.exp() + _SPARE
    return least - _SPARE * (1 + least.abs()), most + _SPARE * (1 + most.abs())
