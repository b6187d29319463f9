"""What steers where a network has no float32 bounds: its gradients tell where to cut, and proofs do the rest."""

from typing import NoReturn, final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from abscert_plugin.bounds.bounder import BoundMethod, LinearMargins
from abscert_plugin.bounds.margin import logit_margins
from abscert_plugin.errors import VerifierError


@final
class Gradients:
    """A `Bounder` that knows no bounds.

    Args:
        network: what has none, with gradients.
        reason: why, for messages.
    """

    def __init__(self, network: nn.Module, reason: str) -> None:
        self._network = network
        self._reason = reason

    def margins(self, *_: Tensor | BoundMethod) -> NoReturn:
        """Raise VerifierError: proofs are tried without."""
        raise VerifierError(self._reason)

    def linear_margins(
        self,
        lower: Float32[Tensor, "batch *input"],
        upper: Float32[Tensor, "batch *input"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> LinearMargins:
        """Return -inf, which claims nothing, and as slopes of each the gradient of the least margin amid the box."""
        del method
        middle = (lower / 2 + upper / 2).requires_grad_()
        (slopes,) = torch.autograd.grad(logit_margins(self._network(middle), labels).sum(), middle)
        return LinearMargins(lower.new_full((len(lower), 1), -torch.inf), slopes.nan_to_num().unsqueeze(1))

    def optimised_margins(self, *_: Tensor) -> NoReturn:
        """Raise VerifierError: there are no lines to be optimised."""
        raise VerifierError(self._reason)
