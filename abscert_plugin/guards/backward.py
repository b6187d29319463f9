r"""Margins of a guard by lines through its ReLUs: the backward pass of CROWN-IBP (Zhang et al. 2020), in the graph.

For every image of the ball and every way to compute the file, a pass keeps, of each margin,

    margin >= t + a y,        y a value that the file holds, a and t numbers of float32, the sum one of real numbers,

and goes back from y to what the file computed it of.

**A ReLU** y = max(z, 0) with l <= z <= u is bounded by lines: y >= alpha z, with alpha 0 or 1, where a > 0, and
y <= sigma z + tau where a < 0. Any sigma of [0, 1] will do with tau >= max(-sigma min(l, 0), (1 - sigma) max(u, 0)),
so what is lost is known however sigma was rounded: the guard computes it of the sigma that it has. With a' = a alpha or
a sigma, rounded once,

    a y >= a' z - |min(a, 0)| tau - u |a'| |z|.

**A linear node** z = W x + b, computed by the file to within gamma(n) (|W| X + |b|) + T, X the size of x, and W^T a'
computed by the guard with q products in a sum: with D = k (|W| X + |b|) + gamma(N + 16) |b| + T,

    a' z - u |a'| |z| >= (W^T a') x + a' b - |a'| D,        k = gamma(n) + gamma(q + 16),

where W^T a' is what was computed. *Proof.* It is off by gamma(q + 2) |W^T| |a'| in each entry, which x turns into no
more than gamma(q + 2) |a'| |W| X; weights that float64 made of others are rounded by 3 u |W|; u |a'| |z| is at most
u (1 + gamma(n)) |a'| (|W| X + |b|); and the N products of a' b are summed to within gamma(N + 2) |a'| |b|. Sums of
terms of one sign lose a share gamma(N + 16) of themselves, which a factor makes up for. QED.

**The end** is a value y with ends of its own: a y >= a (l + u) / 2 - |a| ((u - l) / 2 + gamma(N + 16) X).

What underflows, or is flushed, is bounded over all images, as is whether anything could overflow.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Final, final

import numpy as np

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.graph.walk import need
from abscert_plugin.guards import layers
from abscert_plugin.guards.emitter import LARGEST, Emitter
from abscert_plugin.guards.linear import Array, Turned, Weighted
from abscert_plugin.guards.values import Ends, Line, Rectified

_LEAST_WIDTH: Final = 2.0**-60  # a narrower ReLU has sigma below what it could have, so that nothing is divided by 0


@final
@dataclass
class Pass:
    """Rows on their way back.

    Args:
        emitter: takes up the nodes.
        rows: name of a, [batch, count, entries of y].
        count: rows of an image.
        most: bound of their absolute entries, over all images.
        terms: names of what t is the sum of, [batch, count, 1] each.
    """

    emitter: Emitter
    rows: str
    count: int
    most: float
    terms: list[str] = field(default_factory=list)

    def less(self, rows: str, losses: str, entries: int, power: int, share: float = 1.0) -> None:
        """Take a share of rows times losses, of which all are at least 0 and stored times 2^power, off t."""
        emitter = self.emitter
        product = emitter.node("MatMul", [rows, losses])
        scaled = emitter.node("Mul", [product, emitter.number(share * (1 + 4 * _gamma(entries)))])
        if power:
            scaled = emitter.node("Mul", [scaled, emitter.exactly(2.0**-power)])
        self.terms.append(emitter.node("Neg", [scaled]))

    def lost(self, amount: float) -> None:
        """Take a number off t."""
        self.terms.append(self.emitter.node("Neg", [self.emitter.number(amount)]))


def margins(emitter: Emitter, line: Line, label: str, errors: str, classes: int) -> str | None:
    """Write lower bounds of the margins of a label to all classes, [batch, classes]; that to itself means nothing.

    Args:
        emitter: takes up the nodes.
        line: the last node, dense, with `classes` outputs.
        label: [batch, 1].
        errors: [batch, classes]: by how much the two logits of each margin may be off in all, with the rounding of the
            rows W_i - W_j and of b_i - b_j.
        classes: how many there are.

    Returns: None where no ReLU stands before the last node.
    """
    linear, origin = line.linear, line.source.origin
    if not isinstance(linear, Weighted) or origin is None or _turned(origin) is None:
        return None
    weights = linear.weights if linear.outputs == 0 else linear.weights.T
    table = emitter.nearest(weights)
    own = emitter.node("Gather", [table, label], axis=0)  # [batch, 1, entries]
    way = Pass(emitter, emitter.node("Sub", [own, table]), classes, 4 * float(np.abs(weights).max()))
    way.terms.append(_column(emitter, emitter.node("Neg", [errors])))
    if line.bias is not None:
        biases = emitter.nearest(np.broadcast_to(line.bias.reshape(-1), (classes,)).copy())
        own = emitter.node("Gather", [biases, label], axis=0)  # [batch, 1]
        way.terms.append(_column(emitter, emitter.node("Sub", [own, biases])))
    source = line.source
    size = weights.shape[1]
    while source.origin is not None:
        turned = _turned(source.origin)
        if turned is None:
            break
        through(way, source.origin, turned)
        source, size = source.origin.line.source, prod(turned.shape)
    at_ends(way, source, size)
    return summed(way)


def _turned(origin: Rectified) -> Turned | None:
    return origin.line.linear.turned(origin.line.shape, origin.shape)


def through(way: Pass, origin: Rectified, turned: Turned) -> None:
    """Go back through a ReLU and the linear node before it."""
    emitter, line, before = way.emitter, origin.line, origin.before
    count, unit = prod(origin.shape), 2.0**before.power
    _need_room(way, count, before.top, unit)
    lower, upper = (_flat(emitter, name, count) for name in (before.lower, before.upper))
    zero = emitter.exactly(0.0)
    ink, dark = emitter.node("Relu", [upper]), emitter.node("Min", [lower, zero])
    width = emitter.node("Max", [emitter.node("Sub", [ink, dark]), emitter.exactly(_LEAST_WIDTH * unit)])
    sigma = emitter.node("Min", [emitter.node("Div", [ink, width]), emitter.exactly(1.0)])
    rest = emitter.node("Sub", [emitter.exactly(1.0), sigma])
    above = emitter.node(
        "Max",
        [emitter.node("Neg", [emitter.node("Mul", [sigma, dark])]), emitter.node("Mul", [rest, ink])],
    )
    room = emitter.number(64 * arithmetic.TINY * (1 + unit))
    tau = emitter.node("Add", [emitter.node("Mul", [above, emitter.number(layers.OUTWARD)]), room])
    is_open = emitter.node("Greater", [emitter.node("Add", [lower, upper]), zero])
    alpha = emitter.node("Cast", [is_open], to=1)
    # the same for all rows of an image
    sigma, alpha = (emitter.widened(name, 1) for name in (sigma, alpha))
    negative = emitter.node("Relu", [emitter.node("Neg", [way.rows])])
    way.less(negative, _column(emitter, tau), count, before.power)
    above_zero = emitter.node("Mul", [emitter.node("Relu", [way.rows]), alpha])
    rows = emitter.node("Sub", [above_zero, emitter.node("Mul", [negative, sigma])])  # one of the two is 0
    _through_linear(way, line, turned, rows, count)


def _through_linear(way: Pass, line: Line, turned: Turned, rows: str, count: int) -> None:
    emitter, linear, source = way.emitter, line.linear, line.source
    share = arithmetic.gamma(line.fact.roundings) + _gamma(turned.products)
    need(max(share, _gamma(count)) < layers.LEAST_SHARE, "its sums are too long for float32")
    unit, most = 2.0**source.power, way.most
    bias, bias_size = (_bias(part, turned.shape_after) for part in (line.bias, line.bias_size))
    grown = 1 + 4 * _gamma(linear.products)
    room = line.fact.underflow * unit + layers.lost(linear, source.top, unit)
    constant = np.asarray(room if bias_size is None else bias_size * (share + _gamma(count)) * unit + room)
    layers.need_room(linear, source.top, bias_size, unit)
    # |W| is stored as it was on the way forward: what is summed is D / share
    losses = linear.absolute(emitter, layers.size_of(emitter, source), grown, np.asarray(constant * grown / share))
    flat = _column(emitter, _flat(emitter, losses, count))
    way.less(emitter.node("Abs", [rows]), flat, count, source.power, share)
    if bias is not None:
        column = emitter.nearest(np.broadcast_to(bias[0], turned.shape_after).reshape(-1, 1).copy())
        way.terms.append(emitter.node("MatMul", [rows, column]))
    entries, top = prod(turned.shape), line.fact.top + source.top
    way.lost(64 * arithmetic.TINY * (count + entries) * (turned.products + 4) * (1 + top) * (1 + most))
    way.most = most * turned.column_sum * (1 + 2.0**-3)
    need(way.most < LARGEST, "its rows may be too large for a guard in float32")
    way.rows = turned.of(emitter, rows, way.count)


def at_ends(way: Pass, source: Ends, count: int) -> None:
    """End at a value whose own ends are known."""
    emitter, unit = way.emitter, 2.0**source.power
    _need_room(way, count, source.top, unit)
    middle = _flat(emitter, layers.doubled_middle(emitter, source), count)
    size = emitter.node("Mul", [layers.size_of(emitter, source), emitter.number(4 * _gamma(count))])
    width = emitter.node("Add", [emitter.node("Sub", [source.upper, source.lower]), size])
    width = emitter.node("Add", [width, emitter.number(64 * arithmetic.TINY * (1 + unit))])
    width = emitter.node("Mul", [width, emitter.number(layers.OUTWARD)])
    product = emitter.node("MatMul", [way.rows, _column(emitter, middle)])
    way.terms.append(emitter.node("Mul", [product, emitter.exactly(2.0 ** -(source.power + 1))]))
    flat = _column(emitter, _flat(emitter, width, count))
    way.less(emitter.node("Abs", [way.rows]), flat, count, source.power + 1)
    way.lost(64 * arithmetic.TINY * (count + 4) * (1 + source.top) * (1 + way.most))


def summed(way: Pass) -> str:
    """Write the sum of all terms, less what its own roundings may add; [batch, count]."""
    emitter = way.emitter
    total, size = way.terms[0], emitter.node("Abs", [way.terms[0]])
    for term in way.terms[1:]:
        total = emitter.node("Add", [total, term])
        size = emitter.node("Add", [size, emitter.node("Abs", [term])])
    share = emitter.number(2 * _gamma(len(way.terms)))
    found = emitter.node("Sub", [total, emitter.node("Mul", [size, share])])
    return emitter.node("Squeeze", [found, emitter.constant(np.array([2], dtype=np.int64))])


def _need_room(way: Pass, count: int, top: float, unit: float) -> None:
    most = way.most * (count + layers.FEW) * (1 + top) * (1 + unit) * 64
    need(most < LARGEST, "its rows may be too large for a guard in float32")


def _bias(bias: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Return a bias with all axes of the output, [1, *]."""
    return None if bias is None else bias.reshape((1,) * (len(shape) + 1 - bias.ndim) + bias.shape)


def _gamma(terms: int) -> float:
    return arithmetic.gamma(terms + layers.FEW)


def _column(emitter: Emitter, name: str) -> str:
    return emitter.widened(name, 2)


def _flat(emitter: Emitter, name: str, count: int) -> str:
    return emitter.node("Reshape", [name, emitter.constant(np.array([-1, count], dtype=np.int64))])
