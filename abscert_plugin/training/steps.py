"""Adam and SGD by the kernels of torch's own optimisers.

`torch.optim` imports torch's compiler when its first optimiser is made: two seconds at the start of every training, for
what no training here uses. Steps and state are those of `torch.optim.Adam` and `SGD` with `fused=True`, to the bit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Final, Protocol, final

import torch
from torch import Tensor, nn

from abscert_plugin.training.config import Optimiser

_BETAS: Final = (0.9, 0.999)
_EPSILON: Final = 1e-8
_MOMENTUM: Final = 0.9
State = dict[str, Tensor]


class _Rule(Protocol):
    names: ClassVar[tuple[str, ...]]

    def first(self, weight: Tensor) -> State: ...

    def move(
        self, weights: list[Tensor], gradients: list[Tensor], states: Sequence[State], rate: float, decay: float
    ) -> None: ...


@final
class _Adam:
    """Adam (Kingma and Ba 2015)."""

    names: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")

    def first(self, weight: Tensor) -> State:
        step = torch.zeros((), dtype=torch.float32, device=weight.device)
        zeros = (torch.zeros_like(weight) for _ in range(2))
        return dict(zip(self.names, (step, *zeros), strict=True))

    def move(
        self, weights: list[Tensor], gradients: list[Tensor], states: Sequence[State], rate: float, decay: float
    ) -> None:
        counts, means, squares = ([state[name] for state in states] for name in self.names)
        torch._foreach_add_(counts, 1)
        torch._fused_adam_(
            weights,
            gradients,
            means,
            squares,
            [],
            counts,
            lr=rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=decay,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )


@final
class _Sgd:
    """Stochastic gradient descent with momentum; the first gradient is the first velocity."""

    names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    def first(self, weight: Tensor) -> State:
        return {self.names[0]: torch.zeros_like(weight)}

    def move(
        self, weights: list[Tensor], gradients: list[Tensor], states: Sequence[State], rate: float, decay: float
    ) -> None:
        torch._fused_sgd_(
            weights,
            gradients,
            [state[self.names[0]] for state in states],
            weight_decay=decay,
            momentum=_MOMENTUM,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # a velocity of 0 gives the same
        )


_RULES: Final[Mapping[Optimiser, _Rule]] = {Optimiser.ADAM: _Adam(), Optimiser.SGD: _Sgd()}


@final
class Steps:
    """Steps of weights against their gradients, and what is remembered of each weight for the next.

    Args:
        weights: what is moved.
        optimiser: the rule.
        decay: weight decay, added to gradients.
    """

    def __init__(self, weights: Iterable[nn.Parameter], optimiser: Optimiser, decay: float) -> None:
        self._weights = tuple(weights)
        self._rule = _RULES[optimiser]
        self._decay = decay
        self._states: dict[int, State] = {}

    def take(self, rate: float) -> None:
        """Move every weight that has a gradient, with a learning rate."""
        moved = [number for number, weight in enumerate(self._weights) if weight.grad is not None]
        with torch.no_grad():
            for some in self._alike(moved):
                for number in some:
                    if number not in self._states:
                        self._states[number] = self._rule.first(self._weights[number])
                weights: list[Tensor] = [self._weights[number] for number in some]
                gradients = [weight.grad for weight in weights if weight.grad is not None]
                self._rule.move(weights, gradients, [self._states[number] for number in some], rate, self._decay)

    def forget_gradients(self) -> None:
        """Let go of the gradients, which are as large as the weights."""
        for weight in self._weights:
            weight.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return what is remembered, by NUMBER.NAME of weights in their order."""
        return {f"{number}.{name}": one for number, state in self._states.items() for name, one in state.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what `tensors` once returned.

        Raises:
            ValueError: if it is of other weights.
        """
        states: dict[int, State] = {}
        for key, value in tensors.items():
            place, _, name = key.partition(".")
            number = int(place)
            if name not in self._rule.names or number >= len(self._weights):
                raise ValueError(f"expected states of {len(self._weights)} weights, got {key}")
            weight = self._weights[number]
            if value.shape != (() if name == "step" else weight.shape):
                raise ValueError(f"expected {key} of the shape {tuple(weight.shape)}, got {tuple(value.shape)}")
            states.setdefault(number, {})[name] = value.to(weight.device, copy=True)
        if any(len(state) != len(self._rule.names) for state in states.values()):
            raise ValueError(f"expected {', '.join(self._rule.names)} of each weight")
        self._states = states

    def _alike(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Yield numbers of weights that one kernel takes: of one device and one type of numbers."""
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for number in numbers:
            weight = self._weights[number]
            groups.setdefault((weight.device, weight.dtype), []).append(number)
        yield from groups.values()
