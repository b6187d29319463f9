"""From ONNX nodes that sum products with constants to steps."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from abscert_plugin.bounds.proof.affine import Affine
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.constants import exactly, reshaped, scaled, weights
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import Bilinear, Convolution, Matrix, Scale
from abscert_plugin.graph.operands import SAME
from abscert_plugin.graph.walk import need
from abscert_plugin.reading.sliding import RANKS, TRANSPOSED, Padding

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def _convolution(view: View) -> None:
    weight = view.constant(1)
    need(weight.lower.shape[2:].numel() > 0, "expected a kernel")
    window = view.window(weight.lower.shape[2:], RANKS)
    source, begins = view.name(), window.begins
    if begins != window.ends:
        source, begins = view.move(source, Padding(begins, window.ends)), [0] * len(begins)
    options = {"stride": window.stride, "padding": begins, "dilation": window.dilation}
    options["groups"] = view.attribute("group", 1)
    view.affine(source, Convolution(weights(weight), options), _bias(view, len(begins), len(weight.lower)))


def _bias(view: View, rank: int, outputs: int) -> Enclosure | None:
    if not view.has(2):
        return None
    bias = reshaped(view.constant(2), (1, -1, *(1 for _ in range(rank))))
    need(bias.lower.shape[1] == outputs, f"expected a bias for each of {outputs}")
    return bias


def _transposed_convolution(view: View) -> None:
    weight, groups = view.constant(1), int(view.attribute("group", 1))
    inputs, _, *kernel = weight.lower.shape
    rank, shape = len(kernel), view.shape()
    need(rank in RANKS and len(shape) == rank + 1, f"expected a window over the axes of images, got {kernel}")
    need(groups >= 1 and shape[0] == inputs and inputs % groups == 0, f"expected {inputs} channels in groups")
    stride, dilation = view.steps("strides", rank), view.steps("dilations", rank)
    more = [int(size) for size in view.attribute("output_padding", [0] * rank)]
    need(len(more) == rank and min(more) >= 0, f"expected {rank} output paddings of at least 0, got {more}")
    spans = [(side - 1) * apart + 1 for side, apart in zip(kernel, dilation, strict=True)]
    full = [(size - 1) * step + span for size, step, span in zip(shape[1:], stride, spans, strict=True)]
    begins, ends = _cut(view, shape[1:], stride, [size + extra for size, extra in zip(full, more, strict=True)])
    cut = Padding([-pad for pad in begins], [extra - pad for extra, pad in zip(more, ends, strict=True)])
    sizes = [size + extra - begin - end for size, extra, begin, end in zip(full, more, begins, ends, strict=True)]
    need(min(sizes) >= 1, "nothing is left of an axis")

    def apply(weight: Tensor, values: Tensor) -> Tensor:
        return cut(TRANSPOSED[rank - 1](values, weight, stride=stride, groups=groups, dilation=dilation))

    products = inputs // groups * prod(kernel)
    view.affine(
        view.name(),
        Bilinear(apply, weights(weight), products, shape),
        _bias(view, rank, weight.lower.shape[1] * groups),
    )


def _cut(view: View, sizes: Sequence[int], stride: Sequence[int], full: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return how much is cut off of a transposed convolution before and behind, along each axis."""
    rank, kind = len(sizes), view.attribute("auto_pad", b"NOTSET")
    pads, given = [int(pad) for pad in view.attribute("pads", [0] * 2 * rank)], view.attribute("output_shape", None)
    if given is None and kind not in SAME:
        pads = [0] * 2 * rank if kind == b"VALID" else pads
        need(len(pads) == 2 * rank and min(pads) >= 0, f"expected 2 x {rank} paddings of at least 0, got {pads}")
        return pads[:rank], pads[rank:]
    target = [size * step for size, step in zip(sizes, stride, strict=True)] if given is None else given
    totals = [size - int(wanted) for size, wanted in zip(full, target[-rank:], strict=True)]
    # where the total is odd, or below 0, runtimes differ
    fits = all(total >= 0 and total % 2 == 0 for total in totals)
    need(fits, f"expected an even padding for the output sizes {list(target)}, got {totals}")
    return [total // 2 for total in totals], [total // 2 for total in totals]


# --- matrices --------------------------------------------------------------------------------------------------------


def _matrix_product(view: View) -> None:
    if not view.is_constant(1):
        _product_from_left(view)
        return
    weight, shape = view.constant(1), view.shape()
    given = tuple(weight.lower.shape)
    need(bool(shape) and bool(given), "expected factors with axes")
    rows = given[-2] if len(given) > 1 else given[0]
    need(shape[-1] == rows, f"expected rows of {rows} to be multiplied, got {shape}")
    if len(given) > 2:
        _batched(view, "ij", "jk", weight, shape)
    elif len(given) == 1:
        view.affine(view.name(), Bilinear(lambda vector, values: values @ vector, weights(weight), rows, shape))
    else:
        view.affine(view.name(), Matrix(weights(weight)))


def _product_from_left(view: View) -> None:
    weight, shape = view.constant(0), view.shape(1)
    given = tuple(weight.lower.shape)
    need(len(shape) >= 2 and bool(given), "expected matrices of each image as the second factor")
    need(given[-1] == shape[-2], f"expected {given[-1]} rows to be multiplied, got {shape}")
    if len(given) == 1:
        apply: Callable[[Tensor, Tensor], Tensor] = lambda vector, values: vector @ values  # noqa: E731
        view.affine(view.name(1), Bilinear(apply, weights(weight), given[0], shape))
    else:
        _batched(view, "jk", "ij", weight, shape)


def _batched(view: View, own: str, other: str, weight: Enclosure, shape: tuple[int, ...]) -> None:
    """Give a product of matrices, each with its own constant one along the axes in front.

    Args:
        view: the node.
        own: subscripts of the value's matrices; those of the product's are `ik`.
        other: those of the constant's.
        weight: the constant.
        shape: of the value, without the batch.
    """
    ahead, given = shape[:-2], tuple(weight.lower.shape)
    need(len(shape) >= 2 and len(given) <= len(shape) + 1, "expected as many axes as the value has")
    need(len(given) <= len(shape) or given[0] == 1, "expected the same constant for all images")
    full = (1,) * (len(shape) + 1 - len(given)) + given
    joint = np.broadcast_shapes(ahead, full[1:-2])
    source = view.name(0 if view.is_constant(1) else 1)
    if joint != ahead:
        source = view.move(source, lambda values: values.expand(len(values), *joint, *values.shape[-2:]))
    front = _LETTERS[-len(joint) :] if joint else ""
    kept = "".join(letter for letter, size in zip(front, full[1:-2], strict=True) if size > 1)
    sizes = tuple(size for size in full[1:-2] if size > 1)
    matrices = weights(weight, lambda values: values.reshape(*sizes, *full[-2:]))
    equation = f"{kept}{other},a{front}{own}->a{front}ik"
    apply: Callable[[Tensor, Tensor], Tensor] = lambda matrix, values: torch.einsum(equation, matrix, values)  # noqa: E731
    products = full[-1] if other == "ij" else full[-2]
    view.affine(source, Bilinear(apply, matrices, products, (*joint, *shape[-2:])))


def _gemm(view: View) -> None:
    view.require(transA=0)
    weight, by_rows = view.constant(1), view.attribute("transB", 0)
    is_flat = len(view.shape()) == (2 if view.name() in view.walk.rows else 1)
    need(is_flat, f"expected features, got the shape {view.shape()}")
    matrix = Matrix(weights(weight, lambda values: values.T.contiguous() if by_rows else values))
    need(view.shape()[-1:] == matrix.weights.center.shape[:1], f"expected {len(matrix.weights.center)} features")
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    bias = view.constant(2) if view.has(2) else None  # finite: runtimes may add 0 times it
    if bias is not None and not beta:
        bias = None
    elif bias is not None:
        bias = reshaped(bias, (1,) * (2 - bias.lower.ndim) + tuple(bias.lower.shape))
        need(bias.lower.ndim == 2 and len(bias.lower) == 1, "expected the same bias for all images")
        bias = bias if beta == 1 else scaled(bias, beta)
        need(bias.lower.shape[1] in (1, matrix.weights.center.shape[1]), "expected a bias for each output")
        bias = reshaped(bias, (*(1 for _ in view.shape()), -1))
    if alpha == 1:
        view.affine(view.name(), matrix, bias)
    else:
        product = view.walk.append(Affine(view.part(), view.name(), matrix))
        view.affine(product, Scale(exactly(alpha)), bias)


def _einsum(view: View) -> None:
    need(len(view.node.inputs) == 2, "expected two operands, one of them constant")
    place = 0 if view.is_constant(1) else 1
    weight, shape = view.constant(1 - place), view.shape(place)
    text = view.attribute("equation", b"").decode(errors="replace").replace(" ", "")
    found = re.fullmatch(
        r"([A-Za-z]+),([A-Za-z]*)->([A-Za-z]*)" if not place else r"([A-Za-z]*),([A-Za-z]+)->([A-Za-z]*)", text
    )
    need(found is not None, f"expected an equation of letters, two operands and an output, got {text!r}")
    assert found is not None
    own, other, output = found[1 + place], found[2 - place], found[3]
    for letters in (own, other, output):
        need(len(set(letters)) == len(letters), "expected each letter once in an operand")
    need(len(own) == len(shape) + 1 and len(other) == weight.lower.ndim, f"expected operands that fit {text}")
    need(output[:1] == own[0] and own[0] not in other, "expected the images of a batch to stay apart")
    sizes = dict(zip(own[1:], shape, strict=True))
    for letter, size in zip(other, weight.lower.shape, strict=True):
        need(sizes.setdefault(letter, size) == size, f"expected one size of {letter!r}")
    need(set(output[1:]) <= set(sizes), "expected an output of letters that are read")
    # a runtime sums the constant along such a letter first, which may overflow, and an entry would meet many weights
    need(set(other) <= {*own, *output}, "expected no letter of the constant alone that is summed")
    products = prod(size for letter, size in sizes.items() if letter not in output)
    equation = f"{other},{own}->{output}"
    apply: Callable[[Tensor, Tensor], Tensor] = lambda given, values: torch.einsum(equation, given, values)  # noqa: E731
    view.affine(view.name(place), Bilinear(apply, weights(weight), products, shape))


PRODUCT_RULES: Final[Mapping[str, Callable[[View], None]]] = MappingProxyType(
    {
        "Conv": _convolution,
        "ConvTranspose": _transposed_convolution,
        "Einsum": _einsum,
        "Gemm": _gemm,
        "MatMul": _matrix_product,
    }
)
