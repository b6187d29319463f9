"""How outputs of a network change with its inputs: by its torch module, or by the slopes of its proof at points."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float32
from torch import Tensor

from abscert_plugin.bounds.proof import Proof
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.query.network import Network

Penalty: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Of inputs and outputs, [batch, entries] each: a number for each pair, differentiable."""

Gradients: TypeAlias = Callable[[Float32[Tensor, "batch entries"], Penalty], tuple[Tensor, Tensor]]
"""Penalties of points, [batch], and their gradients, [batch, entries]: about, since they only say where to look."""


def gradients(network: Network) -> Gradients | None:
    """Return what gives penalties and their gradients; None where neither way is open."""
    if network.module is not None:
        module, shape = network.module
        return lambda points, penalty: _by_module(lambda given: module(given.reshape(-1, *shape)), points, penalty)
    try:
        proof = network.proof
    except (UnsupportedModelError, VerifierError):
        return None
    return lambda points, penalty: _by_proof(proof, points, penalty)


def _by_module(run: Callable[[Tensor], Tensor], points: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    given = points.detach().requires_grad_(True)
    found = penalty(given, run(given))
    (gradient,) = torch.autograd.grad(found.sum(), given)
    return found.detach(), gradient


def _by_proof(proof: Proof, points: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    """At a point lines of activations are tangents, so a bound of a row depends on the input as the row itself does."""
    ends = points.detach().double().reshape(-1, *proof.input_shape)
    values = proof.intervals(ends, ends)
    lower, upper = (end.flatten(1) for end in values[proof.output].computed())
    given = points.detach().double().requires_grad_(True)
    outputs = torch.nan_to_num((lower + upper) / 2).requires_grad_(True)
    found = penalty(given, outputs)
    direct, row = torch.autograd.grad(found.sum(), (given, outputs), allow_unused=True, materialize_grads=True)
    _, seen = proof.explained_bounds(values, row.unsqueeze(1))
    through = seen.get(proof.source)
    if through is not None:
        direct = direct + torch.nan_to_num(through.flatten(1))
    return found.detach().float(), direct.float()
