"""Checkpoints on disk: tensors in safetensors, everything else in one JSON file that is replaced last.

A checkpoint counts from the moment `checkpoint.json` names its tensor files, so a kill at any time leaves either the
former checkpoint or the new one, whole.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from abscert_plugin.errors import CheckpointError
from abscert_plugin.files import byte_limit, open_file, raise_limit, read_json, write_json, write_whole
from abscert_plugin.records import CHECKPOINT, differences
from abscert_plugin.wording import plain_words

_SCHEMA: Final = 1
_LIMIT: Final = 2**34  # bytes of a file of tensors, as of those of an ONNX file


@final
class _Epoch(msgspec.Struct, frozen=True):
    """What a row of the history must hold; a key more does no harm."""

    loss: float
    validation_error: float
    seconds: float


@final
class _Stored(msgspec.Struct, frozen=True):
    """What checkpoint.json must hold; a key more does no harm."""

    epoch: int
    best_epoch: int
    finished: bool
    state_file: str
    best_file: str
    description: dict[str, Any]
    history: list[dict[str, Any]]


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after an epoch.

    Args:
        epoch: epochs done.
        description: what was trained and how; a training is resumed only with an equal one.
        history: one row per epoch.
        state: weights and optimiser state after the epoch.
        best_epoch: the epoch with the least validation error.
        best: weights after that epoch.
        finished: whether the training has ended.
    """

    epoch: int
    description: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    state: Mapping[str, Tensor]
    best_epoch: int
    best: Mapping[str, Tensor]
    finished: bool


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, then remove the tensor files of earlier ones.

    Raises:
        CheckpointError: if a file cannot be written; the former checkpoint stays valid.
        RecordError: likewise, for checkpoint.json.
    """
    state, best = _file_names(checkpoint)
    _write_tensors(folder / state, checkpoint.state)
    if checkpoint.best_epoch == checkpoint.epoch or not (folder / best).exists():
        _write_tensors(folder / best, checkpoint.best)
    write_json(
        folder / CHECKPOINT,
        {
            "schema": _SCHEMA,
            "epoch": checkpoint.epoch,
            "best_epoch": checkpoint.best_epoch,
            "finished": checkpoint.finished,
            "state_file": state,
            "best_file": best,
            "description": checkpoint.description,
            "history": list(checkpoint.history),
        },
    )
    _remove_others(folder, {state, best})


def remove_leftovers(folder: Path, checkpoint: Checkpoint) -> None:
    """Remove tensor files that an interruption has left beside those of the folder's checkpoint."""
    _remove_others(folder, set(_file_names(checkpoint)))


def _file_names(checkpoint: Checkpoint) -> tuple[str, str]:
    return f"last-{checkpoint.epoch:04d}.safetensors", f"best-{checkpoint.best_epoch:04d}.safetensors"


def _remove_others(folder: Path, kept: set[str]) -> None:
    for pattern in ("last-*.safetensors", "best-*.safetensors", ".*.safetensors.part"):
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in a folder.

    Raises:
        CheckpointError: if there is none, or a file is missing or corrupt.
        RecordError: if checkpoint.json cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise CheckpointError(f"expected a training in {folder}, got no {CHECKPOINT} there; `abscert train` writes one")
    value = read_json(path)
    if value.get("schema") != _SCHEMA:
        raise CheckpointError(f"expected a checkpoint of schema {_SCHEMA} in {path}, got {value.get('schema')}")
    missing = [field for field in _Stored.__struct_fields__ if field not in value]
    if missing:
        raise CheckpointError(f"{path} lacks the key {missing[0]!r}; train again into another --out")
    try:
        stored = msgspec.convert(value, _Stored)
        epochs = len(msgspec.convert(stored.history, list[_Epoch]))
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint: {plain_words(error)}; train again into another --out"
        ) from error
    if not 1 <= stored.best_epoch <= stored.epoch == epochs:
        raise CheckpointError(
            f"{path} is not a checkpoint: its epoch is {stored.epoch}, the best one {stored.best_epoch}, and the "
            f"history has {epochs}; train again into another --out"
        )
    return Checkpoint(
        epoch=stored.epoch,
        description=stored.description,
        history=tuple(stored.history),
        state=_read_tensors(folder / Path(stored.state_file).name),
        best_epoch=stored.best_epoch,
        best=_read_tensors(folder / Path(stored.best_file).name),
        finished=stored.finished,
    )


def check_same(stored: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    """Raise unless a stored training and the one asked for are described alike.

    Raises:
        CheckpointError: naming the options that differ.
    """
    pairs = differences(stored, asked)
    if pairs:
        raise CheckpointError(f"{folder} holds another training ({pairs}); give its options or choose another --out")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # copies, since tensors that share memory (tied weights) are refused
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }

    def fill(part: Path) -> None:
        if part.exists():  # a killed process left it
            part.unlink()
        part.touch()
        mode = part.stat().st_mode  # that of every other file: safetensors writes for the owner alone
        try:
            safetensors.torch.save_file(copies, part)
        except SafetensorError as error:  # so a full disk is called here
            raise OSError(errno.EIO, "the file system refuses it; is the disk full?") from error
        part.chmod(mode)

    write_whole(path, fill, "the former checkpoint is kept", CheckpointError)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with open_file(path) as file:
            size, limit = os.fstat(file.fileno()).st_size, byte_limit(_LIMIT)
        if size > limit:
            raise CheckpointError(f"{path} holds {size:,} bytes; if it is to be trusted, {raise_limit()}")
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or corrupt; train again into another --out") from error
