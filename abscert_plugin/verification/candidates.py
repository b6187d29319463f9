"""The worst points that attacks have found."""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.front import Points


@final
@dataclass(frozen=True)
class Candidates:
    """The worst point found in each ball.

    Args:
        points: the points.
        margins: the label's margin there, as the attack computed it.
    """

    points: Points
    margins: Float32[np.ndarray, "batch"]

    def improved(self, other: "Candidates") -> "Candidates":
        """Return, for each ball, the worse of two."""
        better = other.margins < self.margins
        points = np.where(better[:, None, None, None], other.points, self.points)
        return Candidates(points, np.where(better, other.margins, self.margins))
