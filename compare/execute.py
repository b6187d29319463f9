"""One run of a plan: train, export, verify. Everything lands in the run's own folder, and nothing is done twice."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from abscert_plugin.blackbox import Provider
from abscert_plugin.cli.ball import ball_decider
from abscert_plugin.cli.train import make_spec
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.radius import Radius
from abscert_plugin.records import write_json
from abscert_plugin.training.loop import Observer
from abscert_plugin.training.run import TrainingData, prepare_folder, run_training, write_run
from abscert_plugin.verification.run import Artifact, Verification
from baselines.table import method_entry
from compare.plan import Run, as_mapping
from compare.results import CONFIG, DONE, TRAINING

_CLIP: Final = 10.0  # greatest norm of a step's gradient, the same for every method
_EXHAUSTIVE: Final = 256
_BATCH: Final = {"cell": 250, "ball": 100}


def execute(
    run: Run, folder: Path, data_dir: Path | None, observer: Observer, on_images: Callable[[int], None]
) -> None:
    """Carry a run out, or go on with what its folder holds of it; `done.json` is written last.

    Args:
        run: the run.
        folder: its own folder.
        data_dir: where the data set's files are; `$ABSCERT_DATA` where None.
        observer: told of the training.
        on_images: told how many images have been decided since it was last told.

    Raises:
        AbscertError: if a step fails; what is written stays, and the same call goes on from there.
    """
    prepare_folder(folder, resume=True)
    write_json(folder / CONFIG, as_mapping(run))
    training = folder / TRAINING
    deploy = training / "deploy.onnx"
    radius = Radius.parse(run.radius, run.radius_scale)
    began = time.perf_counter()
    if not (training / "run.json").exists():  # written after the ONNX files
        entry = method_entry(run.method)
        chosen = {
            "epochs": run.epochs,
            "batch_size": run.batch_size,
            "learning_rate": run.learning_rate,
            "patience": 0,
            "gradient_clip": _CLIP,
            "seed": run.seed,
        }
        grid = None if run.cells is None else Grid(run.cells)
        how = entry.create(radius, run.options)
        activation = run.activation or str(entry.activation)
        spec = make_spec(run.data, data_dir, run.image_size, run.network, activation, grid, "auto", chosen, how)
        prepare_folder(training, resume=True)
        loaded = TrainingData.as_published(spec) if run.protocol == "paper" else TrainingData.load(spec)
        write_run(run_training(spec, loaded, training, observer), loaded, training)
    artifact = Artifact.open(deploy, Provider.AUTO)
    test = load_data(run.data, Split.TEST, data_dir, run.image_size).first(run.limit)
    for claim in run.claims:
        images = test.first(run.ball_limit) if claim == "ball" else test
        for text in run.certify if claim == "ball" else ("",):
            name = f"verify-{claim}" + (f"-{text.replace('/', '_')}" if text else "")
            _verify(run, artifact, images, claim, text, folder / name, on_images)
    write_json(folder / DONE, {"key": run.key, "seconds": time.perf_counter() - began})


def _verify(
    run: Run,
    artifact: Artifact,
    images: DataSet,
    claim: str,
    text: str,
    out: Path,
    on_images: Callable[[int], None],
) -> None:
    decider = None
    if claim == "ball":
        ball = Radius.parse(text, run.radius_scale)
        checkpoint = artifact.path.parent
        decider = ball_decider(artifact, images, ball, "float", run.timeout, _EXHAUSTIVE, False, checkpoint)
    Verification(artifact, images, _BATCH[claim], decider).run(out, on_images)
