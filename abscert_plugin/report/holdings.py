"""What is on record of a classifier: its file, training, verifications and guard, held against one another."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import GUARD, INTERVAL, Metadata, refuse_guard
from abscert_plugin.artifact.model_file import external_locations, model_sha256, read_model
from abscert_plugin.artifact.third_party import is_of_this_project
from abscert_plugin.artifact.write import DEPLOY
from abscert_plugin.ball import Ball
from abscert_plugin.claim import Arithmetic
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import TEXT_LIMIT, converted, read_bytes
from abscert_plugin.records import HISTORY, RUN, RunInfo
from abscert_plugin.report.verified import Verifications, Verified
from abscert_plugin.wording import plain_words

_GUARD_FILE: Final = "guard.onnx"
_TRAIN: Final = "train"


@final
@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ONNX file.

    Args:
        path: the file.
        sha256: its checksum, with that of the files that hold its tensors.
        beside: the files that hold its tensors, from its folder on.
    """

    path: Path
    sha256: str
    beside: tuple[str, ...]


@final
class Training(msgspec.Struct, frozen=True):
    """What run.json says of a training; a key more does no harm."""

    method: str
    method_options: dict[str, Any]
    claim: str
    data: str
    network: str
    activation: str
    cells: int | None
    training: dict[str, Any]
    chosen_on: str | None = None
    initial_epochs: int = 0


class _Model(msgspec.Struct, frozen=True):
    path: str
    best_epoch: int


class _Epoch(msgspec.Struct, frozen=True):
    epoch: int
    validation_error: float


@final
@dataclass(frozen=True, slots=True)
class RecordedTraining:
    """A training, by its records.

    Args:
        run: how it was made.
        told: what it says of its options.
        best_epoch: the epoch whose weights the file holds.
        validation_error: of that epoch under the training's claim, 0 to 1; None where no history is there.
    """

    run: RunInfo
    told: Training
    best_epoch: int
    validation_error: float | None


class _Radius(msgspec.Struct, frozen=True):
    radius: str
    radius_scale: str


class _GuardFacts(msgspec.Struct, frozen=True):
    version: str
    radii: tuple[_Radius, ...]
    inputs: str
    arithmetic: Arithmetic
    guards_sha256: str


@final
@dataclass(frozen=True, slots=True)
class GuardFile:
    """A guard, by its own metadata.

    Args:
        file: the ONNX file.
        version: of this project, which wrote it.
        balls: what its columns are about, in their order.
        arithmetic: what evaluations of the file `certified` holds for.
        outputs: names of its outputs.
    """

    file: OnnxFile
    version: str
    balls: tuple[Ball, ...]
    arithmetic: Arithmetic
    outputs: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Holdings:
    """All that is on record of a classifier.

    Args:
        model: its file.
        metadata: what that says of itself; None where this project did not make it.
        trained: its training; None where no record is there.
        verified: its verifications, by data set, claim and radius.
        guard: its guard; None where there is none.
        left_out: folders with verifications of other files, or set aside.
    """

    model: OnnxFile
    metadata: Metadata | None
    trained: RecordedTraining | None
    verified: tuple[Verified, ...]
    guard: GuardFile | None
    left_out: tuple[Path, ...] = ()


def read_holdings(
    run: Path, guard: Path | None = None, certificates: Sequence[Path] = (), folders: Sequence[Path] = ()
) -> Holdings:
    """Return what is on record of a classifier.

    Args:
        run: the folder of its training, which holds deploy.onnx, or the ONNX file itself; what lies in folders beside
            the file is looked through for verifications.
        guard: its guard; None takes guard.onnx beside the file, where there is one.
        certificates: of its verifications.
        folders: verifications that lie elsewhere.

    Raises:
        AbscertError: if something cannot be read, or contradicts the file: its checksum, its training or a verdict.
    """
    path = run / DEPLOY if run.is_dir() else run
    if run.is_dir() and not path.exists():
        raise ConfigError(f"expected {DEPLOY} in {run}: give the folder of a training, or an ONNX file itself")
    model = read_model(path)
    refuse_guard(model, path)
    file = OnnxFile(path, model_sha256(path, model), tuple(external_locations(model)))
    metadata = check_artifact(model, path) if is_of_this_project(model) else None
    if metadata is not None and model.graph.input[0].name == INTERVAL:
        raise ConfigError(f"{path} takes interval images, which no one deploys; give the {DEPLOY} beside it")
    verifications = Verifications(path, file.sha256)
    left_out = verifications.take_those_beside()
    verifications.take_folders(folders)
    verifications.take_certificates(certificates)
    usual = path.with_name(_GUARD_FILE)
    guard = usual if guard is None and usual.is_file() else guard
    return Holdings(
        file,
        metadata,
        _trained(path, metadata),
        verifications.all(),
        None if guard is None else _guard(guard, file),
        tuple(left_out),
    )


def _trained(path: Path, metadata: Metadata | None) -> RecordedTraining | None:
    """Return the training that lies beside a file, if it is the file's.

    Raises:
        RecordError: if it cannot be read, or is not the one that the file's metadata tell of.
    """
    place = path.with_name(RUN)
    if metadata is None or not place.is_file():
        return None
    run = RunInfo.read(place)
    if run.command != _TRAIN:
        return None
    fault = f"{place} does not say what was trained"
    told, model = converted(run.configuration, Training, fault), converted(run.model, _Model, fault)
    if model.path != path.name:
        return None
    expected = {
        "method": told.method,
        "claim": told.claim,
        "data": told.data,
        "best_epoch": model.best_epoch,
        "seed": told.training.get("seed"),
        "epochs": told.training.get("epochs"),
    }
    for key, value in expected.items():
        said = metadata.training_facts.get(key, str(value))
        if said != str(value):
            raise RecordError(f"{path} says that its training has {key} {said}, {place} says {value}; export it again")
    return RecordedTraining(run, told, model.best_epoch, _validation_error(path.with_name(HISTORY), model.best_epoch))


def _validation_error(path: Path, best_epoch: int) -> float | None:
    """Return the validation error of an epoch; None where there is no history.

    Raises:
        RecordError: if the history cannot be read, or has no such epoch.
    """
    if not path.is_file():
        return None
    try:
        rows = msgspec.json.Decoder(_Epoch).decode_lines(read_bytes(path, TEXT_LIMIT))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"{path} is not a training's history: {plain_words(error)}") from error
    found = [row.validation_error for row in rows if row.epoch == best_epoch]
    if len(found) != 1 or not 0 <= found[0] <= 1:
        raise RecordError(f"expected {path} to tell the validation error of epoch {best_epoch} once, from 0 to 1")
    return found[0]


def _guard(path: Path, guarded: OnnxFile) -> GuardFile:
    """Return a guard of a file.

    Raises:
        UnsupportedModelError: if it cannot be read.
        RecordError: if it is no guard, or that of another file.
    """
    model = read_model(path)
    told: Mapping[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    if GUARD not in told:
        raise RecordError(f"{path} is no guard: `abscert guard` writes one")
    try:
        facts = msgspec.convert(json.loads(told[GUARD]), _GuardFacts)
        balls = tuple(
            Ball.told({"radius": one.radius, "radius_scale": one.radius_scale, "inputs": facts.inputs})
            for one in facts.radii
        )
    except (ValueError, RecursionError, RecordError) as error:
        raise RecordError(f"{path} does not say what it certifies: {plain_words(error)}") from error
    if len({ball.radius.scale for ball in balls}) != 1:
        raise RecordError(f"expected radii of one scale in the metadata of {path}, got {facts.radii}")
    if facts.guards_sha256 != guarded.sha256:
        raise RecordError(
            f"{path} is the guard of another file than {guarded.path}: expected the checksum {guarded.sha256:.12}, "
            f"got {facts.guards_sha256:.12}; write the guard of this file anew"
        )
    file = OnnxFile(path, model_sha256(path, model), tuple(external_locations(model)))
    return GuardFile(file, facts.version, balls, facts.arithmetic, tuple(value.name for value in model.graph.output))
