"""Networks as auto_LiRPA's bounded modules: traced once, checked against the network."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from abscert_plugin.bounds.margin import other_classes
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.param_ramp import bounded_with_ramps
from abscert_plugin.wording import one_line

# What a library that meets a graph it was not written for may raise.
LIRPA_FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SAME_FORWARD: Final = 1e-4


def bounded_module(network: nn.Module, example: Float32[Tensor, "batch *feature"], classes: int) -> Any:
    """Return auto_LiRPA's bounded module of a network, with the settings that were found fast and sound.

    Args:
        network: in evaluation mode, on the device of `example`; auto_LiRPA may move it, so pass a copy.
        example: inputs to trace it with; its batch size binds nothing.
        classes: number of logits.

    Raises:
        UnsupportedModelError: if auto_LiRPA cannot read the network, or what it read gives other logits.
    """
    options = {
        "conv_mode": "patches",
        # Version 0.3 fails now and then where slopes of stable neurons are left out.
        "sparse_features_alpha": False,
        "sparse_spec_alpha": False,
        "optimize_bound_args": {"stop_criterion_func": _all_positive},
    }
    lirpa = load_lirpa()
    try:
        # a trace under autocast meets its casts of weights, which it takes for constants
        with torch.autocast(example.device.type, enabled=False), full_precision(example.device), quiet():
            bounded = bounded_with_ramps(
                network, lambda: lirpa.BoundedModule(network, example, bound_opts=options, device=example.device)
            )
            for batch in (3, 1):
                generator = torch.Generator().manual_seed(batch)
                points = (2 * torch.rand((batch, *example.shape[1:]), generator=generator) - 1).to(example.device)
                check_bounded_forward(bounded, network, points)
            shape = (*network(points).shape,)
    except LIRPA_FAILURES as error:
        raise UnsupportedModelError(f"auto_LiRPA cannot bound this network: {one_line(error)}") from error
    if shape != (1, classes):
        raise UnsupportedModelError(f"expected logits of shape [batch, {classes}], got {[*shape]} for one input")
    return bounded


def refuse_statistics(network: nn.Module) -> None:
    """Raise where a network has BatchNorm layers in training: a traced graph keeps the statistics it was traced with.

    Raises:
        UnsupportedModelError: if it has.
    """
    if any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.training for layer in network.modules()):
        raise UnsupportedModelError(
            "linear bounds of a network in training are not written for BatchNorm; use ibp, sabr or mtl-ibp, or "
            "another --network"
        )


def check_bounded_forward(bounded: nn.Module, network: nn.Module, points: Float32[Tensor, "batch *feature"]) -> None:
    """Raise unless a bounded module computes what its network computes, on these points.

    auto_LiRPA rewrites the graph it traced, and has been seen to merge nodes that differ; bounds of the wrong
    function pass every test by sampling it. Choose a batch size other than that of the trace: one that was traced as a
    constant shows here.

    Raises:
        UnsupportedModelError: if logits have other shapes, or differ by more than 1e-4 of the largest.
    """
    with torch.no_grad():
        expected, got = network(points), bounded(points)
    if got.shape != expected.shape:
        raise UnsupportedModelError(
            f"expected logits of shape {(*expected.shape,)} from auto_LiRPA, got {(*got.shape,)}"
        )
    difference = float((expected - got).abs().max())
    if not difference <= _SAME_FORWARD * max(1.0, float(expected.abs().max())):
        raise UnsupportedModelError(
            f"auto_LiRPA computes other logits than the network: they differ by {difference:.3g}"
        )


def margin_rows(classes: int) -> Float32[Tensor, "classes others classes"]:
    """Return, for each label, the rows that turn logits into logit[label] - logit[j], for all other j, ascending."""
    eye = torch.eye(classes)
    return eye[:, None] - eye[other_classes(torch.arange(classes), classes)]


def boxes_between(lower: Float[Tensor, "batch *feature"], upper: Float[Tensor, "batch *feature"]) -> Any:
    """Return boxes of inputs as a bounded module takes them."""
    lirpa = load_lirpa()
    norm = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
    return lirpa.BoundedTensor((lower + upper) / 2, norm)


def beside_labels(
    others: Float[Tensor, "batch others"], labels: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch classes"]:
    """Return bounds for all classes, 0 at the label, from those for the others, ascending."""
    classes = others.shape[1] + 1
    return others.new_zeros(len(others), classes).scatter(1, other_classes(labels, classes), others)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what auto_LiRPA prints off stdout, and its and the tracer's warnings from the user."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Let a CUDA device use all bits of float32: TF32, its default for convolutions, has errors of 1e-3."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _all_positive(bounds: Float32[Tensor, "batch others"]) -> Bool[Tensor, "batch 1"]:
    """Return which boxes need no further optimisation."""
    return (bounds > 0).all(dim=1, keepdim=True)
