"""CROWN-IBP bounds of a network in training, differentiable in its weights."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from abscert_plugin.bounds.intervals import frozen_statistics
from abscert_plugin.lirpa.tracing import (
    beside_labels,
    bounded_module,
    boxes_between,
    margin_rows,
    quiet,
    refuse_statistics,
)


@runtime_checkable
class Traced(Protocol):
    """What is traced from a network, once."""

    network: nn.Module


Margins = TypeVar("Margins", bound=Traced)


def margins_of(
    network: nn.Module,
    former: Margins | None,
    make: Callable[[nn.Module, Tensor, int], Margins],
    image: Callable[[], Float[Tensor, "1 *feature"]],
) -> Margins:
    """Return the former margins where they are of this very network, or made ones.

    Args:
        network: the network.
        former: those that were made last.
        make: makes them of a network, inputs to trace it with, and the number of its classes.
        image: returns an input.

    Raises:
        AbscertError: what `make` raises.
    """
    if former is not None and former.network is network:
        return former
    example = image()
    with torch.no_grad(), frozen_statistics(network):
        classes = network(example).shape[1]
    return make(network, example.repeat(2, *[1] * (example.ndim - 1)), classes)


@final
class CrownIbpMargins:
    """Margins of the very network that is trained: auto_LiRPA's graph shares its parameters.

    Tracing writes to the weights what they hold, so make it before a loss that is to be differentiated is computed.

    Args:
        network: the network.
        example: inputs to trace it with, of any batch size.
        classes: number of logits.

    Raises:
        ConfigError: if auto_LiRPA is not installed.
        UnsupportedModelError: if auto_LiRPA cannot bound the network, or it has BatchNorm layers.

    Source: Zhang et al. 2020, CROWN-IBP.
    """

    def __init__(self, network: nn.Module, example: Float[Tensor, "batch *feature"], classes: int) -> None:
        refuse_statistics(network)
        self.network = network
        self._rows = margin_rows(classes).to(example.device)
        self._bounded: Any = bounded_module(network, example[:2].detach(), classes)

    def lower(
        self,
        lower: Float[Tensor, "batch *feature"],
        upper: Float[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "batch classes"]:
        """Return lower bounds of the label's logit minus each logit over the boxes; 0 at the label itself."""
        return beside_labels(self._bound(lower, upper, self._rows[labels]), labels)

    def weighted(
        self,
        lower: Float[Tensor, "batch *feature"],
        upper: Float[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        weights: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, "batch"]:
        """Return lower bounds of a weighted sum of the label's logit minus each logit; differentiable in the weights.

        One backward pass of one row for each box, whatever the number of classes.
        """
        rows = -weights
        rows = rows.scatter_add(1, labels[:, None], weights.sum(dim=1, keepdim=True))
        return self._bound(lower, upper, rows[:, None])[:, 0]

    def _bound(self, lower: Tensor, upper: Tensor, rows: Tensor) -> Tensor:
        """Return lower bounds of rows of linear functions of the logits."""
        boxes = boxes_between(lower, upper)
        with quiet():
            found: Tensor = self._bounded.compute_bounds(x=(boxes,), C=rows, method="CROWN-IBP", bound_upper=False)[0]
        return found
