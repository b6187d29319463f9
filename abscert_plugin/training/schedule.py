"""How the radius of a sound training rises."""

from dataclasses import dataclass
from typing import Final, final

from abscert_plugin.errors import ConfigError
from abscert_plugin.training.objective import Moment

_BEND: Final = 0.25  # the share of a smoothed rise that is a fourth power


@final
@dataclass(frozen=True, slots=True)
class Ramp:
    """A rise from 0 to 1 during a part of the training.

    Args:
        start: share of the epochs before it begins, 0 to 1.
        length: share of the epochs that it takes, 0 to 1; 0 is a step.
        smooth: whether it begins as a fourth power and goes on as the tangent, instead of as a line.

    Raises:
        ConfigError: if it is longer than the training, or a share has no meaning.

    Source: Gowal et al. 2018 (linear); the smoothed one is that of CROWN-IBP's and Shi et al.'s code.
    """

    start: float
    length: float
    smooth: bool = False

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("ramp", self.length)):
            if not 0 <= value <= 1:
                raise ConfigError(f"expected {name} from 0 to 1, a share of the epochs, got {value}")
        if self.start + self.length > 1 + 1e-9:
            raise ConfigError(f"expected start and ramp within the training, got {self.start} + {self.length} of it")

    def progress(self, moment: Moment) -> float:
        """Return how far the rise has come at a moment, from 0 to 1."""
        done = moment.step / (moment.steps_per_epoch * moment.epochs)
        if not self.length:
            return float(done >= self.start)
        share = min(1.0, max(0.0, (done - self.start) / self.length))
        if not self.smooth:
            return share
        # the two pieces meet with one value and one slope
        height = _BEND**4 / (_BEND**4 + 4 * _BEND**3 * (1 - _BEND))
        if share < _BEND:
            return height * (share / _BEND) ** 4
        return min(1.0, height + height * 4 / _BEND * (share - _BEND))
