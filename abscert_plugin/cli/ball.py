"""What decides the claim `ball`, as the options of `abscert verify` and `abscert check` ask for it."""

from pathlib import Path
from typing import TYPE_CHECKING

from abscert_plugin.artifact.metadata import Metadata, PlainMetadata
from abscert_plugin.choices import member
from abscert_plugin.claim import Radius
from abscert_plugin.cli.console import LOG
from abscert_plugin.data import DataSet
from abscert_plugin.errors import ConfigError, UnsupportedModelError
from abscert_plugin.verification.run import Artifact

if TYPE_CHECKING:
    from abscert_plugin.bounds.bounder import BoundMethod
    from abscert_plugin.lirpa.whitebox import WhiteBox
    from abscert_plugin.verification.ball import BallVerifier
    from abscert_plugin.verification.plain import PlainBallVerifier

_LEVELS = 255


def ball_decider(
    artifact: Artifact,
    data: DataSet,
    radius: Radius,
    inputs: str,
    timeout: float,
    exhaustive: int,
    black_box: bool,
    checkpoint: Path | None,
    bound: str | None = None,
) -> "BallVerifier | PlainBallVerifier":
    """Return the verifier of the claim `ball`; where the network cannot be opened, a line says so and why.

    Raises:
        ConfigError: if an option has no meaning, 8-bit images are asked for of data that are none, or a bound alone of
            a network that stays closed.
        UnsupportedModelError: if the file is not a deployed classifier, or not that of the checkpoint.
        CheckpointError: if the checkpoint cannot be read.
        VerifierError: if the bound is not written for the network.
    """
    # torch is imported here: deciding cells must start without it
    from abscert_plugin.bounds.bounder import BoundMethod
    from abscert_plugin.claim import Inputs
    from abscert_plugin.verification.ball import BallVerifier
    from abscert_plugin.verification.deployed import DeployedCells
    from abscert_plugin.verification.plain import PlainBallVerifier
    from abscert_plugin.verification.reach import Ball
    from abscert_plugin.verification.steps import Budget

    if black_box and checkpoint is not None:
        raise ConfigError("expected --black-box or --checkpoint, got both: one opens no network, the other does")
    kind = member(Inputs, "inputs", inputs)
    if kind is Inputs.UINT8 and data.levels != _LEVELS:
        raise ConfigError(f"expected 8-bit images with --inputs uint8, got {data.name} of {data.levels + 1} levels")
    only = None if bound is None else member(BoundMethod, "bound", bound)
    budget = Budget(seconds=timeout, exhaustive=exhaustive, only=only)
    metadata, ball = artifact.metadata, Ball(radius, kind)
    white_box = None if black_box else _white_box(artifact, checkpoint)
    if only is not None:
        _check_bound(white_box, metadata, only)
    if isinstance(metadata, Metadata):
        return BallVerifier(DeployedCells(artifact.classifier, metadata), white_box, ball, budget)
    return PlainBallVerifier(artifact.classifier, metadata, white_box, ball, budget)


def _check_bound(white_box: "WhiteBox | None", metadata: Metadata | PlainMetadata, only: "BoundMethod") -> None:
    """Refuse a bound that cannot be computed before any image is."""
    import torch

    from abscert_plugin.reading.network import input_shape

    if white_box is None:
        raise ConfigError("expected a network that can be opened with --bound; leave --bound out, or --black-box")
    point = torch.zeros((1, *input_shape(metadata)))
    white_box.bounder.margins(point, point, torch.zeros(1, dtype=torch.int64), only)


def _white_box(artifact: Artifact, checkpoint: Path | None) -> "WhiteBox | None":
    from abscert_plugin.artifact.metadata import read_model
    from abscert_plugin.lirpa.whitebox import open_white_box

    model = read_model(artifact.path)
    if checkpoint is not None:
        from abscert_plugin.training.run import restore

        return open_white_box(model, artifact.path, restore(checkpoint)[0])
    try:
        return open_white_box(model, artifact.path)
    except (ConfigError, UnsupportedModelError) as error:
        LOG.print(f"note: without gradients and bounds, running the file alone: {error}", highlight=False)
        return None
