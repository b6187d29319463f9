"""Writing ONNX files whole or not at all: to a temporary folder, checked there, then renamed."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import onnx
from google.protobuf.message import EncodeError, Message

from abscert_plugin.errors import ExportError
from abscert_plugin.files import publish
from abscert_plugin.wording import plain_words

ABSTRACT: Final = "abstract.onnx"
DEPLOY: Final = "deploy.onnx"
EMBED_LIMIT: Final = 2**31 - 2**26  # protobuf's 2 GiB, less room for the graph itself
_ALIGNMENT: Final = 4096  # so that a backend can map each tensor into memory
_SMALL: Final = 4096  # tensors that stay in the file: the tables of phi, which are compared to the byte, are smaller

_log = logging.getLogger(__name__)
_Seen = TypeVar("_Seen")


def write_checked(
    models: Mapping[str, onnx.ModelProto],
    folder: Path,
    check: Callable[[Mapping[str, Path]], _Seen],
    embed_limit: int = EMBED_LIMIT,
) -> _Seen:
    """Write `models` into `folder`, all of them or none, and return what `check` does.

    They are saved in a temporary folder inside `folder`, checked by `onnx.checker` and by `check`, then renamed.
    Files of the same names are replaced.

    Args:
        models: file name, such as "deploy.onnx", to model; models with all their tensors in memory.
        folder: where the files go; made if it is not there.
        check: gets file name to temporary path; raises if a file is not what it should be.
        embed_limit: bytes of tensors from which they go into `<file name>.data` beside the file.

    Raises:
        ExportError: if the folder cannot be written, or a file is not valid ONNX; or what `check` raises.
    """
    for name in models:
        if (folder / name).is_dir():
            raise ExportError(f"expected to write the file {folder / name}, but a folder of this name is there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".abscert-", dir=folder, ignore_cleanup_errors=True) as scratch:
            saved = {name: save_model(model, Path(scratch) / name, embed_limit) for name, model in models.items()}
            for path in saved.values():
                _check_onnx(path)
            seen = check(saved)
            for path in saved.values():
                _publish(path, folder)
            return seen
    except OSError as error:
        raise ExportError(
            f"cannot write into {folder}: {plain_words(error)}; free space there or choose another folder"
        ) from error


def save_model(model: onnx.ModelProto, path: Path, embed_limit: int = EMBED_LIMIT) -> Path:
    """Write one model, its tensors beside it in `<file name>.data` if they reach `embed_limit` bytes; return `path`.

    Raises:
        ExportError: if the model is too large for one file and its tensors cannot be moved out of it.
        OSError: if the file cannot be written.
    """
    try:
        if sum(map(_byte_count, model.graph.initializer)) >= embed_limit:
            model = _with_external_data(model, data_path(path))
        path.write_bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:  # which of them depends on protobuf's implementation
        raise ExportError(f"{path.name} would pass 2 GiB, protobuf's limit; store its constants as weights") from error
    return path


def data_path(path: Path) -> Path:
    """Return where the tensors of a large model go."""
    return path.with_name(path.name + ".data")


def _with_external_data(model: onnx.ModelProto, target: Path) -> onnx.ModelProto:
    """Return a copy of the model whose large raw tensors lie in the file `target`, and are in memory but once."""
    moved = onnx.ModelProto()
    _copy(model, moved, "graph")
    _copy(model.graph, moved.graph, "initializer")
    with target.open("wb") as file:
        for tensor in model.graph.initializer:
            copy = moved.graph.initializer.add()
            values = tensor.raw_data
            if len(values) < _SMALL:
                copy.CopyFrom(tensor)
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            copy.name, copy.data_type, copy.doc_string = tensor.name, tensor.data_type, tensor.doc_string
            copy.dims.extend(tensor.dims)
            copy.raw_data = b""  # what is not raw cannot be external
            onnx.external_data_helper.set_external_data(copy, target.name, file.tell(), len(values))
            copy.ClearField("raw_data")
            file.write(values)
    return moved


def _copy(source: Message, target: Message, left_out: str) -> None:
    """Copy all fields of a message but one."""
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).MergeFrom(value)


def _byte_count(tensor: onnx.TensorProto) -> int:
    """Return how large a tensor is; protobuf itself does not tell where it is over 2 GiB."""
    return len(tensor.raw_data) if tensor.HasField("raw_data") else tensor.ByteSize()


def _check_onnx(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"{path.name} would not be valid ONNX: {reason}") from error


def _publish(path: Path, folder: Path) -> None:
    """Rename a checked file, and its data if it has any, into `folder`."""
    target, data = folder / path.name, data_path(path)
    if data.exists():
        target.unlink(missing_ok=True)  # never an old graph beside new weights, even if we are killed here
        publish(data, folder / data.name)
    publish(path, target)
    _log.info("wrote %s", target)
