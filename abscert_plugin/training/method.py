"""What a training method's options are to the code that runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, final, runtime_checkable

import torch
from torch import nn

from abscert_plugin.grid import Grid
from abscert_plugin.training.abstrain import Abstrain
from abscert_plugin.training.objective import Objective
from abscert_plugin.training.reachable import ReachableCells
from abscert_plugin.training.robust import RobustConfig, RobustObjective


@runtime_checkable
class Method(Protocol):
    """A training method with its options: a value that can be stored, compared, and built into an objective."""

    @property
    def claim(self) -> str:
        """The claim that it trains for, `cell` or `ball`."""
        ...

    @property
    def takes_intervals(self) -> bool:
        """Whether its networks take interval images, or the images themselves."""
        ...

    def prepare(self, network: nn.Module) -> None:
        """Change a new network before it is trained, such as its first weights; most methods leave it."""
        ...

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective for images of these levels.

        Args:
            grid: the cells; None exactly where the network takes the images themselves.
            levels: the stored pixel value that stands for 1.0 on the pixel scale.
            device: where the images are.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return the options, for a checkpoint and run.json."""
        ...


@final
@dataclass(frozen=True, slots=True)
class AbstrainMethod:
    """Algorithm 2; it has no options."""

    claim: ClassVar[str] = Abstrain.claim
    takes_intervals: ClassVar[bool] = True

    def prepare(self, network: nn.Module) -> None:
        """Leave the network."""

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective."""
        assert grid is not None
        return Abstrain(grid, levels, device)

    def describe(self) -> Mapping[str, Any]:
        """Return no options."""
        return {}


@final
@dataclass(frozen=True, slots=True)
class ReachableMethod:
    """Sound training on reachable cells.

    Args:
        config: its options.
    """

    config: RobustConfig
    claim: ClassVar[str] = RobustObjective.claim
    takes_intervals: ClassVar[bool] = True

    def prepare(self, network: nn.Module) -> None:
        """Draw the first weights that the options ask for."""
        self.config.prepare(network)

    def build(self, grid: Grid | None, levels: int, device: torch.device) -> Objective:
        """Return the objective."""
        assert grid is not None
        return RobustObjective("reachable", ReachableCells(grid, levels, device), self.config)

    def describe(self) -> Mapping[str, Any]:
        """Return the options."""
        return self.config.describe()


ABSTRAIN: Final = AbstrainMethod()
