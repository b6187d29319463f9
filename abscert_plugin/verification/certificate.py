"""Certificates: a run's verdicts in one file, with all that is needed to decide them anew, and their check."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np
from jaxtyping import Float32, Int64

from abscert_plugin.data import DataSet
from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record, RunInfo, read_array, read_json, write_json
from abscert_plugin.verification.decision import Decider
from abscert_plugin.verification.verdict import SCOPE, Claim, Verdict

SCHEMA: Final = 1
_ITSELF: Final = "itself"
_FLOATING_POINT: Final = (
    "A margin within `floor` of 0 decides nothing: it is at least twice the largest difference of logits that was seen "
    "between batch sizes. Combinations of cells that were run are exact float32 inputs of the file itself. Bounds were "
    "computed in float32 without outward rounding; a share of each was taken off, and it had to exceed `bound_floor`, "
    "which adds twice the largest difference seen between the bounded network and onnxruntime. Both stand in "
    "`configuration`."
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


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: what, whether it holds, and what was found."""

    name: str
    holds: bool
    detail: str


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
    rows = [
        {"record": msgspec.to_builtins(record), "image": _packed(folder, record.counterexample)} for record in records
    ]
    content = {
        "schema": SCHEMA,
        "claim": claim.value,
        "says": SCOPE[claim],
        "floating_point": _FLOATING_POINT,
        "configuration": dict(run.configuration),
        "model": dict(run.model or {}),
        "data": dict(run.data or {}),
        "versions": dict(run.versions),
        "provider": run.provider or "",
        "device": run.device,
        "rows": rows,
    }
    write_json(path, {**content, "digest": _digest(content)})


def read_certificate(path: Path) -> tuple[Certificate, bool]:
    """Return a certificate, and whether its digest is that of its content.

    Raises:
        RecordError: if it cannot be read, is no certificate, of another schema, or its rows contradict themselves.
    """
    value = read_json(path)
    if value.get("schema") != SCHEMA:
        raise RecordError(f"expected a certificate of schema {SCHEMA} in {path}, got {value.get('schema')}")
    try:
        certificate = msgspec.convert(value, Certificate)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path} is not a certificate: {error}") from error
    if certificate.claim not in list(Claim):
        raise RecordError(f"{path}: expected the claim {' or '.join(Claim)}, got {certificate.claim!r}")
    for row in certificate.rows:
        _check_row(row, certificate.claim, path)
    if len({row.record.index for row in certificate.rows}) < len(certificate.rows):
        raise RecordError(f"{path}: an image stands twice")
    return certificate, value["digest"] == _digest({key: item for key, item in value.items() if key != "digest"})


def check_certificate(
    certificate: Certificate,
    data: DataSet,
    decider: Decider,
    contains: Callable[[np.ndarray, np.ndarray], bool],
    margin: Callable[[Float32[np.ndarray, "channels height width"], int], float],
    floor: float,
    sample: int | None,
    seed: int,
    on_images: Callable[[int], None],
) -> Iterator[Check]:
    """Yield the checks of a certificate's verdicts, one by one.

    Args:
        certificate: what was claimed.
        data: the images.
        decider: decides the same claim on the same file.
        contains: whether an image lies in the ball around another one (the same cells, for the claim `cell`).
        margin: the label's margin on an image, by the deployed file.
        floor: what a margin must be below 0 by, to count as mislabelled.
        sample: how many certified images are decided anew; None decides all.
        seed: of the sample.
        on_images: told how many images have been decided since it was last told.
    """
    places = {int(index): position for position, index in enumerate(data.index)}
    missing = [row.record.index for row in certificate.rows if row.record.index not in places]
    yield Check("images are in the data set", not missing, f"{len(missing)} are not" if missing else "all")
    if missing:
        return
    labels = [data.labels[places[row.record.index]] == row.record.label for row in certificate.rows]
    yield Check("labels", all(labels), f"{labels.count(False)} differ" if not all(labels) else "all as in the data set")
    falsified = [row for row in certificate.rows if row.record.verdict == Verdict.FALSIFIED]
    yield Check(*_counterexamples(falsified, data, places, contains, margin, floor))
    certified = [row.record for row in certificate.rows if row.record.verdict == Verdict.CERTIFIED]
    if sample is not None and sample < len(certified):
        chosen = np.random.default_rng(seed).choice(len(certified), sample, replace=False)
        certified = [certified[place] for place in sorted(chosen.tolist())]
    yield _decided_anew(certified, data, places, decider, on_images)


def _counterexamples(
    rows: list[Row],
    data: DataSet,
    places: Mapping[int, int],
    contains: Callable[[np.ndarray, np.ndarray], bool],
    margin: Callable[[Float32[np.ndarray, "channels height width"], int], float],
    floor: float,
) -> tuple[str, bool, str]:
    name = "counterexamples, replayed through the file"
    for row in rows:
        record = row.record
        center = data.pixels(data.take(np.array([places[record.index]])).images)[0]
        image = center if row.image is None else _unpacked(row.image, center.shape)
        if image is None or not ((image >= 0) & (image <= 1)).all():
            return name, False, f"image {record.index}: its counterexample is not an image of shape {center.shape}"
        if not contains(center, image):
            return name, False, f"image {record.index}: its counterexample lies outside the ball"
        if not margin(image, record.label) < -floor:
            return name, False, f"image {record.index}: its counterexample gets the label after all"
    return name, True, f"all {len(rows)} are mislabelled images of their balls"


def _decided_anew(
    records: list[Record],
    data: DataSet,
    places: Mapping[int, int],
    decider: Decider,
    on_images: Callable[[int], None],
) -> Check:
    name = "certified images, decided anew"
    for start in range(0, len(records), 50):
        part = records[start : start + 50]
        positions: Int64[np.ndarray, "some"] = np.array([places[record.index] for record in part])
        batch = data.take(positions)
        for item in decider.decide(data.pixels(batch.images), batch.labels, batch.index):
            if item.record.verdict != Verdict.CERTIFIED:
                found = f"{item.record.verdict} ({item.record.reason})"
                return Check(name, False, f"image {item.record.index} is {found}")
        on_images(len(part))
    return Check(name, True, f"{len(records)} are certified again")


def _check_row(row: Row, claim: str, path: Path) -> None:
    record = row.record
    if record.claim != claim or record.verdict not in list(Verdict):
        raise RecordError(f"{path}: image {record.index} has the claim {record.claim!r}, verdict {record.verdict!r}")
    if (record.verdict == Verdict.FALSIFIED) != (record.counterexample is not None):
        raise RecordError(f"{path}: image {record.index} is {record.verdict}, which its counterexample contradicts")
    if (row.image is not None) != (record.counterexample not in (None, _ITSELF)):
        raise RecordError(f"{path}: image {record.index} names a counterexample that is not there")


def _packed(folder: Path, counterexample: str | None) -> str | None:
    if counterexample in (None, _ITSELF):
        return None
    values = read_array(folder / str(counterexample)).astype("<f4")
    return base64.b64encode(values.tobytes()).decode("ascii")


def _unpacked(text: str, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."] | None:
    """Return the image, or None where the text is not one of this shape."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    if len(content) != 4 * int(np.prod(shape)):
        return None
    return np.frombuffer(content, dtype="<f4").astype(np.float32).reshape(shape)


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
