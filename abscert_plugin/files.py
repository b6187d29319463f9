"""Files: written whole or not at all, read up to a limit; folders set aside, checksums, and locks."""

import errno
import gzip
import hashlib
import io
import json
import math
import os
import platform
import re
import time
import tokenize
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import msgspec
import numpy as np

from abscert_plugin.errors import AbscertError, RecordError
from abscert_plugin.wording import plain_words

LOCK: Final = ".lock"
LIMIT_VARIABLE: Final = "ABSCERT_MAX_BYTES"
TEXT_LIMIT: Final = 2**25
"""Bytes of a file of JSON or text: a plan, a history, what a run is about."""
ARRAY_LIMIT: Final = 2**28
"""Bytes of an array's file: a counterexample, of which ImageNet's have 602,112."""
_HALF_A_PAIR: Final = re.compile(r"\\u[dD][89a-fA-F]")  # or a whole one
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BLOCK: Final = 2**16  # bytes that are read at once
_LOOK_EVERY: Final = 0.5  # seconds between two tries for a lock
_ANOTHER_OUT: Final = "choose another --out"
_Kind = TypeVar("_Kind")


def write_whole(
    path: Path,
    fill: Callable[[Path], object],
    advice: str = _ANOTHER_OUT,
    error: type[AbscertError] = RecordError,
) -> None:
    """Write a file so that it is either the old one or the new one, whole, at any moment; its folder is made.

    Args:
        path: where it goes.
        fill: writes the content to the temporary path that it is given; may raise OSError.
        advice: what the error tells the user to change.
        error: what is raised where the file cannot be written.

    Raises:
        AbscertError: of the type `error`; nothing is left under the temporary name then.
    """
    if not path.name:  # `.`, or the root
        raise error(f"cannot write {path}: Is a directory; {advice}")
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(part)
        publish(part, path)
    except BaseException as fault:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(fault, OSError):
            raise error(f"cannot write {path}: {plain_words(fault)}; {advice}") from fault
        raise


def publish(part: Path, path: Path) -> None:
    """Give a finished file its name, after its content has reached the disk, so that a power cut leaves no empty file.

    Raises:
        OSError: if the disk is full or the name cannot be taken.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def write_text(
    path: Path, text: str, advice: str = _ANOTHER_OUT, error: type[AbscertError] = RecordError, errors: str = "strict"
) -> None:
    """Write text as UTF-8, whole or not at all.

    Args:
        path: where it goes.
        text: the content.
        advice: what the error tells the user to change.
        error: what is raised where the file cannot be written.
        errors: what becomes of what UTF-8 cannot hold, as of `str.encode`.

    Raises:
        AbscertError: of the type `error`, if it cannot be written.
    """
    content = text.encode("utf-8", errors)
    write_whole(path, lambda part: part.write_bytes(content), advice, error)


def write_json(path: Path, value: Mapping[str, Any], option: str = "--out") -> None:
    """Write a JSON object, whole or not at all.

    Args:
        path: where it goes.
        value: the object.
        option: the option that chose the path, for the error's advice.

    Raises:
        RecordError: if the file cannot be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_text(path, text, f"choose another {option}")


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy, whole or not at all.

    Raises:
        RecordError: if it cannot be written.
    """

    def fill(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, values, allow_pickle=False)

    write_whole(path, fill)


LYING_HEADERS: Final = (
    ValueError,
    EOFError,
    SyntaxError,
    TypeError,
    MemoryError,
    OverflowError,
    RecursionError,
    tokenize.TokenError,
)
"""What numpy raises for a .npy file that is cut short, or whose header does not mean what it should."""


def read_array(path: Path, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """Return an array of a .npy file; nothing is unpickled.

    Raises:
        RecordError: if it is missing, not such a file, or larger than a limit in bytes.
    """
    content = read_bytes(path, limit)
    try:
        values: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except LYING_HEADERS as error:
        raise RecordError(f"cannot read {path}: not an array") from error
    return values


def read_json(path: Path, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """Return the JSON object in a file; numbers with a point or an exponent are finite, and no key stands twice.

    Raises:
        RecordError: if it is missing, not a JSON object, or larger than a limit in bytes.
    """
    try:
        text = read_bytes(path, limit).decode("utf-8")
        value = json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique)
        if _HALF_A_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # not JSON, or a half of a surrogate pair, which is no text
        raise RecordError(f"{path} is not a JSON file: {plain_words(error)}") from error
    if not isinstance(value, dict):
        raise RecordError(f"expected a JSON object in {path}, got another value")
    return value


def converted(value: Any, kind: type[_Kind], fault: str) -> _Kind:
    """Return what a JSON file holds as a value of a type.

    Args:
        value: what `read_json` gives, or a part of it.
        kind: the type.
        fault: how the error begins, such as `proof.json is no unsat proof`.

    Raises:
        RecordError: if it is no such value.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise RecordError(f"{fault}: {plain_words(error)}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.20} is no number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def read_text(path: Path, limit: int = TEXT_LIMIT, error: type[AbscertError] = RecordError) -> str:
    """Return the text of a file.

    Raises:
        AbscertError: of the type `error`, if it is missing, not UTF-8, or larger than a limit in bytes.
    """
    try:
        return read_bytes(path, limit, error=error).decode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{path} is not a text file: {plain_words(fault)}") from fault


def read_bytes(
    path: Path, limit: int, advice: str = "", error: type[AbscertError] = RecordError, is_packed: bool = False
) -> bytes:
    """Return the content of a file, if it is not larger than a limit.

    Args:
        path: the file.
        limit: bytes, of what is returned; the environment variable ABSCERT_MAX_BYTES goes before it.
        advice: what the error tells the user to do with a file that cannot be read.
        error: what is raised.
        is_packed: whether it is to be unpacked by gzip.

    Raises:
        AbscertError: of the type `error`, if it cannot be read, is not the gzip file that it is to be, or is larger.
    """
    limit, read = byte_limit(limit), io.BytesIO()
    try:
        with open_file(path) as raw, gzip.open(raw) if is_packed else raw as file:
            while read.tell() <= limit and (block := file.read(_BLOCK)):
                read.write(block)
    except (OSError, EOFError, zlib.error) as fault:
        reason = getattr(fault, "strerror", None) or "not a gzip file"
        raise error("; ".join(filter(None, (f"cannot read {path}: {reason}", advice)))) from fault
    if read.tell() > limit:
        raise error(f"{path} holds more than {limit:,} bytes; if it is to be trusted, {raise_limit()}")
    return read.getvalue()


def open_file(path: Path) -> IO[bytes]:
    """Open a file to be read; a pipe or a device is refused, since reading one may wait for ever.

    Raises:
        OSError: if it cannot be opened, or is no file.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # what a folder is, the system says itself
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def read_packed(path: Path, limit: int, advice: str = "", error: type[AbscertError] = RecordError) -> bytes:
    """Return what `read_bytes` does, unpacked where the file's name ends in .gz or it starts as gzip files do."""
    is_packed = path.suffix == ".gz"
    with suppress(OSError), open_file(path) as file:  # where it cannot be opened, `read_bytes` says so
        is_packed = is_packed or file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return read_bytes(path, limit, advice, error, is_packed)


def byte_limit(default: int) -> int:
    """Return how many bytes a file may unpack to: `default`, or what the environment variable ABSCERT_MAX_BYTES says.

    Raises:
        RecordError: if that is not a whole number.
    """
    said = os.environ.get(LIMIT_VARIABLE)
    if said is None:
        return default
    if not (said.isascii() and said.isdigit() and len(said) < 19):
        raise RecordError(f"expected a whole number of bytes in ${LIMIT_VARIABLE}, got {said!r}")
    return int(said)


def raise_limit() -> str:
    """Return the advice of an error about a limit."""
    return f"set ${LIMIT_VARIABLE} to more bytes"


def sha256_of(paths: Iterable[Path]) -> str:
    """Return the sha256 checksum of a file; of several, that of theirs, so that no byte passes from one to the next.

    Raises:
        OSError: if one cannot be read.
    """
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        for block in blocks_of(path):
            digest.update(block)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def blocks_of(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, some at a time.

    Raises:
        OSError: if it cannot be read.
    """
    with open_file(path) as file:
        while block := file.read(_BLOCK):
            yield block


@contextmanager
def locked(path: Path, message: str, patience: float = 0.0, is_kept: bool = True) -> Iterator[None]:
    """Hold a file; it says which process holds it, and its time is the moment when that one took it.

    What holds: the operating system's lock on the open file (flock), so a process that ends lets go, however it ends.
    Linux carries it to the server of NFS (version 3 with a lock daemon, and version 4), so that it holds between
    nodes. It holds on each node alone where NFS is mounted with `nolock` or `local_lock=flock` or `all`, or Lustre
    with `localflock`. A node that loses its network for longer than the server's lease (90 seconds by default) loses
    the lock; its processes may still live. Without `fcntl` (Windows) nothing is held.

    Args:
        path: the file, in a folder that is there.
        message: the error's words where another process holds it; who does is added.
        patience: seconds to wait for another process to let go.
        is_kept: whether the file stays when it is let go of.

    Raises:
        RecordError: if another process holds it for longer, or the file system has no locks.
    """
    try:
        import fcntl  # POSIX alone has it
    except ModuleNotFoundError:
        yield
        return
    until = time.monotonic() + patience
    while True:
        try:
            file = path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror}; {_ANOTHER_OUT}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(file)
            file.close()
            if time.monotonic() >= until:
                raise RecordError(f"{message} (held by {holder})") from error
            time.sleep(_LOOK_EVERY)
        except OSError as error:
            file.close()
            raise RecordError(f"cannot lock {path}: {error.strerror}; choose another file system") from error
        else:
            if _is_at(file, path):
                break
            file.close()  # its holder has removed or renamed it between our two calls: what we hold guards nothing
    with file:
        _sign(file)
        try:
            yield
        finally:
            if not is_kept:
                _remove(file, path)


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _remove(file: IO[str], path: Path) -> None:
    """Remove a lock file that is held, unless it is another process's by now since the folder was renamed."""
    with suppress(OSError):
        if _is_at(file, path):
            path.unlink()


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    file.write(f"process {os.getpid()} of {platform.node()}\n")
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(1000).strip() or "an unknown process"
