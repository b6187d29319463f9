"""What a guard answers: the label, and a lower bound of its margin over the ball.

Where the logits are W y + b of a held value y, margins are bounded by the rows D = W_i - W_j, which leave less room
than two logits apart. With the names of `layers`, D+ = max(D, 0), D- = max(-D, 0) and S = |W_i| + |W_j|, whatever the
file computes for the label i and any other j satisfies

    z_i - z_j >= D+ l - D- u - h S X + (b_i - b_j - h (|b_i| + |b_j|) - 2 T),    h = gamma(n) + 5/2 gamma(p + 16),

as the guard computes the right side, in any order of its sums. *Proof.* D y >= D+ l - D- u, and each logit is off by
gamma(n) (|W| X + |b|) + T0 at most. Of each entry one of D+ and D- is 0, which adds nothing to round: no more than 2 p
products and a number are summed, of absolute values no more than (1 + h) (S X + |b_i| + |b_j|), so the guard is off by
(1 + h) gamma(2 p + 3) of that; and constants were rounded by u. With gamma(p + 16) < 1/16, 5/2 gamma(p + 16) is above
17/16 gamma(2 p + 5) + 2 u. T holds what underflows. QED. Where l >= 0, X is u, and its factor is part of that of u.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.guards import backward, layers
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.linear import Array, Weighted
from abscert_plugin.guards.values import Line
from abscert_plugin.guards.walk import GuardWalk

MOST_PAIRS: Final = 2**21
"""Entries of the table of rows W_i - W_j: with more, margins are bounded by two logits apart."""

_NO_BACKWARD: Final = (
    "this file has no guard by crown-ibp: it does not end in a convolution or dense layer that a guard can go back "
    "through, a ReLU and a dense layer; ibp guards it"
)
_TOO_MANY: Final = (
    "this file has no guard by crown-ibp: its last node has too many classes and inputs for rows of differences; ibp "
    "guards it"
)
_ROUNDED: Final = 2.0**-21  # of a difference, and of what is taken off it
_OF_BOTH: Final = 3 / 8  # of 4 gamma(p + 16): a sum of twice p products is rounded by no more than 5/2 gamma(p + 16)
_NO_CLASS: Final = 2.0**90  # the margin of a label to itself, which is none
_FLUSHED: Final = 64 * arithmetic.TINY  # by both logits, and by what the guard takes off


@final
@dataclass(frozen=True, slots=True)
class AnswerNames:
    """Names of tensors.

    Args:
        label: [batch] of int64.
        margin: [balls * batch] of float32, one ball after another.
    """

    label: str
    margin: str


def answer(
    walk: GuardWalk, logits: str, output: str, classes: int, balls: int, is_backward: bool = False
) -> AnswerNames:
    """Write the label and the least margin over each ball.

    Args:
        walk: the guard, all of whose nodes are written.
        logits: name of the file's answer, whose largest entry is the label.
        output: name of the logits that bounds are about.
        classes: how many there are.
        balls: how many are bounded, one after another along the batch.
        is_backward: whether margins are bounded by `backward` too.

    Raises:
        UnsupportedModelError: if they cannot be.
    """
    emitter, value = walk.emitter, walk.values[output]
    label = emitter.node("ArgMax", [logits], axis=1, keepdims=0)
    labels = label if balls == 1 else emitter.node("Concat", [label] * balls, axis=0)
    column = emitter.widened(labels, 1)
    if isinstance(value, Line) and _has_pairs(value, classes):
        rows = Rows(emitter, value, column, classes)
        margins = _larger(rows) if is_backward else rows.margins()
        return AnswerNames(label, emitter.reduced("ReduceMin", margins, [1]))
    if is_backward:
        is_large = isinstance(value, Line) and _is_dense(value)
        raise UnsupportedModelError(_TOO_MANY if is_large else _NO_BACKWARD)
    ends = walk.ends(output)
    lowest = emitter.node("GatherElements", [ends.lower, column], axis=1)
    margins = emitter.node("Sub", [lowest, ends.upper])
    is_label = emitter.node("Equal", [column, emitter.constant(np.arange(classes, dtype=np.int64).reshape(1, -1))])
    kept = emitter.node("Where", [is_label, emitter.exactly(_NO_CLASS), margins])
    least = emitter.reduced("ReduceMin", kept, [1])
    # one rounding, of the difference, and held logits that are flushed: what is told has to be a bound as well
    slack = emitter.node("Mul", [emitter.node("Abs", [least]), emitter.number(_ROUNDED)])
    slack = emitter.node("Add", [slack, emitter.number(_FLUSHED * 2.0**ends.power)])
    told = emitter.node("Mul", [emitter.node("Sub", [least, slack]), emitter.exactly(2.0**-ends.power)])
    return AnswerNames(label, told)


def _has_pairs(line: Line, classes: int) -> bool:
    return _is_dense(line) and classes * classes * line.linear.products <= MOST_PAIRS


def _is_dense(line: Line) -> bool:
    linear = line.linear
    is_dense = isinstance(linear, Weighted) and linear.operator in ("Gemm", "MatMul") and linear.rank == 2
    return is_dense and not line.moves


@final
class Rows:
    """Margins of a label to all classes, [batch, classes]; that to itself is far above all others.

    Args:
        emitter: takes up the nodes.
        line: the last node, dense.
        label: [batch, 1].
        classes: how many there are.
    """

    def __init__(self, emitter: Emitter, line: Line, label: str, classes: int) -> None:
        linear, source = line.linear, line.source
        assert isinstance(linear, Weighted)
        share, grown = layers.shares(linear, line.fact)
        # gamma(n) + gamma(p + 16), and what is left of k
        self._share = share + (grown - 1) * _OF_BOTH
        layers.need_room(linear, 4 * source.top, line.bias_size, 2.0 ** (source.power + 1))
        self.emitter, self.line, self.label, self.classes = emitter, line, label, classes
        self._linear = linear
        self._grown = grown

    def errors(self) -> str:
        """Write what both logits of a margin may be off by, [batch, classes]."""
        emitter, line, grown = self.emitter, self.line, self._grown * layers.OUTWARD
        bias = np.array(self._room) if line.bias_size is None else line.bias_size * self._share + self._room
        size, unit = layers.size_of(emitter, line.source), 2.0**line.source.power
        error = self._linear.absolute(emitter, size, self._share * grown / unit, np.asarray(bias * grown))
        return emitter.node("Add", [error, emitter.node("GatherElements", [error, self.label], axis=1)])

    def margins(self) -> str:
        """Write lower bounds by the rows W_i - W_j."""
        emitter, line, classes = self.emitter, self.line, self.classes
        source, pairs = line.source, (classes * classes, -1)
        differences, sizes = self._differences(self._rows), self._sums(np.abs(self._rows))
        bias, bias_size = (
            np.broadcast_to(0.0 if part is None else part.reshape(-1), (classes,))[:, None]
            for part in (line.bias, line.bias_size)
        )
        constants = self._differences(bias) - self._share * self._sums(bias_size) - 2 * self._room
        if source.is_even:
            constants = constants - self._share * source.top * sizes.sum(axis=2, keepdims=True)
        of_lower, of_upper, of_size = np.maximum(differences, 0), np.minimum(differences, 0), -self._share * sizes
        own = np.arange(classes)
        constants[own, own], of_lower[own, own], of_upper[own, own], of_size[own, own] = _NO_CLASS, 0, 0, 0
        if source.is_positive:
            of_upper = of_upper + of_size
        unit = 2.0**-source.power
        found = emitter.outward(constants.reshape(1, -1), -np.inf)
        terms = [(source.lower, of_lower), (source.upper, of_upper)]
        if not (source.is_even or source.is_positive):
            terms.append((layers.size_of(emitter, source), of_size))
        for name, weights in terms:
            stored = emitter.outward(weights.reshape(pairs) * unit, -np.inf)
            found = emitter.node("Gemm", [name, stored, found], transB=1)
        found = emitter.node("Reshape", [found, emitter.constant(np.array([-1, classes, classes], dtype=np.int64))])
        return emitter.node("GatherND", [found, self.label], batch_dims=1)

    @property
    def _rows(self) -> Array:
        return self._linear.weights if self._linear.outputs == 0 else self._linear.weights.T

    @property
    def _room(self) -> float:
        return 4 * self.line.fact.underflow + 4 * layers.lost(
            self._linear, self.line.source.top, 2.0**self.line.source.power
        )

    @staticmethod
    def _differences(rows: Array) -> Array:
        return rows[:, None] - rows[None]

    @staticmethod
    def _sums(rows: Array) -> Array:
        return rows[:, None] + rows[None]


def _larger(rows: Rows) -> str:
    """Write margins by rows and those of a backward pass, whichever are larger.

    Raises:
        UnsupportedModelError: if there is no such pass.
    """
    emitter = rows.emitter
    found = backward.margins(emitter, rows.line, rows.label, rows.errors(), rows.classes)
    if found is None:
        raise UnsupportedModelError(_NO_BACKWARD)
    return emitter.node("Max", [rows.margins(), found])
