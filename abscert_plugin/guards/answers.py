"""What a guard answers: the label, and a lower bound of its margin over the ball.

Where the logits are W y + b of a held value y, margins are bounded by the rows W_i - W_j, which leave less room than
two logits apart: for the label i and any other j, whatever the file computes satisfies

    z_i - z_j >= (A_i - A_j) - (K |W_i - W_j| (u - l) / 2 + E_i + E_j),   E = k / 2 (|W| X + |b|) + T,

with the names of `layers`, whose proof holds line by line: (W_i - W_j) y is within |W_i - W_j| (u - l) / 2 of its value
at the middle, and each logit is off by E at most, the guard's own rounding of A included.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from abscert_plugin.bounds.proof import arithmetic
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.guards import backward, layers
from abscert_plugin.guards.emitter import Emitter
from abscert_plugin.guards.linear import Weighted
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
_FLUSHED: Final = 64 * arithmetic.TINY  # by both logits, and by what the guard takes off


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """Names of tensors.

    Args:
        label: [batch] of int64.
        margin: [balls * batch] of float32, one ball after another.
    """

    label: str
    margin: str


def answer(walk: GuardWalk, logits: str, output: str, classes: int, balls: int, is_backward: bool = False) -> Answer:
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
    others = emitter.constant(np.arange(classes, dtype=np.int64).reshape(1, -1))
    is_label = emitter.node("Equal", [column, others])
    if isinstance(value, Line) and _has_pairs(value, classes):
        rows, power = Rows(emitter, value, column, classes), value.source.power + 1
        margins = _larger(rows, power) if is_backward else rows.margins()
    elif is_backward:
        is_large = isinstance(value, Line) and _is_dense(value)
        raise UnsupportedModelError(_TOO_MANY if is_large else _NO_BACKWARD)
    else:
        ends = walk.ends(output)
        lowest = emitter.node("GatherElements", [ends.lower, column], axis=1)
        margins, power = emitter.node("Sub", [lowest, ends.upper]), ends.power
    kept = emitter.node("Where", [is_label, emitter.exactly(2.0**90), margins])
    least = emitter.reduced("ReduceMin", kept, [1])
    # one rounding, of the difference, and held logits that are flushed: what is told has to be a bound as well
    slack = emitter.node("Mul", [emitter.node("Abs", [least]), emitter.number(_ROUNDED)])
    slack = emitter.node("Add", [slack, emitter.number(_FLUSHED * 2.0**power)])
    told = emitter.node("Mul", [emitter.node("Sub", [least, slack]), emitter.exactly(2.0**-power)])
    return Answer(label, told)


def _has_pairs(line: Line, classes: int) -> bool:
    return _is_dense(line) and classes * classes * line.linear.products <= MOST_PAIRS


def _is_dense(line: Line) -> bool:
    linear = line.linear
    is_dense = isinstance(linear, Weighted) and linear.operator in ("Gemm", "MatMul") and linear.rank == 2
    return is_dense and not line.moves


@final
class Rows:
    """Margins of a label to all classes, [batch, classes]; those to itself mean nothing.

    Args:
        emitter: takes up the nodes.
        line: the last node, dense.
        label: [batch, 1].
        classes: how many there are.
    """

    def __init__(self, emitter: Emitter, line: Line, label: str, classes: int) -> None:
        linear, source = line.linear, line.source
        assert isinstance(linear, Weighted)
        self._share, self._grown = layers.shares(linear, line.fact)
        self.unit = 2.0 ** (source.power + 1)
        layers.need_room(linear, 4 * source.top, line.bias_size, self.unit)
        self.emitter, self.line, self.label, self.classes = emitter, line, label, classes
        self._linear = linear
        self.errors = self._errors()

    def _errors(self) -> str:
        """Write what both logits of a margin may be off by, times the unit."""
        emitter, line, grown = self.emitter, self.line, self._grown * layers.OUTWARD
        room = 4 * line.fact.underflow * self.unit + 4 * layers.lost(self._linear, line.source.top, self.unit)
        bias = np.array(room) if line.bias_size is None else line.bias_size * self._share * self.unit + room
        size = layers.size_of(emitter, line.source)
        error = self._linear.absolute(emitter, size, 2 * self._share * grown, np.asarray(bias * grown))
        return emitter.node("Add", [error, emitter.node("GatherElements", [error, self.label], axis=1)])

    def margins(self) -> str:
        """Write lower bounds, times the unit, by the rows W_i - W_j."""
        emitter, line, linear, label, classes = self.emitter, self.line, self._linear, self.label, self.classes
        rows = linear.weights if linear.outputs == 0 else linear.weights.T  # [classes, inputs]
        bias = None if line.bias is None else np.asarray(line.bias * self.unit)
        middle = linear.middle(emitter, layers.doubled_middle(emitter, line.source), bias)
        pairs = np.abs(rows[:, None] - rows[None]).reshape(classes * classes, -1) * self._grown * layers.OUTWARD
        width = emitter.node("Sub", [line.source.upper, line.source.lower])
        # a subnormal width may be flushed, and values of the file beside it
        spread = emitter.node("Gemm", [width, emitter.above(pairs)], transB=1)
        spread = emitter.node("Reshape", [spread, emitter.constant(np.array([-1, classes, classes], dtype=np.int64))])
        spread = emitter.node("GatherND", [spread, label], batch_dims=1)
        gap = emitter.node("Sub", [emitter.node("GatherElements", [middle, label], axis=1), middle])
        return emitter.node("Sub", [gap, emitter.node("Add", [spread, self.errors])])


def _larger(rows: Rows, power: int) -> str:
    """Write margins by rows and those of a backward pass, whichever are larger.

    Raises:
        UnsupportedModelError: if there is no such pass.
    """
    emitter = rows.emitter
    errors = emitter.node("Mul", [rows.errors, emitter.exactly(2.0**-power)])
    found = backward.margins(emitter, rows.line, rows.label, errors, rows.classes)
    if found is None:
        raise UnsupportedModelError(_NO_BACKWARD)
    return emitter.node("Max", [rows.margins(), emitter.node("Mul", [found, emitter.exactly(2.0**power)])])
