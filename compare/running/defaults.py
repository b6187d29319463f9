"""Default options of a run, the same for all methods: what a plan leaves open of training and verification."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Final

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.claim import Arithmetic, Radius
from abscert_plugin.data import DataSet
from abscert_plugin.grid import Grid
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.options import GRADIENT_CLIP, PATIENCE
from abscert_plugin.training.run import RunSpec, make_spec
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.opening import BallQuestion, NetworkChoice, open_verifier
from abscert_plugin.verification.solvers import open_solver
from compare.plans.planned_run import Run

_LARGEST_OPENED: Final = 3 * 64 * 64  # values of an image; bounds of a network of larger ones fill the memory


def training_spec(run: Run, data_dir: Path | None) -> RunSpec:
    """Return what a run trains.

    Raises:
        ConfigError: if the method is unknown, or an option has no meaning.
    """
    entry = METHODS.named(run.method)
    chosen = {
        "epochs": run.epochs,
        "batch_size": run.batch_size,
        "learning_rate": run.learning_rate,
        "patience": PATIENCE,
        "gradient_clip": GRADIENT_CLIP,
        "seed": run.seed,
    }
    grid = None if run.cells is None else Grid(run.cells)
    method = entry.create(run.trained_for, run.options)
    activation = run.activation or str(entry.activation)
    return make_spec(run.data, data_dir, run.image_size, run.network, activation, grid, "auto", chosen, method)


def one_epoch(spec: RunSpec) -> RunSpec:
    """Return the same training in one epoch."""
    return replace(spec, training=replace(spec.training, epochs=1))


def ball_search(run: Run, artifact: Artifact, images: DataSet, radius: Radius) -> Decider:
    """Return what decides the claim `ball` of a run's exported network: all steps of our verifier, or a solver.

    Args:
        run: the run.
        artifact: its deploy.onnx, in the folder of its training.
        images: the images that are to be decided.
        radius: of the balls.

    Raises:
        AbscertError: if the training cannot be read, or is not that of the file; or the solver cannot be opened.
    """
    ball = Ball(radius)
    budget = Budget(seconds=run.timeout)
    if run.solver is not None:
        return open_solver(run.solver, BallQuestion(artifact, images, ball, budget))[0]
    choice = network_choice(images.shape, artifact.path.parent)
    return open_verifier(BallQuestion(artifact, images, ball, budget, choice, run.arithmetic))[0]


def cell_decider(run: Run, artifact: Artifact) -> Decider:
    """Return what decides the claim `cell`: in any order of the sums, but where the run says, or images are large."""
    is_closed = math.prod(artifact.metadata.image_shape) > _LARGEST_OPENED
    return open_cells(artifact, Arithmetic.THIS_RUNTIME if is_closed else run.arithmetic)[0]


def network_choice(image_shape: tuple[int, ...], training: Path) -> NetworkChoice:
    """Return which network serves gradients and bounds: the training's own.

    A network of large images, such as those of ImageNet, is run and never opened: no gradients and no bounds.

    Args:
        image_shape: (channels, height, width).
        training: folder of the training.
    """
    is_closed = math.prod(image_shape) > _LARGEST_OPENED
    return NetworkChoice(is_closed, None if is_closed else training)
