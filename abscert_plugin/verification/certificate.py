"""Certificates: a run's verdicts in one file, with all that is needed to decide them anew."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, final

import msgspec
import numpy as np

from abscert_plugin.ball import Ball
from abscert_plugin.claim import PROVABLE, Arithmetic, Claim, Inputs, Verdict, scope
from abscert_plugin.data import Batch, DataSet
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import converted, read_array, read_json, write_json
from abscert_plugin.front import Images
from abscert_plugin.records import CHECKPOINT, RECORDS, ROWS_LIMIT, RUN, Record, RunInfo, digest_of
from abscert_plugin.verification.decision import ITSELF, counterexample_name
from abscert_plugin.verification.evidence import Evidence, evidence_name, read_evidence

SCHEMA: Final = 4
UNPROVEN_HERE: Final = "for real numbers, which this certificate does not prove"
"""How the reason ends of a row that another solver alone certifies: it is `unknown` here."""

_AT_ONCE: Final = 50  # images in memory
_ANY_ORDER: Final = (
    "`any-order`: every evaluation of the file's graph in binary32, rounded to nearest, with sums of products in any "
    "order and any parentheses, with or without fused multiply-add, subnormal numbers kept or flushed to zero, affine "
    "nodes folded into their neighbours or not. Not covered: nodes of float32 in less (TF32, bfloat16), convolutions "
    "by Winograd or FFT, faulty hardware. Assumed: sigmoid and tanh are within twice the largest error that was seen "
    "over all float32 arguments, and a value that a nonlinear node reads is computed once. `this-runtime`: the "
    "runtime, provider and machine that ran the file; a margin within `floor` of 0 decides nothing there."
)
_MORE: Final = (
    "So are exp, log, erf, sine, cosine, tangent and powers. Integer kernels in place of QuantizeLinear and "
    "DequantizeLinear are not covered. At a point, the margin that onnxruntime's CPU provider saw may prove all "
    "others: its sums are taken to be sums of products in binary32."
)
_NARROW: Final = (
    "Nodes of the file that are float16 themselves are covered: computed in float16 or in float32, what they give "
    "rounded to float16 or, for a node that reads it in float32, not. `any-order` covers sums held in float16 too; "
    "`wide-sums` is the same but for these: its sums are held in float32."
)
FLOATING_POINT: Final[Mapping[int, Mapping[Claim, str]]] = MappingProxyType(
    {
        1: {
            Claim.CELL: (
                "The sign of the margin that the file gave on the interval image decides; that input is an exact "
                "float32 one. No floor is taken off: where a margin is as small as rounding, another provider or "
                "batch size may give it another sign."
            ),
            Claim.BALL: (
                "A margin within `floor` of 0 decides nothing: it is at least twice the largest difference of "
                "logits that was seen between batch sizes. Combinations of cells that were run are exact float32 "
                "inputs of the file itself. Bounds were computed in float32 without outward rounding; a share of "
                "each was taken off, and it had to exceed `bound_floor`, which adds twice the largest difference "
                "seen between the bounded network and onnxruntime. Both stand in `configuration`."
            ),
        },
        2: dict.fromkeys(Claim, f"Each verdict names its arithmetic. {_ANY_ORDER}"),
        3: dict.fromkeys(Claim, f"Each verdict names its arithmetic. {_ANY_ORDER} {_MORE}"),
        4: dict.fromkeys(Claim, f"Each verdict names its arithmetic. {_ANY_ORDER} {_MORE} {_NARROW}"),
    }
)
"""What rounding can do to verdicts, by the schema of the certificate. Those of schema 1 were not proven."""


@final
class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One verdict.

    Args:
        record: the row of records.jsonl.
        image: the stored counterexample's float32 values, little-endian, in base64; None where there is none.
        evidence: what proves it besides its method's name; None where that suffices, or it was too long to keep.
    """

    record: Record
    image: str | None
    evidence: Evidence | None = None


@final
class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All verdicts of a run, and how they were reached.

    Args:
        claim: `cell` or `ball`.
        says: the claim in a sentence.
        floating_point: what evaluations of the file its verdicts are about.
        configuration: every option that a verdict depends on, the radius exact and with its scale.
        model: name and sha256 of the ONNX file, its grid, network and training.
        data: name, split, count and sha256 of the images, and since schema 2 that of their pixels, row by row.
        versions, provider, device: what it was run on.
        rows: the verdicts.
        digest: sha256 of all else. It finds accidents and edits by hand; whoever can edit the file can write a new
            one, and then it is proving the rows again that finds them. What no check can know, and no one should rely
            on, is what the time, the device and the versions of libraries were, and that `unknown` is no `falsified`.
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
    def arithmetic(self) -> Arithmetic | None:
        """What its verdicts were asked to hold for; None where nothing was proven, as in schema 1.

        Raises:
            RecordError: if it has no meaning.
        """
        if self.schema == 1:
            return None
        told = self.configuration.get("arithmetic")
        if told not in (*PROVABLE, Arithmetic.THIS_RUNTIME):
            raise RecordError(f"expected a certificate of any order or of this runtime, got {told!r}")
        return Arithmetic(str(told))

    @property
    def ball(self) -> Ball | None:
        """The ball of the claim; None for the claim `cell`.

        Raises:
            RecordError: if the radius, its scale or the kind of images has no meaning.
        """
        return None if self.claim == Claim.CELL else Ball.told(self.configuration)


def sentence(claim: Claim, configuration: Mapping[str, Any]) -> str:
    """Return the claim in a sentence, with what it asks of those who run the file."""
    alone = " The file is run on one image at a time: its graph does not show that the images of a batch stay apart."
    return scope(claim, configuration.get("inputs")) + (alone if configuration.get("one_by_one") else "")


def former_sentence(claim: Claim, configuration: Mapping[str, Any]) -> str:
    """Return the sentence of earlier versions, which did not say that a ball is one of 8-bit images alone."""
    return sentence(claim, {**configuration, "inputs": Inputs.FLOAT})


def batches_of(records: Sequence[Record], data: DataSet) -> Iterator[tuple[Sequence[Record], Batch, Images]]:
    """Yield rows, few at a time, with their images of a data set, and these on the pixel scale."""
    places = data.places
    for start in range(0, len(records), _AT_ONCE):
        part = records[start : start + _AT_ONCE]
        batch = data.take(np.array([places[record.index] for record in part]))
        yield part, batch, data.pixels(batch.images)


def pixels_sha256(images: Iterable[Images]) -> str:
    """Return the checksum of images on the pixel scale, in their order: what data sets of files do not tell."""
    digest = hashlib.sha256()
    for batch in images:
        digest.update(np.ascontiguousarray(batch, dtype="<f4").tobytes())
    return digest.hexdigest()


def refuse_replacing(path: Path) -> None:
    """Refuse a name for a certificate that a file of a run has, or a file that is none.

    Raises:
        ConfigError: if it is one.
    """
    if path.name in (RECORDS, RUN, CHECKPOINT):
        raise ConfigError(f"expected --certificate beside the files of a run, got {path}")
    if path.is_file():
        try:
            found = set(read_json(path, ROWS_LIMIT))
        except RecordError:
            found = set()
        if not found >= {"schema", "rows", "digest"}:
            raise ConfigError(
                f"{path} is there and is no certificate, so it is not replaced; choose another --certificate"
            )


def write_certificate(path: Path, folder: Path, records: list[Record], run: RunInfo, data: DataSet) -> None:
    """Write the certificate of a finished run.

    Args:
        path: where it goes.
        folder: the run's, with its counterexamples.
        records: the run's rows.
        run: the run's facts.
        data: the images that it was about.

    Raises:
        RecordError: if a counterexample cannot be read, the file cannot be written, or a certificate of the same rows
            is there that is about other pixels.
        ConfigError: if a file of that name is there that is no certificate.
    """
    refuse_replacing(path)
    claim = Claim(run.configuration["claim"])
    rows = [
        Row(record, _packed(folder, record), read_evidence(folder / evidence_name(record.index)))
        for record in map(_proven, records)
    ]
    pixels = pixels_sha256(pixels for _, _, pixels in batches_of(records, data))
    _refuse_other_pixels(path, rows, pixels)
    content = {
        "schema": SCHEMA,
        "claim": claim.value,
        "says": sentence(claim, run.configuration),
        "floating_point": FLOATING_POINT[SCHEMA][claim],
        "configuration": dict(run.configuration),
        "model": dict(run.model or {}),
        "data": {
            **(run.data or {}),
            "pixels_sha256": pixels,
        },
        "versions": dict(run.versions),
        "provider": run.provider or "",
        "device": run.device,
        "rows": [msgspec.to_builtins(row) for row in rows],
    }
    write_json(path, {**content, "digest": digest_of(content)}, option="--certificate")


def _refuse_other_pixels(path: Path, rows: Sequence[Row], pixels: str) -> None:
    """Refuse rows that a certificate there has of other pixels: the checksum of a folder covers names and sizes alone.

    Rows hold their seconds, so that equal ones were not decided anew.
    """
    try:
        former = read_certificate(path)[0] if path.is_file() else None
    except RecordError:  # of another schema, or cut short: it is replaced
        return
    if former is None or former.data.get("pixels_sha256", pixels) == pixels:
        return
    if [row.record for row in former.rows] == [row.record for row in rows]:
        raise RecordError(f"the images have other pixels than when {path} was written; decide them anew with --fresh")


def read_certificate(path: Path) -> tuple[Certificate, bool]:
    """Return a certificate, and whether its digest is that of its content.

    Raises:
        RecordError: if it cannot be read, is no certificate, of another schema, or its rows contradict themselves.
    """
    value = read_json(path, ROWS_LIMIT)
    if value.get("schema") not in tuple(FLOATING_POINT):  # it may be a list, which has no hash
        raise RecordError(f"expected a certificate of schema 1 to {SCHEMA} in {path}, got {value.get('schema')}")
    certificate = converted(value, Certificate, f"{path} is not a certificate")
    if certificate.claim not in list(Claim):
        raise RecordError(f"{path}: expected the claim {' or '.join(Claim)}, got {certificate.claim!r}")
    if not certificate.rows:
        raise RecordError(f"{path} is not a certificate: it has no verdict")
    certificate.ball, certificate.arithmetic  # noqa: B018 - raises where its radius or arithmetic has no meaning
    if not isinstance(name := certificate.data.get("name", ""), str):
        raise RecordError(f"{path}: expected the name of a data set as text, got {name!s:.100}")
    for row in certificate.rows:
        _check_row(row, certificate.claim, path)
    if len({row.record.index for row in certificate.rows}) < len(certificate.rows):
        raise RecordError(f"{path}: an image stands twice")
    return certificate, value["digest"] == digest_of({key: item for key, item in value.items() if key != "digest"})


def _check_row(row: Row, claim: str, path: Path) -> None:
    record = row.record
    if record.arithmetic is not None and record.arithmetic not in list(Arithmetic):
        raise RecordError(f"{path}: image {record.index} has the arithmetic {record.arithmetic!r}")
    if record.claim != claim or record.verdict not in list(Verdict):
        raise RecordError(f"{path}: image {record.index} has the claim {record.claim!r}, verdict {record.verdict!r}")
    if (record.verdict == Verdict.FALSIFIED) != (record.counterexample is not None):
        raise RecordError(f"{path}: image {record.index} is {record.verdict}, which its counterexample contradicts")
    if (row.image is not None) != (record.counterexample not in (None, ITSELF)):
        raise RecordError(f"{path}: image {record.index} names a counterexample that is not there")


def _proven(record: Record) -> Record:
    """Return a row as a certificate states it: what another solver alone certifies is unknown to whoever checks it."""
    if record.arithmetic != Arithmetic.REAL:
        return record
    reason = f"{record.reason} {UNPROVEN_HERE}"
    return msgspec.structs.replace(record, verdict=Verdict.UNKNOWN, arithmetic=None, reason=reason)


def _packed(folder: Path, record: Record) -> str | None:
    if record.counterexample in (None, ITSELF):
        return None
    name = counterexample_name(record.index)
    if record.counterexample != name:  # rows come from a file: no other path is opened
        raise RecordError(f"expected the counterexample of image {record.index} in {name}, got another name")
    values = read_array(folder / name)
    if values.dtype != np.float32:
        raise RecordError(f"expected float32 in {folder / name}, got {values.dtype}")
    values = values.astype("<f4")
    return base64.b64encode(values.tobytes()).decode("ascii")
