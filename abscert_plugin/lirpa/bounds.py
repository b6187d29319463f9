"""Lower bounds of an interval network's margins over boxes of interval images, by auto_LiRPA."""

import copy
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, final

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from abscert_plugin.bounds.bounder import (
    BoundMethod,
    HiddenBounds,
    LinearMargins,
    OptimisedMargins,
    as_memory_error,
)
from abscert_plugin.bounds.forward import crown_lbp_margins
from abscert_plugin.errors import ConfigError, UnsupportedModelError, VerifierError
from abscert_plugin.lirpa.tracing import (
    LIRPA_FAILURES,
    bounded_module,
    boxes_between,
    full_precision,
    margin_rows,
    quiet,
)
from abscert_plugin.wording import one_line

_NAMES: Final[Mapping[BoundMethod, str]] = MappingProxyType(
    {
        BoundMethod.IBP: "IBP",
        BoundMethod.CROWN_IBP: "CROWN-IBP",
        BoundMethod.CROWN: "CROWN",
        BoundMethod.OPTIMISED: "CROWN-Optimized",
    }
)


@final
class LirpaBounder:
    """Bounds of a network's margins over boxes of its inputs, by auto_LiRPA.

    One traced graph serves all batch sizes. The network is copied; later changes to its weights are not seen.
    Not for use by several threads at once.

    Args:
        network: takes interval images (training scale); bounded in evaluation mode.
        input_shape: of what it takes, without the batch: (2C, height, width) of an interval image.
        classes: number of logits, at least 2.
        device: where the bounds are computed; float32 products are not shortened to TF32 there.

    Raises:
        UnsupportedModelError: if auto_LiRPA cannot bound the network, or would bound another function.
        ConfigError: if auto_LiRPA is not installed.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], classes: int, device: torch.device) -> None:
        if classes < 2:
            raise UnsupportedModelError(f"expected a network of at least 2 classes, got {classes}")
        self._network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
        self._input_shape = input_shape
        self._device = device
        self._margin_rows = margin_rows(classes).to(device)
        self._bounded: Any = self._trace()
        self._slopes: tuple[Tensor, ...] = ()  # of the last call that optimised any

    def margins(
        self,
        lower: Float32[Tensor, "batch *input"],
        upper: Float32[Tensor, "batch *input"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> Float32[Tensor, "batch others"]:
        """Return bounds as `Bounder.margins` does, of interval images or of images.

        The sums here are in float32 and not rounded outward; what is not a number becomes -inf.

        Raises:
            BoundMemoryError, VerifierError: as there; also if auto_LiRPA fails, or `CROWN_LBP` does not know a layer.
        """
        if method is BoundMethod.CROWN_LBP:
            return self._crown_lbp(lower, upper, labels)
        return self._compute(lower, upper, labels, method, False)[0]

    def linear_margins(
        self,
        lower: Float32[Tensor, "batch *input"],
        upper: Float32[Tensor, "batch *input"],
        labels: Int64[Tensor, "batch"],
        method: BoundMethod,
    ) -> LinearMargins:
        """Return bounds as `Bounder.linear_margins` does; `IBP` and `CROWN_LBP` give no slopes."""
        if method in (BoundMethod.IBP, BoundMethod.CROWN_LBP):
            raise VerifierError(f"expected a method with linear bounds, got {method}; choose {BoundMethod.CROWN_IBP}")
        bounds, slopes = self._compute(lower, upper, labels, method, True)
        return LinearMargins(bounds, self._input_slopes(bounds, slopes, method))

    def optimised_margins(
        self,
        lower: Float32[Tensor, "batch channels height width"],
        upper: Float32[Tensor, "batch channels height width"],
        labels: Int64[Tensor, "batch"],
    ) -> OptimisedMargins:
        """Return bounds and slopes as `Bounder.optimised_margins` does."""
        self._slopes = ()
        bounds = self.margins(lower, upper, labels, BoundMethod.OPTIMISED)
        return OptimisedMargins(bounds, self._slopes)

    def _crown_lbp(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        lower, upper, labels = lower.to(self._device), upper.to(self._device), labels.to(self._device)
        self._check(lower, upper, labels)
        classes, network = len(self._margin_rows), self._network
        if not isinstance(network, nn.Sequential):
            raise VerifierError("expected a network of layers in a row for crown-lbp, got one that branches")
        try:
            with full_precision(self._device):
                bounds = crown_lbp_margins(network, lower, upper, labels)
        except ConfigError as error:
            raise VerifierError(str(error)) from error
        except LIRPA_FAILURES as error:
            failure = _as_verifier_error(error, BoundMethod.CROWN_LBP, len(lower))
        else:
            is_other = torch.arange(classes, device=self._device) != labels[:, None]
            return bounds[is_other].reshape(len(lower), classes - 1)
        raise failure

    def _input_slopes(self, bounds: Tensor, found: Any, method: BoundMethod) -> Tensor:
        if not bounds.numel():
            return bounds.new_zeros((*bounds.shape, *self._input_shape))
        if not isinstance(found, Tensor) or found.shape != (*bounds.shape, *self._input_shape):
            raise VerifierError(f"auto_LiRPA gave no slopes at the input by {method} for this network; use margins")
        return torch.nan_to_num(found.detach())

    def _compute(
        self,
        lower: Tensor,
        upper: Tensor,
        labels: Tensor,
        method: BoundMethod,
        with_slopes: bool,
    ) -> tuple[Tensor, Any]:
        lower, upper, labels = lower.to(self._device), upper.to(self._device), labels.to(self._device)
        if not lower.numel():
            return lower.new_zeros((0, self._margin_rows.shape[1])), None
        self._check(lower, upper, labels)
        try:
            if self._bounded is None:
                self._bounded = self._trace()
            with full_precision(self._device), quiet():
                bounds, slopes = self._call(lower, upper, self._margin_rows[labels], method, with_slopes)
        except LIRPA_FAILURES as error:
            failure = _as_verifier_error(error, method, len(lower))
        else:
            return bounds.detach().nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf), slopes
        # Here, not above: the error that was caught holds on to the tensors of the batch.
        self._bounded = None
        raise failure

    def _call(
        self,
        lower: Tensor,
        upper: Tensor,
        rows: Tensor,
        method: BoundMethod,
        with_slopes: bool,
    ) -> tuple[Tensor, Any]:
        if method != BoundMethod.OPTIMISED:
            return self._run(lower, upper, rows, method, with_slopes)
        bounds, slopes = self._run(lower, upper, rows, BoundMethod.CROWN, with_slopes)
        if bool((bounds > 0).all()) or not self._bounded.optimizable_activations:
            return bounds, slopes
        # Without these auto_LiRPA computes the bounds of all hidden layers again at each step.
        hidden = _hidden_bounds(self._bounded)
        optimised, slopes = self._run(lower, upper, rows, method, with_slopes, hidden)
        self._slopes = _lower_slopes(self._bounded, optimised)
        return torch.maximum(bounds, optimised.detach()), slopes

    def _run(
        self,
        lower: Tensor,
        upper: Tensor,
        rows: Tensor,
        method: BoundMethod,
        with_slopes: bool,
        hidden: HiddenBounds | None = None,
    ) -> tuple[Tensor, Any]:
        bounded, boxes = self._bounded, boxes_between(lower, upper)
        source = bounded.input_name[bounded.input_index.index(0)]  # the other inputs are weights
        target = bounded.final_name
        options: dict[str, Any] = {"return_A": True, "needed_A_dict": {target: {source}}} if with_slopes else {}
        if hidden is not None:
            options[self._hidden_option] = dict(hidden)
        with torch.set_grad_enabled(method == BoundMethod.OPTIMISED):
            result = bounded.compute_bounds(x=(boxes,), C=rows, method=_NAMES[method], bound_upper=False, **options)
        return result[0], result[2][target][source]["lA"] if with_slopes else None

    def _check(self, lower: Tensor, upper: Tensor, labels: Tensor) -> None:
        expected = (len(labels), *self._input_shape)
        if lower.shape != expected or upper.shape != expected:
            raise VerifierError(f"expected boxes of shape {expected}, got {(*lower.shape,)} and {(*upper.shape,)}")
        narrowest, widest = torch.aminmax(upper - lower)  # both NaN where an end is, or both ends are infinite
        if not (float(narrowest) >= 0 and float(widest) < torch.inf):
            raise VerifierError("expected boxes with finite ends, lower <= upper; got one that is not")
        if not bool(((labels >= 0) & (labels < len(self._margin_rows))).all()):
            raise VerifierError(f"expected labels from 0 to {len(self._margin_rows) - 1}, got {labels.tolist()}")

    @property
    def _hidden_option(self) -> str:
        """What `compute_bounds` calls given bounds of hidden layers: 0.3 and 0.7 differ."""
        known = inspect.signature(self._bounded.compute_bounds).parameters
        return "interm_bounds" if "interm_bounds" in known else "intermediate_layer_bounds"

    def _trace(self) -> Any:
        example = torch.zeros((2, *self._input_shape), device=self._device)
        return bounded_module(copy.deepcopy(self._network), example, len(self._margin_rows))


def _lower_slopes(bounded: Any, bounds: Tensor) -> tuple[Tensor, ...]:
    """Return the optimised slopes of the ReLUs' lower lines in the pass from the margins, in order.

    None where another activation or version of auto_LiRPA keeps them in another way.
    """
    found = []
    for relu in bounded.relus:
        slopes = (relu.alpha or {}).get(bounded.final_name)
        if not isinstance(slopes, Tensor) or slopes.shape[1:3] not in (bounds.T.shape, (1, len(bounds))):
            return ()
        of_lower = slopes[0].detach().transpose(0, 1)  # margins come first there
        found.append(of_lower.expand(*bounds.shape, *of_lower.shape[2:]))
    return tuple(found)


def _hidden_bounds(bounded: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the bounds of hidden layers that the last call has left in a bounded module."""
    read = [
        node.inputs[place]
        for node in bounded._modules.values()
        for place in getattr(node, "requires_input_bounds", [])
        if node.perturbed
    ]
    known = [node for node in read if node.perturbed and node.inputs and getattr(node, "lower", None) is not None]
    return {node.name: (node.lower.detach(), node.upper.detach()) for node in known}


def _as_verifier_error(error: Exception, method: BoundMethod, batch: int) -> VerifierError:
    failure = as_memory_error(error, method, batch)
    return failure or VerifierError(f"auto_LiRPA failed to bound by {method}: {one_line(error)}")
