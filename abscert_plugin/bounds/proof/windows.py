"""Backward passes over the windows that entries behind convolutions see, in place of whole images.

An entry behind convolutions depends on a window of each tensor before it. Rows over one entry are 0 outside of these
windows, so a pass over them gives the same bound: `Descent` runs as it is, with a place of the image in place of an
image of the batch, and channels for rows. What a window has beyond the border of its tensor is no value: rows are set
to 0 there (`_Part`), as a convolution's padding is no value either. Where two steps read a tensor, as around a residual
block, its window holds those of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, Final, TypeAlias, final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from abscert_plugin.bounds.proof.activations import Lines
from abscert_plugin.bounds.proof.affine import Affine, Join, Shift
from abscert_plugin.bounds.proof.descent import Descent, Step, Unary
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.maps import Convolution, InSingle, Scale
from abscert_plugin.bounds.proof.moves import Move
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.reading.sliding import Padding

_PART: Final = "\0part"
_WORTH: Final = 0.5  # of the entries of rows over whole images: with more, windows are not worth their overhead

Pair: TypeAlias = tuple[int, int]


@final
@dataclass(frozen=True, slots=True)
class Window:
    """Where the windows of a tensor lie: at place p of the entries, from step p - pad on, along each axis.

    Args:
        step: how far two neighbours are apart.
        pad: how far the first one begins before the tensor.
        size: of each.
    """

    step: Pair = (1, 1)
    pad: Pair = (0, 0)
    size: Pair = (1, 1)

    def before(self, options: Mapping[str, Any], kernel: Sequence[int]) -> "Window":
        """Return the windows of what a convolution reads, from those of what it gives."""
        axes = list(zip(self.step, self.pad, self.size, options["stride"], options["padding"], strict=True))
        spans = [apart * (side - 1) + 1 for apart, side in zip(options["dilation"], kernel, strict=True)]
        steps = [step * stride for step, _, _, stride, _ in axes]
        pads = [pad * stride + padding for _, pad, _, stride, padding in axes]
        sizes = [(size - 1) * stride + span for (_, _, size, stride, _), span in zip(axes, spans, strict=True)]
        return Window((steps[0], steps[1]), (pads[0], pads[1]), (sizes[0], sizes[1]))

    def padded(self, begins: Sequence[int]) -> "Window":
        """Return the windows of what a padding reads, of so many rows and columns in front of it."""
        return replace(self, pad=(self.pad[0] + begins[0], self.pad[1] + begins[1]))

    def joined(self, other: "Window") -> "Window | None":
        """Return the windows that hold those of two steps; None where these do not stay at one distance."""
        if self.step != other.step:
            return None
        pads = [max(pair) for pair in zip(self.pad, other.pad, strict=True)]
        behind = [[size - pad for size, pad in zip(one.size, one.pad, strict=True)] for one in (self, other)]
        sizes = [pad + max(ends) for pad, *ends in zip(pads, *behind, strict=True)]
        return Window(self.step, (pads[0], pads[1]), (sizes[0], sizes[1]))

    def of(self, values: Tensor, count: Pair, places: Int64[Tensor, "place"]) -> Tensor:
        """Return the windows of a tensor, [channels, *size], at some places, [place, channels, *size], 0 outside."""
        behind = [
            (many - 1) * step + size - pad - have
            for many, step, size, pad, have in zip(count, self.step, self.size, self.pad, values.shape[1:], strict=True)
        ]
        padded = functional.pad(values, (self.pad[1], max(behind[1], 0), self.pad[0], max(behind[0], 0)))
        windows = padded.unfold(1, self.size[0], self.step[0]).unfold(2, self.size[1], self.step[1])
        return windows[:, places // count[1], places % count[1]].transpose(0, 1)


@final
@dataclass(frozen=True, slots=True)
class _Part(Unary):
    """The part of a window that a step reads.

    Args:
        output: name of what it gives.
        input: name of the window.
        before: how many rows and columns of the window lie before the part.
        size: of the part.
        mask: 0 at what lies outside of the tensor, and else 1; None where no row is other than 0 there.
    """

    output: str
    input: str
    before: Pair
    size: Pair
    mask: Tensor | None

    @override
    def forward(self, values: Mapping[str, Enclosure]) -> Enclosure:
        (top, left), (height, width) = self.before, self.size
        return values[self.input].moved(lambda entries: entries[:, :, top : top + height, left : left + width])

    @override
    def backward(self, rows: Tensor, descent: Descent) -> None:
        rows = rows if self.mask is None else rows * self.mask
        (top, left), whole = self.before, descent.values[self.input].lower.shape[2:]
        below, right = whole[0] - top - self.size[0], whole[1] - left - self.size[1]
        descent.send(self.input, functional.pad(rows, (left, right, top, below)))


@final
class Windows:
    """The steps before a tensor, over windows.

    Args:
        steps: those from the source to the tensor, as in `windows_of`, and which windows of its inputs each reads.
        windows: of each tensor, by name.
        shapes: of these tensors, without the batch.

    Attributes:
        largest: the most entries that a window has.
        share: how many entries windows have, of those that their tensors have.
    """

    def __init__(
        self,
        steps: Sequence[tuple[Step, Window]],
        windows: Mapping[str, Window],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._steps, self._windows = steps, windows
        self._source, self._name = steps[0][0].inputs[0], steps[-1][0].output
        sizes = [shapes[name][0] * window.size[0] * window.size[1] for name, window in windows.items()]
        self.largest = max(sizes)
        self.share = sum(sizes) / sum(prod(shapes[name]) for name in windows)

    def are_worth(self, rows: int, whole: int) -> bool:
        """Return whether so many rows over windows take less than others over whole images.

        A window has rows for as many entries at each place as are open at the one that has most.
        """
        return self.share * rows <= _WORTH * whole

    def taken(self, values: Mapping[str, Enclosure], image: int) -> dict[str, Enclosure]:
        """Return what is known of one image, of the tensors of these steps."""
        return {name: values[name].take(torch.tensor([image])) for name in self._windows}

    def lines(self, values: Mapping[str, Enclosure]) -> dict[str, Lines]:
        """Return the lines of all activations, of one image, by what they give."""
        descent = Descent(values, {})
        return {
            step.output: descent.lines(step.output, step.input, step.function, step.kind.tiny)
            for step, _ in self._steps
            if isinstance(step, Activation)
        }

    def bounds(
        self,
        values: Mapping[str, Enclosure],
        lines: Mapping[str, Lines],
        places: Int64[Tensor, "place"],
        channels: Int64[Tensor, "place row"],
    ) -> Tensor:
        """Return lower bounds of ideal entries, and of their negatives, [place, 2 row].

        Args:
            values: enclosures, of one image.
            lines: of its activations.
            places: among the places of the tensor, row by row.
            channels: which entries are bounded at each.
        """
        outputs, *count = values[self._name].lower.shape[1:]

        def cut(window: Window, tensor: Tensor) -> Tensor:
            return window.of(tensor[0], (count[0], count[1]), places)

        def enclosed(name: str, window: Window) -> Enclosure:
            value = values[name].moved(partial(cut, window))
            underflow, reach = (part.expand(len(places)) for part in (value.underflow, value.reach))
            return replace(value, underflow=underflow, reach=reach)

        def part(output: str, name: str, read: Window, is_masked: bool) -> _Part:
            whole = self._windows[name]
            before = whole.pad[0] - read.pad[0], whole.pad[1] - read.pad[1]
            mask = cut(read, torch.ones_like(values[name].lower[:, :1])).unsqueeze(1) if is_masked else None
            return _Part(output, name, before, read.size, mask)

        here = {name: enclosed(name, window) for name, window in self._windows.items()}
        kept = {}
        steps: list[Step] = []
        for step, read in self._steps:
            if isinstance(step, Activation):
                like = values[step.input].lower
                below, above, low, high = (cut(read, line.expand_as(like)) for line in lines[step.output])
                kept[step.output] = below, above, low, high
            if isinstance(step, Move):
                steps.append(part(step.output, step.input, read, is_masked=True))
                continue
            is_padded = isinstance(step, Affine) and not isinstance(step.map, Scale)
            names = {}
            for name in set(step.inputs):
                if is_padded or self._windows[name] != read:
                    names[name] = f"{step.output}{_PART}{name}"
                    steps.append(part(names[name], name, read, is_padded))
                    here[names[name]] = enclosed(name, read)
            steps.append(_reading(step, names))
        rows = torch.zeros((*channels.shape, outputs), dtype=torch.float64).scatter_(2, channels.unsqueeze(2), 1.0)
        both = torch.cat([rows, -rows], 1).reshape(len(places), -1, outputs, 1, 1)
        return Descent(here, {}, kept=kept).run_ideal(steps, self._name, both, {self._source})


def windows_of(steps: Sequence[Step], name: str, source: str, shapes: Mapping[str, tuple[int, ...]]) -> Windows | None:
    """Return the windows of a tensor behind convolutions over two axes, sums, paddings and steps entry by entry.

    None where there is something else, or where windows are not much smaller than their tensors.

    Args:
        steps: those that the tensor needs, in order.
        name: the tensor.
        source: the tensor that boxes are of.
        shapes: of all tensors, without the batch.
    """
    windows = {name: Window()}
    made: list[tuple[Step, Window]] = []
    for step in reversed(steps):
        if step.output not in windows or {len(shapes[each]) for each in (step.output, *step.inputs)} != {3}:
            return None
        read = windows[step.output]
        if isinstance(step, Affine):
            whole = _without_padding(step)
            if whole is None:
                return None
            step, exact = whole
            if exact is not None:
                read = read.before(exact.options, exact.weights.center.shape[2:])
        elif isinstance(step, Move):
            begins = _begins(step)
            if begins is None:
                return None
            read = read.padded(begins)
        elif not (
            isinstance(step, Activation)
            or (isinstance(step, Shift) and _is_even(step.bias))
            or (isinstance(step, Join) and shapes[step.first] == shapes[step.second])
        ):
            return None
        for each in step.inputs:
            joined = windows.get(each, read).joined(read)
            if joined is None:
                return None
            windows[each] = joined
        made.append((step, read))
    is_whole = bool(made) and set(windows) == {source, *(step.output for step, _ in made)}
    found = Windows(made[::-1], windows, shapes) if is_whole else None
    return found if found is not None and found.share <= _WORTH else None


def _begins(step: Move) -> Sequence[int] | None:
    """Return how many rows and columns a padding by zeros has in front; None of another move."""
    if not isinstance(step.move, Padding) or step.move.value:
        return None
    (*around, top, left), (*behind, _, _) = step.move.begins, step.move.ends
    return None if any(around) or any(behind) or min(*step.move.begins, *step.move.ends) < 0 else (top, left)


def _reading(step: Step, names: Mapping[str, str]) -> Step:
    """Return a step that reads other tensors, by the names of those that it reads."""
    if isinstance(step, Join):
        first, second = (names.get(name, name) for name in step.inputs)
        return replace(step, first=first, second=second)
    if isinstance(step, Affine | Activation | Shift):
        return replace(step, input=names.get(step.input, step.input))
    return step


def _without_padding(step: Affine) -> tuple[Affine, Convolution | None] | None:
    """Return an affine step over windows, and the convolution that it is in whole images; None where it is none."""
    if not _is_even(step.bias):
        return None
    if isinstance(step.map, Scale):
        weights = step.map.weights
        return (step, None) if _is_even_tensor(weights.center) else None
    exact = step.map.exact if isinstance(step.map, InSingle) else step.map
    if not isinstance(exact, Convolution) or exact.weights.center.ndim != 4:
        return None
    bare = Convolution(exact.weights, {**exact.options, "padding": [0, 0]})
    return replace(step, map=InSingle(bare) if isinstance(step.map, InSingle) else bare), exact


def _is_even(constant: Enclosure | None) -> bool:
    return constant is None or _is_even_tensor(constant.lower)


def _is_even_tensor(constant: Tensor) -> bool:
    """Return whether a constant is the same at all places of an image."""
    return constant.numel() == 1 or (constant.ndim >= 3 and constant.shape[-2:].numel() == 1)


def open_places(is_open: Bool[Tensor, "channels place"]) -> tuple[Int64[Tensor, "some"], Int64[Tensor, "some most"]]:
    """Return the places at which a channel is open, and at each as many channels, the open ones first."""
    places = is_open.any(0).nonzero().flatten()
    there = is_open[:, places].T
    most = int(there.sum(1).max()) if len(places) else 0
    return places, there.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
