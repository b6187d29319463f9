"""What baselines that share `RobustObjective` have in common: all but the options that they fix."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from abscert_plugin.grid import Grid
from abscert_plugin.training.objective import Objective
from abscert_plugin.training.robust import RobustConfig, RobustObjective
from baselines.pixels import PixelBalls


class RobustBaseline:
    """A method whose loss over plain balls is `RobustObjective`'s; a subclass says with which options."""

    name: ClassVar[str]
    claim: ClassVar[str] = RobustObjective.claim
    takes_intervals: ClassVar[bool] = False

    @abstractmethod
    def config(self) -> RobustConfig:
        """Return the options of the objective."""

    def prepare(self, network: nn.Module) -> None:
        """Draw the first weights that the options ask for."""
        self.config().prepare(network)

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:  # noqa: ARG002
        """Return the objective for plain images of these levels."""
        return RobustObjective(self.name, PixelBalls(levels), self.config())

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        return self.config().describe()
