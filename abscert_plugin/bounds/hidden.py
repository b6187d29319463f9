"""Which hidden values are worth a backward pass for each of their entries."""

import math
from collections.abc import Collection, Mapping
from typing import Final, final

from jaxtyping import Bool, Float64
from torch import Tensor

from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.descent import Step
from abscert_plugin.bounds.proof.enclosure import Enclosure

_PROBED: Final = 16  # entries that tell it
_WORTH: Final = 0.02  # of the width of what is enclosed


@final
class Hidden:
    """Tightens enclosures of what nonlinear steps read, as `Proof.intervals` asks for it.

    A tensor is left to intervals where passes gain next to nothing at a few of its widest entries: so it is in networks
    that were trained by intervals.

    Args:
        proof: of the network.
        loose: names of the tensors that are left to intervals; they are found where None.
        until: when to stop, by `time.perf_counter`: it raises BoundTimeError then.

    Attributes:
        loose: those that were.
    """

    def __init__(self, proof: Proof, loose: Collection[str] | None = None, until: float = math.inf) -> None:
        self._tightening, self._given, self._until = proof.tightening, loose, until
        self.loose: list[str] = []

    def refine(self, step: Step, name: str, values: Mapping[str, Enclosure]) -> Enclosure:
        """Return the enclosure of what a step reads, in a batch of one."""
        is_open = self._tightening.open_entries(step, name, values)
        if is_open is None:
            return values[name]
        if name in self._given if self._given is not None else self._gains_nothing(name, values, is_open):
            self.loose.append(name)
            return values[name]
        return self._tightening.tightened(name, values, is_open, self._until)

    def _gains_nothing(self, name: str, values: Mapping[str, Enclosure], is_open: Bool[Tensor, "one entries"]) -> bool:
        width = _width(values[name]).where(is_open, -1.0)
        is_probed = is_open & (width >= width.topk(min(_PROBED, width.shape[1])).values[:, -1:])
        closer = _width(self._tightening.tightened(name, values, is_probed, self._until))
        return bool(closer[is_probed].sum() > (1 - _WORTH) * width[is_probed].sum())


def _width(value: Enclosure) -> Float64[Tensor, "one entries"]:
    lower, upper = value.computed()
    return (upper - lower).flatten(1)
