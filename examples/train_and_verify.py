"""Train a network on the cells of handwritten digits, and verify the file that comes out, from Python.

    python examples/train_and_verify.py runs/example

The folder gets the training (checkpoint, history.jsonl, deploy.onnx) and the records of two verifications.
"""

import sys
from pathlib import Path

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.training.loop import SilentObserver
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.run import TrainingData, make_spec, prepare_folder, run_training, write_run
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.opening import BallQuestion, open_verifier
from abscert_plugin.verification.run import Verification
from abscert_plugin.verification.summary import summarise


def main(out: Path) -> None:
    # a network on two cells per pixel, trained so that it keeps its label on whole balls (pixel scale)
    method = METHODS.named("reachable").create(Radius.parse("0.05"), {})
    spec = make_spec("digits", None, None, "fc-3", "relu", Grid(2), "cpu", {"epochs": 8, "seed": 0}, method)
    data = TrainingData.load(spec)
    prepare_folder(out, resume=False)
    trained = run_training(spec, data, out, SilentObserver())
    deploy = write_run(trained, data, out).deploy
    print(f"validation error of epoch {trained.checkpoint.best_epoch}: {trained.validation_error:.2%}")

    # the claim cell of every test image: one forward pass of the ONNX file decides it
    artifact = Artifact.open(deploy, Provider.CPU)
    images = load_data("digits", Split.TEST)
    cells, _ = Verification(artifact, images).run(out / "verify-cell", lambda _: None)
    print(f"claim cell: {summarise(cells).certified} of {len(cells)} images certified")

    # the claim ball of the first 50: bounds, attacks and branch and bound, for a second an image
    ball, first = Ball(Radius.parse("0.02"), Inputs.FLOAT), images.first(50)
    verifier, note = open_verifier(BallQuestion(artifact, first, ball, Budget(seconds=1.0)))
    if note:
        print(f"the file is run alone: {note}")
    balls, _ = Verification(artifact, first, decider=verifier).run(out / "verify-ball", lambda _: None)
    print(f"claim ball, radius {ball.radius}: {summarise(balls).certified} of {len(balls)} images certified")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
