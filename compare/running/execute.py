"""One run of a plan: train, export, verify. Everything lands in the run's own folder, and nothing is done twice."""

import time
from collections.abc import Callable
from pathlib import Path

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.write import DEPLOY
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import decided_at_once
from abscert_plugin.data import Split, load_data
from abscert_plugin.files import write_json
from abscert_plugin.records import RUN
from abscert_plugin.training.loop import Observer
from abscert_plugin.training.run import TrainingData, prepare_folder, run_training, write_run
from abscert_plugin.verification.run import Verification
from compare.plans.planned_run import Run, as_mapping
from compare.results.stored_run import CONFIG, DONE, TRAINING
from compare.running.defaults import ball_search, cell_decider, training_spec


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
    deploy = training / DEPLOY
    began = time.perf_counter()
    if not (training / RUN).exists():  # written after the ONNX files
        spec = training_spec(run, data_dir)
        prepare_folder(training, resume=True)
        loaded = TrainingData.as_published(spec) if run.protocol == "paper" else TrainingData.load(spec)
        write_run(run_training(spec, loaded, training, observer), loaded, training)
    artifact = Artifact.open(deploy, Provider.AUTO)
    test = load_data(run.data, Split.TEST, data_dir, run.image_size)
    for name, asked in run.questions.items():
        images = test.first(asked.limit)
        radius = asked.radius
        decider = cell_decider(run, artifact) if radius is None else ball_search(run, artifact, images, radius)
        at_once = decided_at_once(asked.claim, run.timeout)
        Verification(artifact, images, at_once, decider).run(folder / name, on_images)
    write_json(folder / DONE, {"key": run.key, "seconds": time.perf_counter() - began})
