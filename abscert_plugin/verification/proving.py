"""Proofs of a deployed file's margins, for every order of its sums: what `certified` rests on."""

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeVar, final

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from abscert_plugin.artifact.model_file import with_tensors
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.rewriting import need_known_nodes
from abscert_plugin.bounds.bounder import BoundMethod, as_memory_error
from abscert_plugin.bounds.proof import Proof, unsupported
from abscert_plugin.bounds.proof.descent import Slopes
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.proof.proof import NEARLY
from abscert_plugin.bounds.tails import BY_PLACE, answered, kept_margins
from abscert_plugin.claim import Arithmetic
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.front import Cells, Point, Points
from abscert_plugin.graph.nodes import Graph, read_graph
from abscert_plugin.graph.tail import without_tail
from abscert_plugin.verification.alone import alone
from abscert_plugin.verification.part_margins import PartMargins

_PROBES: Final = 4
_MOST_ENTRIES: Final = 2**20  # of all tensors of an input, where linear bounds at a point take less than half a second
_NARROW: Final = 2**10  # entries of a tensor that linear bounds at a point are worth a backward pass each
_MOST_ROWS: Final = 2**28  # of these, times all entries: some seconds
_ALL: Final = 2**62
_MOST_ACTIVATIONS: Final = 2**12  # where those of every activation take less than a second
_Found = TypeVar("_Found")

PROVEN_BY: Final[Mapping[BoundMethod, BoundMethod]] = {
    BoundMethod.IBP: BoundMethod.IBP,
    BoundMethod.CROWN_IBP: BoundMethod.CROWN_IBP,
    BoundMethod.CROWN: BoundMethod.CROWN,
    BoundMethod.CROWN_LBP: BoundMethod.CROWN,
    BoundMethod.OPTIMISED: BoundMethod.CROWN,
}
"""How a proof follows each bound: by the same lines, or by those of CROWN."""


@final
class Prover:
    """Lower bounds of a file's margins that every evaluation of it in float32 keeps.

    Boxes are between two points (`front`): of cells their interval images, which every runtime holds; of pixels the
    images themselves, since a runtime may fold their scaling into the first layer; of a file that this project did not
    make what it is fed. Where a Softmax or its like ends the file, what is proven is of the logits before it, less what
    it may undo (`tails`).

    Args:
        artifact: the file.
        asked: what verdicts are to hold for: sums of float16 may be held in float16 for any order and this runtime, and
            are held in float32 for wide sums, which is what None asks for.

    Attributes:
        arithmetic: what proofs hold for: wide sums of a file with sums of float16, where they are asked for.

    Raises:
        UnsupportedModelError: if its graph has a node that the proof does not know, and names all of them; or the file
            itself gives other logits of random points than those that the proof allows.
    """

    def __init__(self, artifact: Artifact, asked: Arithmetic | None = None) -> None:
        front, shape, classes = artifact.front, artifact.metadata.image_shape, artifact.metadata.classes
        if classes < 2:
            raise UnsupportedModelError(f"expected a network of at least 2 classes, got {classes}")
        self._front, self._image_shape = front, shape
        self._is_on_cpu = artifact.classifier.is_on_cpu
        model = with_tensors(artifact.model, artifact.path)
        graph = read_graph(model, artifact.path)
        cut = without_tail(graph)
        self.tail = None if cut is None else cut.tail
        """What stands behind the logits whose margins are proven; None where the file gives them."""
        graph = graph if cut is None else cut.graph
        sizes, is_wide = front.input_shape(shape), asked in (None, Arithmetic.WIDE_SUMS)
        try:
            self._proof = Proof(graph, artifact.held, sizes, classes, wide_sums=is_wide)
        except UnsupportedModelError as error:
            self._proof = _proof_of_one(graph, artifact, sizes, classes, error)
        if self.tail is not None and self._proof.has_narrow_logits:  # `tails` knows what one in float32 may undo
            raise UnsupportedModelError(f"{artifact.path}: expected a {self.tail} of float32, got one of fewer bits")
        self.arithmetic = Arithmetic.WIDE_SUMS if is_wide and self._proof.is_narrow else Arithmetic.ANY_ORDER
        self._logits = self._proof.output
        # intervals in float32 lose 0.02 points of a certified share, and take a third of the time
        self._quick = self._proof.in_float32()
        self.classes = classes
        self.sizes = tuple(math.prod(shape) for shape in self._proof.relus.values())
        """How many ReLUs each layer of them has, in order."""
        self.activations = sum(math.prod(self._proof.shapes[name]) for name in self._proof.free)
        """How many activations there are whose lines can be chosen, and by which a search may cut."""
        self.entries = self._proof.entries
        """How many entries all tensors of one input have together."""
        if self._proof.has_products:  # of which onnxruntime makes attention
            need_known_nodes(model, artifact.path)
        self._need_agreement(artifact)

    def _need_agreement(self, artifact: Artifact) -> None:
        """Raise where the file contradicts the proof at a few points: it is read in another way, or run in less."""
        images = self._front.probes(artifact.metadata.image_shape)[:_PROBES]
        points = artifact.cells.cell(images) if isinstance(self._front, Cells) else images
        lowest, highest = self._ends(points, points)
        try:
            logits = artifact.run_images(images)
            values = in_memory(lambda: self._proof.intervals(lowest, highest), BoundMethod.IBP, len(images))
        except VerifierError:
            return  # what does not run, or does not fit, certifies nothing
        lower, upper = (end.numpy() for end in answered(self.tail, *values[self._logits].computed()))
        is_unknown = ~(np.isfinite(lower) & np.isfinite(upper))
        if logits.shape != lower.shape or not (((lower <= logits) & (logits <= upper)) | is_unknown).all():
            raise UnsupportedModelError(
                f"{artifact.path} gives logits here that its graph does not give in float32, so nothing is proven of it"
            )

    @property
    def lines_at_points(self) -> tuple[int, ...]:
        """The linear bounds that are worth their time at single points, where roundings add up less by lines.

        Each by the most entries of a tensor whose entries are bounded by a backward pass each: none, then the narrow
        ones, or all where there are few.
        """
        if self.entries > _MOST_ENTRIES:
            return ()
        if self.activations <= _MOST_ACTIVATIONS:
            return 0, _ALL
        narrow = sum(size for size in map(math.prod, self._proof.curved_shapes) if size <= _NARROW)
        return (0, _NARROW) if 0 < narrow * self.entries <= _MOST_ROWS else (0,)

    def at_points(
        self,
        points: Points,
        labels: Int64[np.ndarray, "batch"],
        seen: Float32[np.ndarray, "batch"],
        lines: Sequence[int] = (),
        seconds: float = math.inf,
    ) -> Float64[np.ndarray, "batch"]:
        """Return a lower bound of each label's margin at a point.

        Where the CPU ran the file, what it saw bounds every other evaluation: less how far two may be apart anywhere.
        That takes onnxruntime's own sums on the CPU to be sums of products in float32, as the proof's own are.

        Args:
            points: the points.
            labels: the classes.
            seen: the margins that the file computed there.
            lines: linear bounds to try, in order, where intervals show nothing: see `lines_at_points`.
            seconds: after which CROWN bounds no further hidden value of any of them.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
        """
        end = time.perf_counter() + seconds
        lower, upper = self._ends(points, points)
        if torch.equal(lower, upper):
            found = seen.astype(np.float64) * (1 - 2.0**-20) - self._apart  # a difference of logits is rounded once
            found[~(found > 0)] = -np.inf
            steps = [self._at_once, self._one_by_one, self._by_length]
        else:  # what a file of others is fed is not known to the last bit: a box around each point
            found = self.least_margins(points, points, labels, BoundMethod.IBP)
            steps = [self._one_by_one]
        for prove in steps:
            rest = np.flatnonzero(found <= 0)
            if len(rest):
                proven = prove(lower[rest], upper[rest], torch.from_numpy(labels[rest]))
                found[rest] = np.maximum(found[rest], proven)
        for most in dict.fromkeys((*lines, *[_ALL] * self._proof.has_products)):
            lost = np.flatnonzero((found <= 0) & (seen > 0))
            if len(lost):
                what = points[lost], lower[lost], upper[lost], torch.from_numpy(labels[lost])
                found[lost] = np.maximum(found[lost], self._by_lines(*what, most, end))
        return found

    def _by_lines(
        self, points: Points, lower: Tensor, upper: Tensor, labels: Tensor, most: int, end: float
    ) -> np.ndarray:
        """Return linear bounds at points, of those that the time is for; in float64, which takes no longer here."""
        if torch.equal(lower, upper) and self.tail not in BY_PLACE:
            return self._at(lambda: self._proof.linear_margins_at(lower, labels, most, end), labels)
        found = np.full(len(labels), -np.inf)
        if 0 < most < _ALL:  # there is nothing between in this way
            return found
        method, size = (BoundMethod.CROWN, 1) if most else (BoundMethod.CROWN_IBP, max(1, len(labels)))
        for start in range(0, len(labels), size):
            some, left = slice(start, start + size), end - time.perf_counter()
            if left > 0:
                ends, classes = (points[some], points[some]), labels[some].numpy()
                found[some] = self.least_margins(*ends, classes, method, is_open=True, seconds=[left] * size)
        return found

    def _by_length(self, lower: Tensor, _: Tensor, labels: Tensor) -> np.ndarray:
        """Bound few points by how long differences are, in float64, which takes no longer."""
        return self._at(lambda: self._proof.margins_by_length(lower, labels), labels)

    def _at(self, margins: Callable[[], Tensor], labels: Tensor) -> np.ndarray:
        if self.tail in BY_PLACE:
            return np.full(len(labels), -np.inf)
        return _least(in_memory(lambda: self._kept(margins(), {}, labels), BoundMethod.IBP, len(labels)))

    @functools.cached_property
    def _apart(self) -> float:
        """How far the margins of two evaluations may be apart at any point; infinite where none was run on the CPU."""
        if not self._is_on_cpu or self.tail is not None:
            return math.inf
        return self._proof.apart(*self._ends(*self._front.everything(self._image_shape)))

    def _at_once(self, lower: Tensor, _: Tensor, labels: Tensor) -> np.ndarray:
        return self._at(lambda: self._quick.margins_at(lower, labels), labels)

    def _one_by_one(self, lower: Tensor, upper: Tensor, labels: Tensor) -> np.ndarray:
        """Prove few points: each is worth a room of its own, and twice the precision."""
        return self._least(self._proof, lower, upper, labels, BoundMethod.IBP, {})

    def least_margins(
        self,
        lowest: Points,
        highest: Points,
        labels: Int64[np.ndarray, "batch"],
        method: BoundMethod,
        slopes: Sequence[Float[np.ndarray, "batch others _"]] = (),
        is_open: bool = False,
        is_exact: bool = False,
        seconds: Sequence[float] = (),
    ) -> Float64[np.ndarray, "batch"]:
        """Return a lower bound of each label's margin at all points between two; -inf claims nothing.

        Intervals come first, in float32 and quick: linear bounds are of what these leave open. They are tried with
        convolutions in float32 before they are with none.

        Args:
            lowest: the lower points.
            highest: the upper points.
            labels: the classes.
            method: any; see `PROVEN_BY`.
            slopes: lower slopes of the ReLUs that someone found, in order; any are sound.
            is_open: whether intervals are known to leave all of them open.
            is_exact: whether bounds are to be computed in float64 alone, which takes longer.
            seconds: for each image, how long its hidden values may take by CROWN; as long as it takes where empty.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
        """
        (lower, upper), classes = self._ends(lowest, highest), torch.from_numpy(labels)
        by, found = PROVEN_BY[method], np.full(len(labels), -np.inf)
        if not is_open or by is BoundMethod.IBP:
            quick = self._proof if is_exact and by is BoundMethod.IBP else self._quick
            found = self._least(quick, lower, upper, classes, BoundMethod.IBP, {})
        if by is BoundMethod.IBP:
            return found
        rest = np.flatnonzero(found <= 0)
        left = np.asarray(seconds)
        for proof in (self._proof,) if is_exact else (self._quick, self._proof):
            if len(rest):
                start = time.perf_counter()
                given, limits = self._given(slopes, rest), left[rest].tolist() if len(left) else ()
                bounds = self._least(proof, lower[rest], upper[rest], classes[rest], by, given, limits)
                found[rest] = np.maximum(found[rest], bounds)
                left = left - (time.perf_counter() - start) / len(rest)
            # float64 changes a bound by little
            rest = np.flatnonzero((found <= 0) & (found > -NEARLY))
        return found

    def _given(self, slopes: Sequence[np.ndarray], rows: np.ndarray) -> Slopes:
        return {
            name: torch.from_numpy(slope[rows]).reshape(len(rows), slope.shape[1], *shape)
            for (name, shape), slope in zip(self._proof.relus.items(), slopes, strict=False)
        }

    def _least(
        self,
        proof: Proof,
        lower: Tensor,
        upper: Tensor,
        labels: Tensor,
        method: BoundMethod,
        slopes: Slopes,
        seconds: Sequence[float] = (),
    ) -> np.ndarray:
        def margins() -> Tensor:
            found = proof.margins(lower, upper, labels, method, slopes, seconds)
            if self.tail not in BY_PLACE:
                return self._kept(found, {}, labels)
            return self._kept(found, self._proof.intervals(lower, upper), labels)

        return _least(in_memory(margins, method, len(labels)))

    def _kept(self, margins: Tensor, values: Mapping[str, Enclosure], labels: Tensor) -> Tensor:
        """Return what is left of margins of logits behind the file's tail."""
        if self.tail is None:
            return margins
        ends = values[self._logits].computed() if self.tail in BY_PLACE else None
        return kept_margins(self.tail, margins, ends, labels)

    def enclosures(self, lowest: Points, highest: Points) -> dict[str, Enclosure]:
        """Return enclosures of all values between two points, by their names in the file.

        Raises:
            BoundMemoryError: if memory did not suffice; fewer may fit.
        """
        lower, upper = self._ends(lowest, highest)
        return in_memory(lambda: self._proof.intervals(lower, upper, refined=True), BoundMethod.CROWN, len(lowest))

    def part_margins(
        self,
        lowest: Point,
        highest: Point,
        label: int,
        rows: Int64[np.ndarray, "row"] | None = None,
        bent: Int64[np.ndarray, "bent"] | None = None,
        loose: Collection[str] | None = None,
        seconds: float = math.inf,
    ) -> PartMargins:
        """Return what bounds the margins of a label over parts of all points between two, with the rest as there.

        Raises:
            BoundTimeError: if the time is up before.
            BoundMemoryError: if memory did not suffice.
        """
        lower, upper = self._ends(lowest[None], highest[None])

        def opened() -> PartMargins:
            return PartMargins(self._proof, lower, upper, label, kept, rows, bent, loose, seconds)

        def kept(margins: Tensor) -> Tensor:
            values = self._proof.intervals(lower, upper) if self.tail in BY_PLACE else {}
            values = {name: value.take(torch.zeros(len(margins), dtype=torch.int64)) for name, value in values.items()}
            return self._kept(margins, values, torch.full((len(margins),), label))

        return in_memory(opened, BoundMethod.CROWN, 1)

    def _ends(self, lowest: Points, highest: Points) -> tuple[Tensor, Tensor]:
        shape = self._proof.input_shape
        lower, upper = (torch.from_numpy(end) for end in self._front.held_ends(lowest, highest))
        return lower.reshape(-1, *shape), upper.reshape(-1, *shape)


def _proof_of_one(
    graph: Graph, artifact: Artifact, shape: tuple[int, ...], classes: int, fault: UnsupportedModelError
) -> Proof:
    """Return a proof of images alone, each a batch of one; raise what a proof of batches raised where there is none."""
    if artifact.held != graph.input or unsupported(graph, graph.input):
        raise fault
    try:
        lone = alone(graph, artifact.model, shape)
        return Proof(lone, lone.input, (1, *shape), classes)
    except UnsupportedModelError:
        raise fault from None


def _least(bounds: Tensor) -> np.ndarray:
    """Return the least bound of each row, -inf where one is no finite number."""
    return torch.where(bounds.isfinite(), bounds, -torch.inf).amin(dim=1).numpy()


def in_memory(compute: Callable[[], _Found], method: BoundMethod, batch: int) -> _Found:
    """Return what is computed; raise BoundMemoryError where memory does not suffice for it."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        failure = as_memory_error(error, method, batch)
        if failure is None:
            raise
    raise failure  # here, not above: the error that was caught holds on to the tensors of the batch
