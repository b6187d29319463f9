"""Reading the pickled batches of CIFAR-10 without running anything that the file names.

A pickle is a program. Here each global that numpy's arrays need is answered with an inert stand-in that only keeps
what it is given, every other global is refused, and the stand-ins have no attributes that a file could overwrite.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
from jaxtyping import UInt8

from abscert_plugin.errors import DataError
from abscert_plugin.files import read_bytes

_LIMIT: Final = 2**28  # bytes of a file: eight times a batch of CIFAR-10
_UINT8_CODES: Final = ("u1", b"u1", "|u1", b"|u1")
_NDARRAY: Final = "numpy.ndarray"  # a plain string: _reconstruct's first argument, never used as a class
_RESERVING_OPCODES: Final = ("FRAME", "LONG_BINPUT", "PUT")  # pickletools checks the lengths of all others
# What the unpickler itself raises on a file that is no valid program for it.
_BROKEN_PICKLE: Final = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


@final
class InertArray:
    """The raw bytes of a pickled numpy array, before they are checked."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: object = None

    def __setstate__(self, state: object) -> None:
        self._state = state

    def rows(self, width: int, path: Path) -> UInt8[np.ndarray, "rows width"]:
        """Return the bytes as rows of `width` values.

        Raises:
            DataError: if the array is not of uint8, not [n, width] with n >= 1, or has another number of bytes.
        """
        match self._state:
            case (int(), (int(count), int(row_width)), InertDtype() as dtype, False | 0, bytes(raw)):
                if dtype.is_uint8 and row_width == width and count > 0 and len(raw) == count * width:
                    return np.frombuffer(raw, np.uint8).reshape(count, width)
        raise DataError(f"expected an array of uint8 with shape [n, {width}] in {path}, got another array")


@final
class InertDtype:
    """The name of a pickled numpy dtype; what else its state says changes nothing for single bytes."""

    __slots__ = ("_code",)

    def __init__(self, code: object) -> None:
        self._code = code

    def __setstate__(self, state: object) -> None:
        """Take the byte order and flags, which single bytes do not have."""

    @property
    def is_uint8(self) -> bool:
        """Whether the dtype is an unsigned byte."""
        return self._code in _UINT8_CODES


@final
class _Reconstruct:
    """Stands for numpy's `_reconstruct`."""

    __slots__ = ()

    def __call__(self, *_: object) -> InertArray:
        return InertArray()


@final
class _MakeDtype:
    """Stands for `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: object, *_: object) -> InertDtype:
        return InertDtype(code)


@final
class _EncodeLatin1:
    """Stands for `_codecs.encode`, with which Python 3 spells bytes in a pickle for Python 2."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if not (isinstance(text, str) and encoding in ("latin1", b"latin1")):
            raise pickle.UnpicklingError("bytes that are not spelled in latin1")
        return text.encode("latin1")


_STAND_INS: Final[Mapping[tuple[str, str], object]] = MappingProxyType(
    {
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _MakeDtype(),
        ("_codecs", "encode"): _EncodeLatin1(),
    }
)


@final
class _UnknownGlobalError(Exception):
    """A file that asks for something that plain arrays do not need."""


@final
class _InertUnpickler(pickle.Unpickler):
    """An unpickler that knows the stand-ins and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise _UnknownGlobalError(f"{module_name}.{global_name}")
        return stand_in


def read_inert_pickle(path: Path) -> dict[str, object]:
    """Return the dict of a pickle file with its keys as str; arrays are `InertArray`, nothing in the file is run.

    Args:
        path: a file written by Python 2 or 3, with keys of str or bytes.

    Raises:
        DataError: if the file asks for any other global than numpy's arrays need, is corrupt, too large, or no dict.
    """
    try:
        raw = read_bytes(path, _LIMIT, "unpack the archive again", DataError)
        _check_lengths(raw)
        content = _InertUnpickler(io.BytesIO(raw), encoding="bytes").load()
    except _UnknownGlobalError as error:
        raise DataError(
            f"expected a pickle of plain numpy arrays, got one that asks for {error.args[0]!r} in {path}; nothing of "
            "it was run, use a trusted copy"
        ) from error
    except _BROKEN_PICKLE as error:
        raise DataError(f"expected a readable pickle, got {error!r} in {path}; unpack the archive again") from error
    if not isinstance(content, dict):
        raise DataError(f"expected a dict in {path}, got {type(content).__name__}; unpack the archive again")
    return {_text(key): value for key, value in content.items()}


def _check_lengths(raw: bytes) -> None:
    """Raise unless every length and memo place of the pickle is within the file's size.

    The unpickler reserves what a length or place says, so one damaged byte may cost 64 GiB of memory.

    Raises:
        UnpicklingError: if one is not, or ValueError where the opcodes cannot be read.
    """
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in _RESERVING_OPCODES and isinstance(argument, int) and argument > len(raw):
            raise pickle.UnpicklingError(f"{opcode.name} {argument} in a file of {len(raw)} bytes")


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
