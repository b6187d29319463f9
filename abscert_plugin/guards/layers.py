r"""Affine nodes of a file in its guard: ends of what the file may compute, or a chain that goes on.

Let a node compute z = W y + b of values y that the file holds, with p products in a sum and l <= y <= u; X is the
larger of |l| and |u|. The guard's own nodes give, in float32 and in any order of their sums,

    s = l + u,   d = (u - l) + k X,   A = W s / 2 + b,   B = K |W| d / 2 + K (k / 2 |b| + T),   ends A - B and A + B,

with k = 2 (gamma(n) + gamma(p + 16)), n the roundings of the file's chain, K = 1 + 4 gamma(p + 16).

**Theorem.** Whatever the file computes for z, in any order of its sums, lies between the two ends that the guard
computes.

*Proof.* In real numbers z differs from what the file computes by at most gamma(n) (|W| X + |b|) + T0, by the theorem
of `bounds.proof.enclosure`, and from W (l + u) / 2 + b by |W| (u - l) / 2. The guard's A differs from that by at most
gamma(p + 3) (|W| X + |b|) + T1: a rounding of s, a rounding of each product, p of the sum. The last subtraction, or
addition, rounds by u (|A| + B), and |A| <= (1 + gamma(p + 3)) (|W| X + |b|) + T1. So the ends enclose z if

    B (1 - u) >= |W| (u - l) / 2 + (gamma(n) + gamma(p + 3) + 2 u) (|W| X + |b|) + T0 + 2 T1,

where B is what was computed. That is at least (1 - gamma(p + 6)) K times the real |W| d / 2 + k / 2 |b| + T, less 2 u X
in d: that loses three roundings of itself, or one of (1 + k) X; the products and sums lose p + 2. K makes up for these
and for 1 - u, since (1 - gamma(p + 6)) (1 - u) K >= 1; k / 2 holds gamma(p + 16) >= gamma(p + 3) + 4 u; T is T0, T1
twice, what d and B underflow by, and what the values y may differ by where subnormal numbers were flushed. Constants
are rounded up. QED.

Where l >= 0, X is u, and d = u - l / (1 + k) will do with (1 + k) K in place of K: that is one pass over the values.
What the network is fed has one bound X for all entries, and |W| X is part of B's bias.

**A ReLU behind a convolution** has the ends P = max(A + B, 0) and Q = max(P - 2 B, 0) with K^2 in place of K. A
runtime may start the sum A with B, and may fold 2 B into what gives B, so that it is 2 B' with another order of sums.
*Proof.* The sum S = A + B is off from the real W s / 2 + b + B by gamma(p + 4) (|W| X + |b| + B) + T1, an addition more
than A. So P is an end above if B (1 - gamma(p + 4)) is no less than the right side of that inequality with p + 4 in
place of p + 3. Below: if S <= 0, then P = 0 and Q = 0, since B' >= 0, and a ReLU gives no less. Otherwise P - 2 B' is
S - 2 B' rounded once: at most the real W s / 2 + b, and the error of S, and u (|A| + B), and B - 2 B'. B and B' are off
by gamma(p + 6), so that is an end if (1 - 3 gamma(p + 6) - gamma(p + 4) - 2 u) of the real B is no less than the right
side. With g = gamma(p + 16) < 1/16, which is asked for, (1 - 4 g) K^2 >= 1, and k has room for p + 4. QED.

A chain goes on with three tensors: a center c, a radius r of the real value of the chain, and the size G of its
absolute terms. |c| <= G + r, so c' = W c + b is off by gamma(p + 3) (G' + r'), and its radius is K (|W| r + h G'), with
h = 2 gamma(p + 16). What the file computes lies within r + gamma(n) G + T of c.

A chain that is stored times 2^a and goes on times 2^b, b < a, is multiplied by 2^(b - a). A runtime may fold that into
the weights W before it, some of which are then flushed: each changes by no more than t, so c, r and G by t 2^a times
the sum of absolute values that W reads, or by t for a bias. T is at least 4 t times that sum, and 4 t, so 4 T 2^a
holds what all three of them change by.

W may be a product of a node's weights and what scales its outputs behind it: rounded to float64 and float32 it differs
by 3 u |W|, which gamma(p + 16) holds as well.
"""

from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.graph.walk import need
from abscert_plugin.guards.emitter import BLOCK, LARGEST, Emitter
from abscert_plugin.guards.linear import Array, Linear, Weighted
from abscert_plugin.guards.values import Chain, Ends, Fact, Line, Move

FEW: Final = 16
"""Roundings of the guard's own beside those of a sum of products."""

_MOST_POWER: Final = 24
LEAST_SHARE: Final = 2.0**-4  # sums that round by more are too long for float32
OUTWARD: Final = 1 + 2.0**-20
"""A factor that makes up for a few roundings."""


def line_ends(emitter: Emitter, line: Line) -> Ends:
    """Write the ends of what the file may compute."""
    parts = _parts(line)
    middle, radius = parts.middle(emitter), parts.radius(emitter)
    lower, upper = emitter.node("Sub", [middle, radius]), emitter.node("Add", [middle, radius])
    for move in line.moves:
        lower, upper = move(emitter, lower), move(emitter, upper)
    return plain(emitter, Ends(lower, upper, parts.power, line.fact.top), _MOST_POWER)


def rectified_ends(emitter: Emitter, line: Line, fact: Fact) -> Ends | None:
    """Write the ends of what a ReLU behind a convolution gives; None where that is no quicker."""
    linear = line.linear
    if not isinstance(linear, Weighted) or not linear.is_of_images or linear.weights.shape[0] % BLOCK or line.moves:
        return None
    parts = _parts(line, more=shares(linear, line.fact)[1])
    radius = parts.radius(emitter)
    upper = emitter.node("Relu", [emitter.node("Add", [parts.middle(emitter), radius])])
    lower = emitter.node("Relu", [emitter.blend(upper, radius, -2.0, linear.weights.shape[0])])
    return plain(emitter, Ends(lower, upper, parts.power, fact.top, is_positive=True), _MOST_POWER)


@final
@dataclass(frozen=True, slots=True)
class _Parts:
    """What A and B of a line are made of, times 2^power."""

    line: Line
    power: int
    bias: Array | None
    rest: Array
    share: float
    grown: float

    def middle(self, emitter: Emitter) -> str:
        """Write A."""
        return self.line.linear.middle(emitter, doubled_middle(emitter, self.line.source), self.bias)

    def radius(self, emitter: Emitter) -> str:
        """Write B."""
        width, factor = _widened(emitter, self.line, 2 * self.share)
        return self.line.linear.absolute(emitter, width, self.grown * factor, self.rest)


def _parts(line: Line, more: float = 1.0) -> _Parts:
    """Return what A and B are made of, with K times a factor in place of K."""
    source, linear = line.source, line.linear
    share, grown = shares(linear, line.fact)
    grown *= more
    power, unit = source.power + 1, 2.0 ** (source.power + 1)
    need_room(line.linear, source.top, line.bias_size, unit)
    room = 4 * line.fact.underflow * unit + 2 * lost(linear, source.top, unit)
    sizes = np.array(0.0) if line.bias_size is None else line.bias_size
    if source.is_even:
        sizes = sizes + linear.row_sums * source.top
    bias = None if line.bias is None else np.asarray(line.bias * unit)
    return _Parts(line, power, bias, np.asarray((sizes * share * unit + room) * grown), share, grown)


def line_chain(emitter: Emitter, line: Line) -> Chain:
    """Write a chain that goes on."""
    source = line.source
    parts = (
        doubled_middle(emitter, source),
        emitter.node("Sub", [source.upper, source.lower]),
        size_of(emitter, source),
    )
    start = Chain(*parts, source.power + 1, source.top, 0, 0.0)
    made = affine_chain(emitter, start, line.linear, line.bias, line.bias_size, line.fact, size_factor=2.0)
    return moved_chain(emitter, made, line.moves)


def affine_chain(
    emitter: Emitter,
    chain: Chain,
    linear: Linear,
    bias: Array | None,
    bias_size: Array | None,
    fact: Fact,
    size_factor: float = 1.0,
) -> Chain:
    """Write W x + b of a chain x, whose size is stored over `size_factor`."""
    _, grown = shares(linear, fact)
    unit = 2.0**chain.power
    need_room(linear, chain.top, bias_size, unit)
    center = linear.middle(emitter, chain.center, None if bias is None else np.asarray(bias * unit))
    loss = lost(linear, chain.top, unit)
    size_bias = np.array(loss) if bias_size is None else np.asarray(bias_size * unit * grown + loss)
    size = linear.absolute(emitter, chain.size, grown * size_factor, size_bias)
    share = 2 * arithmetic.gamma(linear.products + FEW)
    spread = linear.absolute(emitter, chain.radius, grown * (1 + share), np.asarray(loss * grown))
    radius = emitter.node("Add", [spread, emitter.node("Mul", [size, emitter.number(share * grown)])])
    made = Chain(center, radius, size, chain.power, fact.top, fact.roundings, fact.underflow)
    return made if made.power <= _MOST_POWER else rescaled(emitter, made, 0)


def as_chain(emitter: Emitter, value: Ends) -> Chain:
    """Write a held value as the beginning of a chain."""
    unit = 2.0 ** (value.power + 1)
    size = emitter.node("Mul", [size_of(emitter, value), emitter.number(2 * OUTWARD)])
    width = emitter.node("Sub", [value.upper, value.lower])
    radius = _grown(emitter, width, size, 16 * arithmetic.UNIT, unit)
    return Chain(doubled_middle(emitter, value), radius, size, value.power + 1, value.top, 0, 0.0)


def joined(emitter: Emitter, first: Chain, second: Chain, sign: int, fact: Fact) -> Chain:
    """Write first + sign * second."""
    power = min(first.power, second.power)
    first, second = rescaled(emitter, first, power), rescaled(emitter, second, power)
    center = emitter.node("Add" if sign > 0 else "Sub", [first.center, second.center])
    size = emitter.node("Add", [first.size, second.size])
    size = emitter.node("Mul", [size, emitter.number(OUTWARD)])
    radius = emitter.node("Add", [first.radius, second.radius])
    radius = _grown(emitter, radius, size, 8 * arithmetic.UNIT, 2.0**power)
    return Chain(center, radius, size, power, fact.top, fact.roundings, fact.underflow)


def chain_ends(emitter: Emitter, chain: Chain) -> Ends:
    """Write the ends of what the file may compute where a chain ends."""
    unit = 2.0**chain.power
    share = arithmetic.gamma(chain.roundings) + 8 * arithmetic.UNIT
    need(share < LEAST_SHARE, "its chain of sums is too long for float32")
    room = _grown(emitter, chain.radius, chain.size, share, unit, 2 * chain.underflow * unit)
    lower, upper = emitter.node("Sub", [chain.center, room]), emitter.node("Add", [chain.center, room])
    return plain(emitter, Ends(lower, upper, chain.power, chain.top), _MOST_POWER)


def moved_chain(emitter: Emitter, chain: Chain, moves: tuple[Move, ...]) -> Chain:
    """Write a chain with its entries moved."""
    for move in moves:
        parts = [move(emitter, name) for name in (chain.center, chain.radius, chain.size)]
        near = None if chain.near is None else moved_ends(emitter, chain.near, move)
        chain = replace(chain, center=parts[0], radius=parts[1], size=parts[2], near=near)
    return chain


def moved_ends(emitter: Emitter, value: Ends, move: Move) -> Ends:
    """Write ends with their entries moved."""
    size = None if value.size is None else move(emitter, value.size)
    return replace(value, lower=move(emitter, value.lower), upper=move(emitter, value.upper), size=size)


def rescaled(emitter: Emitter, chain: Chain, power: int) -> Chain:
    """Write a chain times another power of two, which a runtime may fold into the weights of the node before."""
    if power == chain.power:
        return chain
    factor = emitter.exactly(2.0 ** (power - chain.power))
    center, size = (emitter.node("Mul", [name, factor]) for name in (chain.center, chain.size))
    radius = emitter.node("Mul", [chain.radius, emitter.number(2.0 ** (power - chain.power) * OUTWARD)])
    if chain.underflow:
        radius = emitter.node("Add", [radius, emitter.number(4 * chain.underflow * 2.0**chain.power)])
    return replace(chain, center=center, radius=radius, size=size, power=power, near=None)


def plain(emitter: Emitter, value: Ends, most: int = 0) -> Ends:
    """Write ends as they are, unless their power of two is not too large."""
    if value.power <= most:
        return value
    factor = emitter.exactly(2.0**-value.power)
    lower, upper = (emitter.node("Mul", [name, factor]) for name in (value.lower, value.upper))
    assert value.size is None
    return replace(value, lower=lower, upper=upper, power=0)


def shares(linear: Linear, fact: Fact) -> tuple[float, float]:
    """Return k / 2 and K."""
    own = arithmetic.gamma(linear.products + FEW)
    share = arithmetic.gamma(fact.roundings) + own
    need(share < LEAST_SHARE, "its sums are too long for float32")
    return share, 1 + 4 * own


def need_room(linear: Linear, top: float, bias_size: Array | None, unit: float) -> None:
    """Raise unless no sum of a linear node can come near the largest float32, whatever the image."""
    size = 0.0 if bias_size is None else float(np.abs(bias_size).max())
    most = (linear.row_sum * top + size + linear.products * top) * unit * 16
    need(most < LARGEST, "its values may be too large for a guard in float32")


def lost(linear: Linear, top: float, unit: float) -> float:
    """Return what the guard's own underflow, and flushed values of the file, add up to, in units of what is stored."""
    terms = 32 * (linear.products + 2) * (1 + top * unit) + 64 * linear.row_sum * (1 + unit)
    return arithmetic.TINY * terms


def doubled_middle(emitter: Emitter, value: Ends) -> str:
    """Write twice the middle of two ends."""
    return emitter.node("Add", [value.lower, value.upper])


def size_of(emitter: Emitter, value: Ends) -> str:
    """Write the largest absolute value between two ends; of what the network is fed, what bounds its absolute terms."""
    if value.size is not None:
        return value.size
    if value.is_even:
        return emitter.node("Max", [value.upper, emitter.number(value.top * 2.0**value.power)])
    if value.is_positive:
        return value.upper
    return emitter.node("Max", [emitter.node("Abs", [value.lower]), emitter.node("Abs", [value.upper])])


def _widened(emitter: Emitter, line: Line, share: float) -> tuple[str, float]:
    """Write (u - l) + share * X, or what is not below that, over a factor; of ends that are even, u - l alone."""
    value = line.source
    if value.is_positive and not value.is_even:
        if isinstance(line.linear, Weighted) and line.linear.is_of_images and not line.shape[0] % BLOCK:
            inner = np.nextafter(np.float32(1 / (1 + share)), np.float32(0))
            return emitter.blend(value.upper, value.lower, -float(inner), line.shape[0]), 1 + share
        return emitter.node("Sub", [emitter.node("Mul", [value.upper, emitter.number(1 + share)]), value.lower]), 1.0
    width = emitter.node("Sub", [value.upper, value.lower])
    if value.is_even:
        return width, 1.0
    return emitter.node("Add", [width, emitter.node("Mul", [size_of(emitter, value), emitter.number(share)])]), 1.0


def _grown(emitter: Emitter, radius: str, size: str, share: float, unit: float, more: float = 0.0) -> str:
    """Write radius + share * size + more, and what its own rounding and underflow may take away."""
    found = emitter.node("Add", [radius, emitter.node("Mul", [size, emitter.number(share)])])
    found = emitter.node("Mul", [found, emitter.number(OUTWARD)])
    return emitter.node("Add", [found, emitter.number(more + 64 * arithmetic.TINY * (1 + unit))])
