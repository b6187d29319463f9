"""Writing a guard, after it was run beside the classifier that it is of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.write import write_checked
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Runner
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.errors import ExportError, UnsupportedModelError, VerifierError
from abscert_plugin.graph.tail import Tail
from abscert_plugin.guards.guarded import CERTIFIED, LABEL, MARGIN, Guarded, guarded
from abscert_plugin.telling import Tell, nobody

_IMAGES: Final = 16
_AT_ONCE: Final = 4
_CHECKING: Final = "images that it is run on"
_BOUND: Final = 1e-5  # of the rounding of a margin that is only seen, in terms of the logits


def write_guard(
    artifact: Artifact,
    balls: Sequence[Ball],
    path: Path,
    has_largest: bool = False,
    bound: BoundMethod = BoundMethod.IBP,
    tell: Tell = nobody,
) -> Guarded:
    """Write the guard of a classifier and return it; see `guarded`.

    It gets its name only after it gave the classifier's logits of random images, bit for bit, and bounds that images
    at the ends of their balls keep.

    Args:
        artifact: the classifier.
        balls: one, or several: each has a column then.
        path: where the file goes.
        has_largest: whether to answer the largest radius that is certified too.
        bound: IBP or CROWN-IBP.
        tell: told of the nodes that are written, and of the images that it is run on.

    Raises:
        UnsupportedModelError, ConfigError: as `guarded`.
        ExportError: if it cannot be written, or does not do what it should; nothing is written then.
    """
    made = guarded(artifact, balls, has_largest, bound, tell)
    write_checked({path.name: made.model}, path.parent, lambda paths: _check(paths[path.name], artifact, made, tell))
    return made


def _check(path: Path, artifact: Artifact, made: Guarded, tell: Tell) -> None:
    """Run a guard that is about to get its name.

    Raises:
        ExportError: if it does not do what it should.
    """
    shape = (_IMAGES, *artifact.metadata.image_shape)
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    try:
        runner = Runner(path)
        for done in range(0, _IMAGES, _AT_ONCE):
            tell(_CHECKING, done, _IMAGES)
            part = images[done : done + _AT_ONCE]
            _check_answers(runner.run(artifact.front.file_input(part)), part, artifact, made)
    except (UnsupportedModelError, VerifierError) as error:
        raise ExportError(f"the guard does not run here ({error}); nothing was written") from error
    tell(_CHECKING, _IMAGES, _IMAGES)


def _check_answers(
    found: Mapping[str, np.ndarray],
    images: Float32[np.ndarray, "images channels height width"],
    artifact: Artifact,
    made: Guarded,
) -> None:
    """Hold what a guard answered for images against the classifier.

    Raises:
        ExportError: if it does not do what it should.
    """
    logits, labels, shown, margins = (found[output] for output in (made.logits, LABEL, CERTIFIED, MARGIN))
    expected = artifact.run_images(images)
    rows = np.arange(len(images))
    if not np.array_equal(logits, expected) or not np.array_equal(labels, expected.argmax(axis=1)):
        raise ExportError("the guard gives other logits than the classifier; nothing was written")
    if not np.isfinite(margins).all():
        raise ExportError("the guard gives margins that are no numbers; nothing was written")
    for ball, margin, is_shown in zip(
        made.balls, margins.reshape(len(images), -1).T, shown.reshape(len(images), -1).T, strict=True
    ):
        reach = artifact.front.reach(ball, images)
        for points in (reach.own, reach.lowest, reach.highest):
            seen = _bounded(artifact.run_images(artifact.front.images(points)), made.tail)
            least = seen[rows, labels] - np.where(_is(labels, seen.shape[1]), -np.inf, seen).max(axis=1)
            room = _BOUND * (1 + np.abs(seen).max(axis=1))
            if (margin > least + room).any() or (is_shown & (least <= 0)).any():
                raise ExportError("the guard bounds margins by more than the classifier keeps; nothing was written")


def _bounded(logits: np.ndarray, tail: Tail | None) -> np.ndarray:
    """Return what margins are of, but for a number that all of an image have in common."""
    if tail is not Tail.SOFTMAX:
        return logits
    with np.errstate(divide="ignore"):  # what is 0 is as far away as can be
        found: np.ndarray = np.log(logits)
    return found


def _is(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.arange(classes) == labels[:, None]
