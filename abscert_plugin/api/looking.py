"""A folder where a file is expected: the file in it that must be meant, and a line that says which it is."""

import glob
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

from abscert_plugin.artifact.model_file import model_sha256, read_model
from abscert_plugin.artifact.write import DEPLOY
from abscert_plugin.data.own import is_own_file
from abscert_plugin.errors import AbscertError, ConfigError
from abscert_plugin.files import read_json
from abscert_plugin.records import CHECKPOINT, RECORDS, rows_in

_OF_CERTIFICATES: Final = frozenset({"digest", "rows", "claim"})
_LISTED: Final = 5
Found: TypeAlias = tuple[Path, str]
"""A file, and a line that says that it was taken, to be said once no fault was found; empty where it was named."""


def model_in(path: Path) -> Found:
    """Return an ONNX file: the path itself, or of a folder its deploy.onnx, else the only one in or below it.

    Raises:
        ConfigError: if it is a folder without such a file, as that of a training that goes on, or with several.
    """
    if not path.is_dir():
        return path, ""
    usual = path / DEPLOY
    here = [usual] if usual.is_file() else list(path.glob("*.onnx"))
    if not here and (path / CHECKPOINT).is_file():
        raise ConfigError(
            f"the training in {path} has not ended: go on with `abscert train --resume`, "
            f"or write the best epoch's files by `abscert export {path}`"
        )
    return _taken(path, here or path.glob(f"*/{DEPLOY}"), f"{DEPLOY}, or one ONNX file")


def records_in(path: Path) -> Found:
    """Return a file of records: the path itself, or of a folder the one in it, else the only one in its folders.

    Raises:
        ConfigError: if it is a folder without records, or with those of several verifications below it; or data.
    """
    if not path.is_dir():
        if path.is_file() and is_own_file(path):
            raise ConfigError(
                f"expected records of a verification, got data, {path}; run `abscert verify MODEL --data {path}`"
            )
        return path, ""
    if (own := rows_in(path)) is not None:  # the folder is the run's own
        return own, ""
    return _taken(path, path.glob(f"*/{RECORDS}"), f"{RECORDS}, or one folder with it,")


def certificate_in(path: Path) -> Found:
    """Return a certificate: the path itself, or the only one in a folder.

    Raises:
        ConfigError: if it is a folder without a certificate, or with several.
    """
    if not path.is_dir():
        return path, ""
    return _taken(path, filter(_is_certificate, path.glob("*.json")), "one certificate")


def model_of(certificate: Path, facts: Mapping[str, Any]) -> Found:
    """Return the very file that a certificate is about, where it lies beside it, above it, or one folder below.

    Raises:
        ConfigError: if no file there has its name and checksum.
    """
    name = Path(str(facts.get("path", ""))).name
    near, literal = certificate.resolve().parent, glob.escape(name)
    below = (sorted(near.glob(f"{folders}/{literal}")) for folders in ("*", "*/*"))
    for place in (near / name, near.parent / name, *chain.from_iterable(below)):
        with suppress(AbscertError):
            if place.is_file() and model_sha256(place, read_model(place)) == facts.get("sha256"):
                return place, f"note: the model is {place}, as the certificate says"
    raise ConfigError(f"expected the file {name!r} that {certificate} is about; name it after the certificate")


def _is_certificate(path: Path) -> bool:
    with suppress(AbscertError):
        return read_json(path).keys() >= _OF_CERTIFICATES
    return False


def _taken(folder: Path, found: Iterable[Path], wanted: str) -> Found:
    """Return the only file that was found in a folder."""
    places = sorted(found)
    if len(places) == 1:
        return places[0], f"note: taking {places[0]}"
    if not places:
        raise ConfigError(f"expected {wanted} in the folder {folder}, found none; name the file")
    more = f" and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    listed = ", ".join(map(str, places[:_LISTED])) + more
    raise ConfigError(f"expected {wanted} in the folder {folder}, found {listed}; name one")
