"""Intervals by running a file: the guard of a classifier, made for a ball and run where the classifier is."""

import logging
from typing import Final, final

import numpy as np
from google.protobuf.message import EncodeError
from jaxtyping import Float64, Int64

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider, Runner
from abscert_plugin.errors import AbscertError, UnsupportedModelError
from abscert_plugin.front import Images
from abscert_plugin.guards import guarded
from abscert_plugin.guards.guarded import CERTIFIED, LABEL, MARGIN

FEWEST: Final = 500
"""Images from which on a guard is worth being made: it takes about as long as intervals of so many."""

_log = logging.getLogger(__name__)


@final
class GuardRun:
    """Lower bounds of margins over the balls around images, as the guard of their classifier gives them.

    Soundness: those of `guard.layers`. They are a little below those of a proof in float64, so what they certify, a
    check proves anew.

    Args:
        artifact: the classifier.
        ball: radius and kind of images.

    Raises:
        AbscertError: if there is no guard of it, or it does not run.
    """

    def __init__(self, artifact: Artifact, ball: Ball) -> None:
        made = guarded(artifact, [ball])
        try:
            model = made.model.SerializeToString()
        except (EncodeError, ValueError) as error:  # which of them depends on protobuf's implementation
            raise UnsupportedModelError("its guard would pass 2 GiB, protobuf's limit") from error
        self._runner = Runner(model, provider=Provider.CPU if artifact.classifier.is_on_cpu else Provider.CUDA)
        self._front = artifact.front

    def margins(self, images: Images, labels: Int64[np.ndarray, "batch"]) -> Float64[np.ndarray, "batch"]:
        """Return lower bounds of the labels' margins over the balls; -inf where an image itself has another label.

        Args:
            images: the centres, on the pixel scale.
            labels: the classes.

        Raises:
            VerifierError: if the guard fails.
        """
        found = self._runner.run(self._front.file_input(images))
        bounds = np.where(found[LABEL] == labels, found[MARGIN].astype(np.float64), -np.inf)
        # nothing above 0 that the guard does not certify, as behind a Softmax
        bounds[~found[CERTIFIED]] = np.minimum(bounds[~found[CERTIFIED]], 0.0)
        return bounds


def guard_run(artifact: Artifact, ball: Ball, count: int) -> GuardRun | None:
    """Return the guard by which intervals are bounded; None where proofs are as quick, or there is no guard.

    Args:
        artifact: the classifier.
        ball: radius and kind of images.
        count: how many images there are to be.
    """
    if (artifact.classifier.is_on_cpu and count < FEWEST) or ball.radius.pixel == 0:
        return None
    try:
        return GuardRun(artifact, ball)
    except AbscertError as error:
        _log.info("%s has no guard, so that intervals are bounded by proofs: %s", artifact.path, error)
        return None
