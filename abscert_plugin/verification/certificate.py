"""Certificates: a run's verdicts in one file, with all that is needed to decide them anew."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import msgspec
import numpy as np

from abscert_plugin.ball import Ball
from abscert_plugin.claim import SCOPE, Claim, Inputs, Radius, RadiusScale, Verdict
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import read_array, read_text, write_json
from abscert_plugin.records import ROWS_LIMIT, Record, RunInfo
from abscert_plugin.verification.decision import ITSELF

SCHEMA: Final = 1
FLOATING_POINT: Final[Mapping[Claim, str]] = MappingProxyType(
    {
        Claim.CELL: (
            "The sign of the margin that the file gave on the interval image decides; that input is an exact float32 "
            "one. No floor is taken off: where a margin is as small as rounding, another provider or batch size may "
            "give it another sign."
        ),
        Claim.BALL: (
            "A margin within `floor` of 0 decides nothing: it is at least twice the largest difference of logits that "
            "was seen between batch sizes. Combinations of cells that were run are exact float32 inputs of the file "
            "itself. Bounds were computed in float32 without outward rounding; a share of each was taken off, and it "
            "had to exceed `bound_floor`, which adds twice the largest difference seen between the bounded network "
            "and onnxruntime. Both stand in `configuration`."
        ),
    }
)


@final
class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One verdict.

    Args:
        record: the row of records.jsonl.
        image: the stored counterexample's float32 values, little-endian, in base64; None where there is none.
    """

    record: Record
    image: str | None


@final
class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All verdicts of a run, and how they were reached.

    Args:
        claim: `cell` or `ball`.
        says: the claim in a sentence.
        floating_point: what rounding can do to it.
        configuration: every option that a verdict depends on, the radius exact and with its scale.
        model: name and sha256 of the ONNX file, its grid, network and training.
        data: name, split, count and sha256 of the images.
        versions, provider, device: what it was run on.
        rows: the verdicts.
        digest: sha256 of all else. It finds accidents and edits by hand; whoever can edit the file can write a new
            one, and then it is deciding the claims anew that finds them.
    """

    schema: int
    claim: str
    says: str
    floating_point: str
    configuration: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    provider: str
    device: str
    rows: tuple[Row, ...]
    digest: str

    @property
    def ball(self) -> Ball | None:
        """The ball of the claim; None for the claim `cell`.

        Raises:
            RecordError: if the radius, its scale or the kind of images has no meaning.
        """
        if self.claim == Claim.CELL:
            return None
        said = self.configuration
        try:
            radius = Radius.parse(str(said.get("radius")), RadiusScale(str(said.get("radius_scale"))))
            return Ball(radius, Inputs(str(said.get("inputs"))))
        except (ConfigError, ValueError) as error:
            raise RecordError(f"the certificate's radius, its scale or its inputs have no meaning: {error}") from error


def write_certificate(path: Path, folder: Path, records: list[Record], run: RunInfo) -> None:
    """Write the certificate of a finished run.

    Args:
        path: where it goes.
        folder: the run's, with its counterexamples.
        records: the run's rows.
        run: the run's facts.

    Raises:
        RecordError: if a counterexample cannot be read or the file cannot be written.
    """
    claim = Claim(run.configuration["claim"])
    rows = [{"record": msgspec.to_builtins(record), "image": _packed(folder, record)} for record in records]
    content = {
        "schema": SCHEMA,
        "claim": claim.value,
        "says": SCOPE[claim],
        "floating_point": FLOATING_POINT[claim],
        "configuration": dict(run.configuration),
        "model": dict(run.model or {}),
        "data": dict(run.data or {}),
        "versions": dict(run.versions),
        "provider": run.provider or "",
        "device": run.device,
        "rows": rows,
    }
    write_json(path, {**content, "digest": _digest(content)}, option="--certificate")


def read_certificate(path: Path) -> tuple[Certificate, bool]:
    """Return a certificate, and whether its digest is that of its content.

    Raises:
        RecordError: if it cannot be read, is no certificate, of another schema, or its rows contradict themselves.
    """
    value = _read_object(path)
    if value.get("schema") != SCHEMA:
        raise RecordError(f"expected a certificate of schema {SCHEMA} in {path}, got {value.get('schema')}")
    try:
        certificate = msgspec.convert(value, Certificate)
    except msgspec.ValidationError as error:
        fault = str(error).encode("ascii", "backslashreplace").decode()
        raise RecordError(f"{path} is not a certificate: {fault}") from error
    if certificate.claim not in list(Claim):
        raise RecordError(f"{path}: expected the claim {' or '.join(Claim)}, got {certificate.claim!r}")
    if not certificate.rows:
        raise RecordError(f"{path} is not a certificate: it has no verdict")
    certificate.ball  # noqa: B018 - raises where its radius has no meaning
    for row in certificate.rows:
        _check_row(row, certificate.claim, path)
    if len({row.record.index for row in certificate.rows}) < len(certificate.rows):
        raise RecordError(f"{path}: an image stands twice")
    return certificate, value["digest"] == _digest({key: item for key, item in value.items() if key != "digest"})


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; a key that stands twice and NaN are no JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return value

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        value = json.loads(read_text(path, ROWS_LIMIT), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # a half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:  # not JSON
        raise RecordError(f"{path} is not a certificate: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path} is not a certificate: expected a JSON object, got {type(value).__name__}")
    return value


def _check_row(row: Row, claim: str, path: Path) -> None:
    record = row.record
    if record.claim != claim or record.verdict not in list(Verdict):
        raise RecordError(f"{path}: image {record.index} has the claim {record.claim!r}, verdict {record.verdict!r}")
    if (record.verdict == Verdict.FALSIFIED) != (record.counterexample is not None):
        raise RecordError(f"{path}: image {record.index} is {record.verdict}, which its counterexample contradicts")
    if (row.image is not None) != (record.counterexample not in (None, ITSELF)):
        raise RecordError(f"{path}: image {record.index} names a counterexample that is not there")


def _packed(folder: Path, record: Record) -> str | None:
    if record.counterexample in (None, ITSELF):
        return None
    name = f"counterexamples/{record.index:08d}.npy"
    if record.counterexample != name:  # rows come from a file: no other path is opened
        raise RecordError(f"expected the counterexample of image {record.index} in {name}, got another name")
    values = read_array(folder / name)
    if values.dtype != np.float32:
        raise RecordError(f"expected float32 in {folder / name}, got {values.dtype}")
    values = values.astype("<f4")
    return base64.b64encode(values.tobytes()).decode("ascii")


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
