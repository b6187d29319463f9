"""The verifier of the claim `ball` for a file, with the network inside it opened where that can be."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import LEVELS, Ball
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Arithmetic, Inputs
from abscert_plugin.data import DataSet
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.lirpa.whitebox import WhiteBox, open_white_box
from abscert_plugin.training.run import restore
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.guarding import guard_run


@final
@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """Which network serves gradients and bounds: by default the one inside the file.

    Args:
        black_box: none; the file is run alone.
        checkpoint: folder of the training that the file was exported from, whose network is taken.

    Raises:
        ConfigError: if both are asked for.
    """

    black_box: bool = False
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.black_box and self.checkpoint is not None:
            raise ConfigError("expected --black-box or --checkpoint, got both: one opens no network, the other does")


@final
@dataclass(frozen=True, slots=True)
class BallQuestion:
    """The claim `ball` for images of a data set by a file, and how it is to be decided.

    Args:
        artifact: the file.
        data: the data set of the images.
        ball: radius and kind of images.
        budget: what may be spent on an image.
        choice: which network serves gradients and float32 bounds.
        arithmetic: what verdicts are to hold for; None: any order where the graph can be read, else this runtime.
    """

    artifact: Artifact
    data: DataSet
    ball: Ball
    budget: Budget
    choice: NetworkChoice = NetworkChoice()
    arithmetic: Arithmetic | None = None


def open_verifier(asked: BallQuestion) -> tuple[BallVerifier, str]:
    """Return the verifier of the claim `ball`, and what of the file stays closed to it; empty where nothing does.

    Raises:
        ConfigError: if 8-bit images are asked for of data that are none, a bound alone of a network that stays closed,
            or any order of what is run alone.
        UnsupportedModelError: if the file is not a deployed classifier, or not that of the checkpoint.
        CheckpointError: if the checkpoint cannot be read.
        VerifierError: if the bound is not written for the network.
    """
    choice, budget = asked.choice, asked.budget
    check_inputs(asked.data, asked.ball)
    deployed = Deployed(asked.artifact, asked.arithmetic, choice.black_box)
    white_box, closed = _opened(asked.artifact, choice)
    if budget.only is not None:
        _check_bound(deployed, white_box, budget.only)
    notes = []
    if deployed.note:
        notes.append(f"nothing is proven, and verdicts hold for this runtime alone: {deployed.note}")
    if closed:
        notes.append(f"its network stays closed to gradients and to the search: {closed}")
    elif white_box is not None and white_box.unbounded:
        notes.append(f"auto_LiRPA has no bounds of its network, proofs are tried without: {white_box.unbounded}")
    guard = None if deployed.prover is None else guard_run(asked.artifact, asked.ball, len(asked.data))
    return BallVerifier(deployed, white_box, asked.ball, budget, guard), "; ".join(notes)


def check_inputs(data: DataSet, ball: Ball) -> None:
    """Raise unless data have the kind of images that a ball holds.

    Raises:
        ConfigError: if 8-bit images are asked for of data that are none.
    """
    if ball.inputs is Inputs.UINT8 and data.levels != LEVELS:
        raise ConfigError(f"expected 8-bit images with --inputs uint8, got {data.name} of {data.levels + 1} levels")


def _opened(artifact: Artifact, choice: NetworkChoice) -> tuple[WhiteBox | None, str]:
    if choice.black_box:
        return None, ""
    if choice.checkpoint is not None:
        return open_white_box(artifact, restore(choice.checkpoint)[0]), ""
    try:
        return open_white_box(artifact), ""
    except UnsupportedModelError as error:
        return None, str(error)


def _check_bound(deployed: Deployed, white_box: WhiteBox | None, only: BoundMethod) -> None:
    """Refuse a bound that cannot be computed before any image is."""
    if deployed.prover is None:
        why = f": {deployed.note}" if deployed.note else ""
        raise ConfigError(f"expected a graph that can be read with --bound, and no --black-box{why}")
    if only not in (BoundMethod.CROWN_LBP, BoundMethod.OPTIMISED):
        return
    if white_box is None:
        raise ConfigError(f"expected a network that can be opened with --bound {only}; leave --bound out")
    point = torch.zeros((1, *deployed.front.input_shape(deployed.image_shape)))
    white_box.bounder.margins(point, point, torch.zeros(1, dtype=torch.int64), only)
