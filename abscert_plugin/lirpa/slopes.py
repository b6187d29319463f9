"""CROWN-IBP bounds whose lower lines of the ReLUs have given slopes, differentiable in the slopes and the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.lirpa.tracing import (
    beside_labels,
    bounded_module,
    boxes_between,
    margin_rows,
    quiet,
    refuse_statistics,
)

Slopes: TypeAlias = tuple[Tensor, ...]
"""For each ReLU in the order of the network, the slope of the lower line through 0: [batch, *its output]."""


@final
class SlopedMargins:
    """Margins of the very network that is trained, by lower lines of chosen slopes.

    auto_LiRPA's graph shares the network's weights. A slope serves all margins of its image. It counts where a ReLU is
    unstable: elsewhere the line is the ReLU itself, and the slope has no gradient. A call leaves nothing behind that
    another one would see.

    Tracing writes to the weights what they hold, so make it before a loss that is to be differentiated is computed.
    Not for use by several threads at once.

    Args:
        network: with at least one ReLU.
        example: inputs to trace it with, of any batch size.
        classes: number of logits.

    Raises:
        ConfigError: if auto_LiRPA is not installed.
        UnsupportedModelError: if auto_LiRPA cannot bound the network, or it has no ReLU or a BatchNorm layer.

    Source: Lee et al. 2021; Xu et al. 2021 (alpha-CROWN), whose optimised slopes auto_LiRPA has, for all margins apart.
    """

    def __init__(self, network: nn.Module, example: Float[Tensor, "batch *feature"], classes: int) -> None:
        refuse_statistics(network)
        self.network = network
        self._rows = margin_rows(classes).to(example.device)
        self._bounded: Any = bounded_module(network, example[:2].detach(), classes)
        if not self._bounded.relus:
            raise UnsupportedModelError("expected a network with a ReLU to choose slopes for, got one without")

    def random_slopes(self, batch: int, generator: torch.Generator | None = None) -> Slopes:
        """Return slopes drawn evenly from [0, 1].

        Args:
            batch: number of images.
            generator: where they are drawn from, on the network's device; torch's own if None.
        """
        shapes = [(batch, *relu.output_shape[1:]) for relu in self._bounded.relus]
        return tuple(torch.rand(shape, generator=generator, device=self._rows.device) for shape in shapes)

    def lower(
        self,
        lower: Float[Tensor, "batch *feature"],
        upper: Float[Tensor, "batch *feature"],
        labels: Int64[Tensor, "batch"],
        slopes: Slopes,
    ) -> Float[Tensor, "batch classes"]:
        """Return lower bounds of the label's logit minus each logit over the boxes; 0 at the label itself.

        They are in float32 also under autocast.

        Soundness: for any slopes from 0 to 1, up to float32 rounding; a slope beyond counts as the nearer of the two.

        Args:
            lower: lower ends of the boxes.
            upper: upper ends.
            labels: the class whose margins are bounded, for each box.
            slopes: one for each neuron of each image, shaped as those of `random_slopes`.
        """
        boxes = boxes_between(lower, upper)
        with quiet(), torch.autocast(lower.device.type, enabled=False), _chosen(self._bounded, slopes):
            others: Tensor = self._bounded.compute_bounds(
                x=(boxes,), C=self._rows[labels], method="CROWN-IBP", bound_upper=False
            )[0]
        return beside_labels(others, labels)


def stepped_to_ends(slopes: Slopes, gradients: Slopes) -> Slopes:
    """Return slopes after one signed step down the gradients, so long that it ends at 0 or 1.

    A slope becomes 1 where its gradient is below 0, 0 where it is above, and stays where it is 0. No gradient flows
    back.

    Source: Lee et al. 2021; clip(a - 2 sign(g), 0, 1) in their code.
    """
    return tuple(
        (slope.detach() - 2 * gradient.sign()).clamp(0, 1) for slope, gradient in zip(slopes, gradients, strict=True)
    )


@contextmanager
def _chosen(bounded: Any, slopes: Slopes) -> Iterator[None]:
    """Let the ReLUs of a bounded module take these slopes in backward passes from the margins.

    In this stage auto_LiRPA reads slopes [2 (lower and upper bounds), margins, batch, *output] by the name of the node
    that a pass starts from; a side that is not asked for is not read, and one margin's serve all.
    """
    start = bounded.final_name
    try:
        for relu, slope in zip(bounded.relus, slopes, strict=True):
            relu.opt_stage, relu.alpha = "opt", {start: slope[None, None]}
            relu.alpha_lookup_idx, relu.alpha_indices = {start: None}, None  # no slope is left out
        yield
    finally:
        for relu in bounded.relus:
            relu.opt_stage, relu.alpha, relu.alpha_lookup_idx = None, {}, {}
