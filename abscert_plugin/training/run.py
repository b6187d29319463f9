"""A training run in a folder: data, network and method put together, checkpoints, ONNX files, history, run.json."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from abscert_plugin.artifact.export import Exported, export
from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.choices import member
from abscert_plugin.claim import validated
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.draws import drawing_from
from abscert_plugin.errors import CheckpointError, ConfigError
from abscert_plugin.files import write_text
from abscert_plugin.folders import alone_in, try_to_write, writing_in
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig
from abscert_plugin.networks.shape import InputShape
from abscert_plugin.records import CHECKPOINT, HISTORY, RECORDS, RUN, RunInfo
from abscert_plugin.training.abstrain import ABSTRAIN
from abscert_plugin.training.checkpoint import Checkpoint, read_checkpoint
from abscert_plugin.training.config import Augmentation, Precision, TrainingConfig, default_config
from abscert_plugin.training.initial import INITIAL_EPOCHS, Initial
from abscert_plugin.training.loop import Observer, TrainingJob, load_weights, train
from abscert_plugin.training.machine import choose_device, describe_device, library_versions
from abscert_plugin.training.method import Method
from abscert_plugin.training.objective import Objective
from abscert_plugin.wording import plain_words

_PROBES: Final = 32


@final
@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to train.

    Args:
        data: name of the data set.
        data_dir: where its files are; `$ABSCERT_DATA` where None.
        image_size: side to resize the images of a folder to; None keeps them.
        network: name of the network.
        activation: its activation function.
        grid: the cells; None where the network takes the images themselves.
        training: options of the loop.
        device: `auto`, `cpu` or `cuda`.
        method: the training method.
        own: builds a network that is in no table, for the shape of its input; `network` is what it is called.
        initial: the weights that it begins with; those of the method and the seed where None.

    Raises:
        ConfigError: if there are cells and the method has no use for them, or the other way round.
    """

    data: str
    data_dir: Path | None
    image_size: int | None
    network: str
    activation: Activation
    grid: Grid | None
    training: TrainingConfig
    device: str = "auto"
    method: Method = ABSTRAIN
    own: Callable[[InputShape], nn.Module] | None = None
    initial: Initial | None = None

    def __post_init__(self) -> None:
        if self.method.takes_intervals != (self.grid is not None):
            raise ConfigError("expected cells exactly where the method's networks take interval images")
        described = self.method.describe()
        if "radius" in described and not isinstance(described.get("radius_scale"), str):
            raise ConfigError(
                "expected the method to describe its radius with a radius_scale, got a radius alone; a radius is "
                "always given with its scale"
            )


def make_spec(
    data: str,
    data_dir: Path | None,
    image_size: int | None,
    network: str,
    activation: str,
    grid: Grid | None,
    device: str,
    chosen: Mapping[str, Any],
    method: Method = ABSTRAIN,
    own: Callable[[InputShape], nn.Module] | None = None,
    is_convolutional: bool | None = None,
) -> RunSpec:
    """Return what to train: the data set's defaults with the options that were given.

    `own` builds a network that is in no table; `is_convolutional` says whether it has convolutions.

    Raises:
        ConfigError: if an option has no meaning.
    """
    named = {"augmentation": Augmentation, "precision": Precision}
    given = {key: value for key, value in chosen.items() if value is not None}
    for key, kind in named.items():
        if key in given:
            given[key] = member(kind, key, given[key])
    training = replace(default_config(data, network, is_convolutional), **given)
    return RunSpec(
        data=data,
        data_dir=data_dir,
        image_size=image_size,
        network=network,
        activation=member(Activation, "activation", activation),
        grid=grid,
        training=training,
        device=str(device),
        method=method,
        own=own,
    )


@final
@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a training sees.

    Args:
        training: what it learns from.
        validation: what its epoch is chosen on.
    """

    training: DataSet
    validation: DataSet

    @property
    def probes(self) -> Float32[np.ndarray, "probes channels height width"]:
        """The images that ONNX files are compared with torch on, on the pixel scale."""
        return self.validation.first(_PROBES).all_pixels()

    @classmethod
    def load(cls, spec: RunSpec) -> "TrainingData":
        """Read both splits.

        Raises:
            DataError: if a file is missing or corrupt.
        """
        return cls(
            load_data(spec.data, Split.TRAIN, spec.data_dir, spec.image_size),
            load_data(spec.data, Split.VALIDATION, spec.data_dir, spec.image_size),
        )

    @classmethod
    def as_published(cls, spec: RunSpec) -> "TrainingData":
        """Read what the code of the paper trains with: the whole training file, and the test file to choose the epoch.

        The test error of such a training is too good; checkpoint, run.json and ONNX files say so (`chosen_on=test`).

        Raises:
            DataError: if a file is missing or corrupt.
        """
        held_out = cls.load(spec)
        test = load_data(spec.data, Split.TEST, spec.data_dir, spec.image_size)
        return cls(held_out.training.joined(held_out.validation), test)


@final
@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished training: the last checkpoint, the network with its best weights, and the method it was trained by.

    The checkpoint has no state, since the best weights are put in its place, and the optimiser's is twice as large.
    """

    checkpoint: Checkpoint
    network: nn.Module
    config: NetworkConfig
    grid: Grid | None
    objective: Objective
    device: torch.device
    seconds: float

    @property
    def validation_error(self) -> float:
        """Validation error of the best epoch, 0 to 1."""
        return float(self.checkpoint.history[self.checkpoint.best_epoch - 1]["validation_error"])

    @property
    def validated(self) -> str:
        """What that error is of: the method's claim, or an attack (`claim.validated`)."""
        return validated(self.objective.claim, self.checkpoint.description["method_options"])


def prepare_folder(out: Path, resume: bool) -> None:
    """See that the files of a run can be written in a folder; it is made once there is something to write.

    Raises:
        CheckpointError: if a training is there already and it is not to be resumed.
        RecordError: if the folder cannot be written.
    """
    with writing_in(out):
        try_to_write(next(place for place in (out, *out.parents) if place.exists()))
    if (out / CHECKPOINT).exists() and not resume:
        raise CheckpointError(f"{out} already holds a training; add --resume to go on with it, or choose another --out")


def run_training(spec: RunSpec, data: TrainingData, out: Path, observer: Observer) -> TrainedRun:
    """Train in a folder, or go on with the training that is there.

    Raises:
        AbscertError: as `train`; or if an option has no meaning, another process trains in the folder, or it holds a
            run of another kind.
    """
    if not (out / CHECKPOINT).exists() and any((out / name).exists() for name in (RUN, RECORDS)):
        raise CheckpointError(f"{out} holds a run that is no training; choose another --out")
    device = choose_device(spec.device)
    shape, classes = data.training.shape, len(data.training.classes)
    config = NetworkConfig(spec.network, spec.activation, shape, classes, spec.method.takes_intervals, spec.own)
    objective = spec.method.build(spec.grid, data.training.levels, device)
    network = config.build(spec.training.seed)
    with drawing_from(spec.training.seed):
        spec.method.prepare(network)
    if spec.initial is not None:
        spec.initial.put_into(network)
    network = network.to(device)
    job = TrainingJob(
        network=network,
        objective=objective,
        training=data.training,
        validation=data.validation,
        config=spec.training,
        device=device,
        folder=out,
        description=_describe(spec, data, config, objective, network),
    )
    start = time.perf_counter()
    with alone_in(out):
        resumed = read_checkpoint(out) if (out / CHECKPOINT).exists() else None
        checkpoint = replace(train(job, resumed, observer), state={})
    load_weights(network, checkpoint.best)
    network.eval()
    return TrainedRun(checkpoint, network, config, spec.grid, objective, device, time.perf_counter() - start)


def write_run(run: TrainedRun, data: TrainingData, out: Path) -> Exported:
    """Write the ONNX files of the best epoch, history.jsonl and run.json.

    Raises:
        AbscertError: if a file cannot be written or the export is not true to the network.
    """
    exported = write_onnx(run.network, run.config, run.grid, run.checkpoint, data.probes, out)
    history = "".join(json.dumps(row) + "\n" for row in run.checkpoint.history)
    write_text(out / HISTORY, history)
    RunInfo(
        command="train",
        configuration=dict(run.checkpoint.description),
        versions=library_versions(),
        device=describe_device(run.device),
        provider=None,
        data={
            "name": data.training.name,
            "split": "train",
            "images": len(data.training),
            "sha256": data.training.sha256,
        },
        model={"path": exported.deploy.name, "best_epoch": run.checkpoint.best_epoch},
        seconds=sum(row["seconds"] for row in run.checkpoint.history),
    ).write(out / RUN)
    return exported


def write_onnx(
    network: nn.Module,
    config: NetworkConfig,
    grid: Grid | None,
    checkpoint: Checkpoint,
    probes: Float32[np.ndarray, "probes channels height width"],
    folder: Path,
) -> Exported:
    """Write the ONNX files of a network, with or without cells, checked on `probes` (pixel scale).

    Raises:
        AbscertError: as `export`.
    """
    note = training_note(checkpoint)
    if grid is None:
        return export_plain(network, config, note, probes, folder)
    return export(network, config, grid, note, probes, folder)


def training_note(checkpoint: Checkpoint) -> str:
    """Return what an ONNX file's metadata say of its training."""
    options = checkpoint.description["training"]
    method = checkpoint.description["method_options"]
    facts = {
        "method": checkpoint.description["method"],
        "claim": checkpoint.description["claim"],
        "radius": f"{method['radius']} ({method['radius_scale']} scale)" if "radius" in method else "none",
        "seed": options["seed"],
        "epochs": options["epochs"],
        "best_epoch": checkpoint.best_epoch,
        **({INITIAL_EPOCHS: earlier} if (earlier := checkpoint.description.get(INITIAL_EPOCHS)) else {}),
        "data": checkpoint.description["data"],
        **({"chosen_on": checkpoint.description["chosen_on"]} if "chosen_on" in checkpoint.description else {}),
    }
    return ";".join(f"{key}={value}" for key, value in facts.items())


@final
class _Network(msgspec.Struct, frozen=True):
    """What a checkpoint's description must say of its network and its training; a key more does no harm."""

    method: str
    method_options: dict[str, Any]
    claim: str
    data: str
    training: dict[str, Any]
    network: str
    activation: Activation
    image_shape: tuple[int, int, int]
    classes: int
    cells: int | None
    edges: tuple[int, ...] | None


def restore(out: Path) -> tuple[nn.Module, NetworkConfig, Grid | None, Checkpoint]:
    """Return the network of a run's best epoch, how it was built, its grid (None: no cells), and the checkpoint.

    Raises:
        CheckpointError: if the folder holds no training, or a corrupt one.
    """
    checkpoint = read_checkpoint(out)
    if checkpoint.description.get("activation", "") is None:
        raise CheckpointError(
            f"{out} holds the weights of {checkpoint.description.get('network')}, a network that is in no table: only "
            "the code that built it can build it again; its ONNX files are whole"
        )
    try:
        said = msgspec.convert(checkpoint.description, _Network)
        grid = None if said.cells is None else Grid(said.cells, said.edges)
        config = NetworkConfig(said.network, said.activation, said.image_shape, said.classes, grid is not None)
        training_note(checkpoint)  # what an export of it says
        with suppress(RuntimeError):  # of a registered network that needs its weights' values
            load_weights(config.empty(), checkpoint.best, assign=True)  # a file may say any size: no memory for it yet
        network = config.build(seed=0)
    except (KeyError, ValueError, TypeError, RuntimeError, msgspec.ValidationError) as error:  # torch's, of sizes
        fault = plain_words(error)
        raise CheckpointError(f"the checkpoint in {out} does not say which network it holds: {fault}") from error
    load_weights(network, checkpoint.best)
    return network.eval(), config, grid, checkpoint


def _describe(
    spec: RunSpec, data: TrainingData, config: NetworkConfig, objective: Objective, network: nn.Module
) -> Mapping[str, Any]:
    return {
        "method": objective.name,
        "method_options": dict(spec.method.describe()),
        "claim": objective.claim,
        "data": spec.data,
        "data_sha256": data.training.sha256,
        "validation_sha256": data.validation.sha256,
        **({"chosen_on": str(Split.TEST)} if data.validation.split is Split.TEST else {}),
        "network": config.name,
        "activation": str(config.activation) if config.own is None else None,
        "cells": spec.grid.cells if spec.grid is not None else None,
        "edges": list(spec.grid.inner) if spec.grid is not None and spec.grid.inner is not None else None,  # of 2^-24
        "image_shape": list(config.image_shape),
        "classes": config.classes,
        "training": spec.training.describe(),
        **({} if spec.initial is None else spec.initial.describe(network)),
    }
