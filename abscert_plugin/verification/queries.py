"""A benchmark folder of a run's images: networks as ONNX, each ball's question as VNN-LIB of both versions, a list."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np

from abscert_plugin.artifact.adapted import gives_scores
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.write import ABSTRACT
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.claim import Verdict
from abscert_plugin.data import DataSet
from abscert_plugin.decimals import decimal
from abscert_plugin.errors import RecordError, UnsupportedModelError
from abscert_plugin.files import write_text, write_whole
from abscert_plugin.front import Points
from abscert_plugin.records import Record
from abscert_plugin.verification.certificate import batches_of

LISTS: Final = ("instances.csv", "instances2.csv")
"""The lists of instances, for queries of version 1 and 2: network, query, seconds."""

_FOLDERS: Final = ("vnnlib", "vnnlib2")
_NETWORKS: Final = "onnx"
_SAME: Final = 1e-4  # of the largest logit: float32 sums in another order


@final
@dataclass(frozen=True, slots=True)
class BoxQuestion:
    """What is asked of a network about one image.

    Args:
        index: the image's place in its data set.
        label: its class; the question is whether another class can reach its score.
        lower, upper: ends of the box, float32, row-major.
    """

    index: int
    label: int
    lower: np.ndarray
    upper: np.ndarray


def write_queries(
    out: Path,
    artifact: Artifact,
    ball: Ball,
    records: Sequence[Record],
    data: DataSet,
    seconds: float,
    every: bool,
    on_query: Callable[[], object] = lambda: None,
) -> tuple[int, str]:
    """Write the queries of images that a run left open, or of all; return how many, and what there is to know of them.

    A query is `sat` where some input of the box gives another class at least the score of the label. A network with
    cells is asked about as abstract.onnx, over the box that spans the reachable interval images: it holds more than
    these, so `sat` need not be an image of the ball, and `unsat` certifies it.

    Args:
        out: the folder; it has to be empty or new.
        artifact: the file that the run was about.
        ball: the ball of its claim.
        records: its rows.
        data: the images that they speak of.
        seconds: for each instance.
        every: whether images that were decided are written too.
        on_query: called after each image whose queries are written.

    Raises:
        RecordError: if the folder holds something, or cannot be written, or no image is left to be asked about.
        UnsupportedModelError: if the file's answer is no score for each class, it demands a batch of several images,
            or the abstract.onnx beside it is missing or another network.
    """
    chosen = [record for record in records if every or record.verdict == Verdict.UNKNOWN]
    if not chosen:
        raise RecordError("every image of the run is decided; ask for all of them with --all")
    if out.is_dir() and any(out.iterdir()):
        raise RecordError(f"{out} holds files already; choose another --out")
    network, shape = asked_network(artifact), artifact.front.input_shape(artifact.metadata.image_shape)
    classes = artifact.metadata.classes
    name = f"{_NETWORKS}/{network.name}"
    write_whole(out / name, lambda part: shutil.copyfile(network, part))
    lines: tuple[list[str], list[str]] = ([], [])
    for asked in _asked(artifact, ball, chosen, data):
        texts = (version_1(asked, classes), version_2(asked, (1, *shape), classes))
        for folder, text, listed in zip(_FOLDERS, texts, lines, strict=True):
            query = f"{folder}/{asked.index:08d}.vnnlib"
            write_text(out / query, text)
            listed.append(f"{name},{query},{seconds:g}\n")
        on_query()
    for listed, file in zip(lines, LISTS, strict=True):
        write_text(out / file, "".join(listed))
    notes = "the boxes hold all reachable interval images and more: `sat` need not be an image of the ball"
    rounded = "the boxes hold what preprocessing makes of the balls, rounded outward"
    return len(chosen), notes if artifact.grid is not None else rounded if artifact.opening else ""


def version_1(asked: BoxQuestion, classes: int) -> str:
    """Return the text of a query of version 1."""
    count = asked.lower.size
    declared = [f"(declare-const X_{place} Real)" for place in range(count)]
    declared += [f"(declare-const Y_{place} Real)" for place in range(classes)]
    bounds = _bounds(asked, [f"X_{place}" for place in range(count)])
    others = [place for place in range(classes) if place != asked.label]
    unsafe = " ".join(f"(and (>= Y_{place} Y_{asked.label}))" for place in others)
    return "\n".join([_comment(asked), *declared, *bounds, f"(assert (or {unsafe}))", ""])


def version_2(asked: BoxQuestion, shape: tuple[int, ...], classes: int) -> str:
    """Return the text of a query of version 2; the network is called `f`."""
    places = [",".join(map(str, place)) for place in np.ndindex(*shape)]
    head = [
        "(vnnlib-version <2.0>)",
        _comment(asked),
        "(declare-network f",
        f"  (declare-input X float32 [{','.join(map(str, shape))}])",
        f"  (declare-output Y float32 [1,{classes}]))",
    ]
    bounds = _bounds(asked, [f"X[{place}]" for place in places])
    others = [place for place in range(classes) if place != asked.label]
    unsafe = " ".join(f"(>= Y[0,{place}] Y[0,{asked.label}])" for place in others)
    return "\n".join([*head, *bounds, f"(assert (or {unsafe}))" if len(others) > 1 else f"(assert {unsafe})", ""])


def _comment(asked: BoxQuestion) -> str:
    return f"; image {asked.index} of class {asked.label}: sat where another class reaches its score"


def _bounds(asked: BoxQuestion, names: Sequence[str]) -> Iterator[str]:
    for name, least, most in zip(names, asked.lower.ravel().tolist(), asked.upper.ravel().tolist(), strict=True):
        yield f"(assert (>= {name} {decimal(least)}))"
        yield f"(assert (<= {name} {decimal(most)}))"


def _asked(artifact: Artifact, ball: Ball, records: Sequence[Record], data: DataSet) -> Iterator[BoxQuestion]:
    front = artifact.front
    for rows, _, pixels in batches_of(records, data):
        reach = front.reach(ball, pixels)
        lower, upper = front.held_ends(reach.lowest, reach.highest)
        for place, record in enumerate(rows):
            yield BoxQuestion(record.index, record.label, lower[place], upper[place])


def asked_network(artifact: Artifact) -> Path:
    """Return the file that holds the network that is asked about.

    Raises:
        UnsupportedModelError: as `write_queries`.
    """
    if artifact.opening:
        if not gives_scores(artifact.model):
            raise UnsupportedModelError(f"{artifact.path}: expected a score for each class, for a query to compare")
        if (artifact.classifier.input_shape[0] or 1) > 1:
            raise UnsupportedModelError(
                f"{artifact.path} demands a batch of several images; export it with a batch of 1"
            )
        return artifact.path
    if artifact.grid is None:
        return artifact.path
    path = artifact.path.with_name(ABSTRACT)
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is not there: the network without cells, which queries ask about")
    points: Points = np.random.default_rng(0).integers(
        0, artifact.grid.cells, (4, *artifact.metadata.image_shape), dtype=artifact.grid.index_type
    )
    expected = artifact.run_images(artifact.front.images(points))
    found = BlackBox(path, Provider.CPU).run(artifact.front.network_input(points))
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=_SAME * np.abs(expected).max()):
        raise UnsupportedModelError(f"{path} is not the network inside {artifact.path.name}; export the training again")
    return path
