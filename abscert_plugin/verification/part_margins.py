"""Margins of a label over parts of a box, in which more is known of what activations read."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.hidden import Hidden
from abscert_plugin.bounds.part import Part
from abscert_plugin.bounds.parts import PartBounds
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.proof import margin_rows

_NEARLY: Final = 1e-3
"""A margin that is bounded by less, in shares of the largest one, is bounded anew in each part."""

Kept: TypeAlias = Callable[[Tensor], Tensor]
"""From margins of logits, [batch, others], to what is left of them behind the file's tail."""


@final
class PartMargins:
    """Margins of a label over parts of one box.

    Those that are bounded well above 0 over the whole box are left as they are; the others are bounded in each part.

    Args:
        proof: of the network.
        lower, upper: the box, in a batch of one.
        label: the class.
        kept: what is left of margins behind the file's tail.
        rows: which of the other classes, by their order without the label, are bounded in each part; those that are not
            well above 0 where None.
        bent: the activations that have shares in parts; those with a choice in the whole box where None.
        loose: names of the tensors that are left to intervals; those that CROWN does not tighten where None.
        seconds: that bounds of hidden values over the whole box may take.

    Attributes:
        rows: the same.
        loose: the same.
        bounds: what bounds the margins of these.
        whole: the bounds of all margins over the whole box.

    Raises:
        BoundTimeError: if the time is up before they are found.
        VerifierError: if the box is not finite.
    """

    def __init__(
        self,
        proof: Proof,
        lower: Tensor,
        upper: Tensor,
        label: int,
        kept: Kept,
        rows: Int64[np.ndarray, "row"] | None = None,
        bent: Int64[np.ndarray, "bent"] | None = None,
        loose: Collection[str] | None = None,
        seconds: float = math.inf,
    ) -> None:
        hidden = Hidden(proof, loose, time.perf_counter() + seconds)
        values = proof.intervals(lower, upper, True, hidden.refine)
        self.loose = hidden.loose
        every = margin_rows(torch.tensor([label]), proof.classes)
        self.whole = proof.lower_bounds(values, every, BoundMethod.CROWN)
        if rows is None:
            most = float(self.whole.abs().max())
            known = self.whole[0].isfinite() & (self.whole[0] > _NEARLY * max(1.0, most))
            rows = (~known).nonzero().flatten().numpy()
        self.rows = rows
        self.bounds = PartBounds(proof, values, every[0, torch.from_numpy(rows)], bent)
        self._kept = kept

    def proven(self, parts: Sequence[Part]) -> Float64[np.ndarray, "part"]:
        """Return the least proven margin over each part, behind the file's tail; -inf where nothing is known."""
        found = self.whole.repeat(len(parts), 1)
        found[:, torch.from_numpy(self.rows)] = torch.from_numpy(self.bounds.proven(parts))
        kept = self._kept(found)
        return torch.where(kept.isfinite(), kept, -torch.inf).amin(dim=1).numpy()
