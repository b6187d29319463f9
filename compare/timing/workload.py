"""What is timed of a method: steps of its real training, and the verification of its network."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.write import DEPLOY
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.forward import crown_lbp_margins
from abscert_plugin.claim import DECIDED_AT_ONCE, Claim, Radius, decided_at_once, validated
from abscert_plugin.data import DataSet, Split
from abscert_plugin.errors import ConfigError
from abscert_plugin.lirpa.training import CrownIbpMargins
from abscert_plugin.training.loop import SilentObserver, TrainingJob, load_weights, train
from abscert_plugin.training.run import RunSpec, TrainedRun, TrainingData, prepare_folder, run_training, write_run
from abscert_plugin.verification.cell import CellDecider
from abscert_plugin.verification.decision import Decider
from baselines.pixels import PixelBalls
from compare.plans.planned_run import Run
from compare.results.stored_run import TRAINING, State, stored_runs_of
from compare.running.defaults import ball_search, one_epoch, training_spec
from compare.timing.time_records import Kind, Setting, Subject

_VALIDATED: Final = 32  # the loop validates after its steps, which is not timed

Workload: TypeAlias = Callable[[], float]
"""Does a block of work and returns how many seconds it took."""
Images: TypeAlias = UInt8[Tensor, "batch channels height width"]
Margins: TypeAlias = Callable[[Images, Int64[Tensor, "batch"]], Float[Tensor, "batch *classes"]]


@final
@dataclass(frozen=True, slots=True)
class _Bound:
    """One bound for each image, that verifies a method's network as its paper does.

    Args:
        title: the bound in words.
        at_once: images that are bounded together.
        of: makes it for a method's network, at a radius on the pixel scale, for images of so many levels.
    """

    title: str
    at_once: int
    of: Callable[[TrainedRun, float, int], Margins]


def subject_of(run: Run) -> Subject:
    """Return what is timed of a run of a plan.

    Raises:
        ConfigError: if the method is unknown, or an option has no meaning.
    """
    spec = training_spec(run, None)
    of = validated(spec.method.claim, spec.method.describe())
    claim = of if of in DECIDED_AT_ONCE else None
    words = {"cell": "one forward pass of the ONNX file", "ball": _bound(run).title, None: ""}
    return Subject(run=run, batch_size=spec.training.batch_size, claim=claim, verified_by=words[claim])


def workloads(
    setting: Setting, subject: Subject, data: Mapping[Split, DataSet], results: Path, folder: Path
) -> Mapping[Kind, Workload]:
    """Return what is timed of a method, once it has trained one block: libraries are loaded and graphs traced then.

    Args:
        setting: how much there is of each.
        subject: the method.
        data: the splits.
        results: folder of the runs, whose trained networks a search takes.
        folder: where checkpoints and ONNX files go.

    Raises:
        AbscertError: if the method cannot train the network, or a search is asked for and there is no trained one.
    """
    spec = one_epoch(training_spec(subject.run, None))
    found: dict[Kind, Workload] = {}
    if setting.search_images:  # first, so that a missing network is seen at once
        test = data[Split.TEST].first(setting.search_images)
        at_once = decided_at_once(Claim.BALL, subject.run.timeout)
        found[Kind.SEARCH] = partial(_seconds_deciding, _searcher(subject.run, results, test), test, at_once)
    seen = TrainingData(
        training_images(data[Split.TRAIN], setting.steps * subject.batch_size),
        data[Split.VALIDATION].first(_VALIDATED),
    )
    prepare_folder(folder, resume=False)
    trained = run_training(spec, seen, folder, SilentObserver())
    found[Kind.TRAINING] = training_block(spec, seen, trained, folder)
    test = data[Split.TEST].first(setting.images)
    if subject.claim == "cell":
        artifact = _opened(write_run(trained, seen, folder).deploy)
        decider = CellDecider(artifact)
        found[Kind.VERIFICATION] = partial(_seconds_deciding, decider, test, DECIDED_AT_ONCE[Claim.CELL])
    elif subject.claim == "ball":
        bound = _bound(subject.run)
        margins = bound.of(trained, subject.run.trained_for.outward, test.levels)
        found[Kind.VERIFICATION] = partial(_seconds_bounding, margins, trained, test, bound.at_once)
    return MappingProxyType(found)


def training_images(data: DataSet, count: int) -> DataSet:
    """Return the first images of a split; it begins anew where it has fewer."""
    chosen = np.resize(np.arange(len(data)), count)
    return replace(data, labels=data.labels[chosen], index=data.index[chosen])


def training_block(spec: RunSpec, data: TrainingData, trained: TrainedRun, folder: Path) -> Workload:
    """Return a training over the whole schedule, in one epoch of as many steps as the data have batches.

    It is the loop itself, which tells how long its steps took. Every block trains the same network from the same
    weights on the same batches, so blocks differ by what the machine does alone; steps cost the same whatever the
    weights are.
    """
    job = TrainingJob(
        network=trained.network,
        objective=trained.objective,
        training=data.training,
        validation=data.validation,
        config=spec.training,
        device=trained.device,
        folder=folder,
        description=trained.checkpoint.description,
    )

    def seconds() -> float:
        load_weights(job.network, trained.checkpoint.best)
        return float(train(job, None, SilentObserver()).history[-1]["seconds"])

    return seconds


def _opened(path: Path) -> Artifact:
    return Artifact.open(path, Provider.AUTO, torch.get_num_threads())  # as many threads as training has


def _searcher(run: Run, results: Path, test: DataSet) -> Decider:
    (stored,) = stored_runs_of((run,), results)
    if stored.state is not State.DONE:
        raise ConfigError(
            f"expected the trained network of {run.title} in {results}: a search depends on the weights; "
            f"run the plan there first (`abscert compare run`), or leave --search-images out"
        )
    training = stored.folder / TRAINING
    return ball_search(run, _opened(training / DEPLOY), test, Radius.parse(run.certify[0], run.radius_scale))


def _seconds_deciding(decider: Decider, test: DataSet, at_once: int) -> float:
    start = time.perf_counter()
    for batch in test.batches(at_once):
        decider.decide(test.pixels(batch.images), batch.labels, batch.index)
    return time.perf_counter() - start


@torch.no_grad()
def _seconds_bounding(margins: Margins, trained: TrainedRun, test: DataSet, at_once: int) -> float:
    trained.network.eval()
    start = time.perf_counter()
    for batch in test.batches(at_once):
        images, labels = (torch.from_numpy(values).to(trained.device) for values in (batch.images, batch.labels))
        (margins(images, labels) > 0).cpu()  # waits for an accelerator
    return time.perf_counter() - start


def _of_validation(trained: TrainedRun, radius: float, levels: int) -> Margins:
    del radius, levels  # the objective has its own
    objective = trained.objective
    return lambda images, labels: objective.margins(trained.network, objective.encode(images), labels)


def _crown_ibp(trained: TrainedRun, radius: float, levels: int) -> Margins:
    channels, height, width = trained.config.image_shape
    example = torch.zeros(2, channels, height, width, device=trained.device)
    bounds, balls = CrownIbpMargins(trained.network, example, trained.config.classes), PixelBalls(levels)

    def margins(images: Images, labels: Int64[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        box = balls.box(images, radius)
        return bounds.lower(box.lower, box.upper, labels)

    return margins


def _crown_lbp(trained: TrainedRun, radius: float, levels: int) -> Margins:
    network, balls = trained.network, PixelBalls(levels)
    assert isinstance(network, nn.Sequential)  # else it could not have been trained

    def margins(images: Images, labels: Int64[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        box = balls.box(images, radius)
        return crown_lbp_margins(network, box.lower, box.upper, labels)

    return margins


def _bound(run: Run) -> _Bound:
    return _BOUNDS.get(run.method, _OWN)


_OWN: Final = _Bound("the bound that its epochs are validated by", 250, _of_validation)
_BOUNDS: Final[Mapping[str, _Bound]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("ibp", "adv-ibp", "sabr", "mtl-ibp", "taps", "staps", "reachable"),
            replace(_OWN, title="one pass of interval bounds"),
        ),
        "llm": replace(_OWN, title="CROWN-IBP with chosen slopes, two passes"),
        "crown-ibp": _Bound("one bound of CROWN-IBP", 100, _crown_ibp),
        # planes in all pixels for every neuron: more images at once take longer, for memory alone
        "lbp": _Bound("one bound of CROWN-LBP, an image at a time", 1, _crown_lbp),
    }
)
