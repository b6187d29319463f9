"""Records on disk: one JSON line per image, and a run.json beside them that says how they were made."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, TypeVar, final

import msgspec

from abscert_plugin.claim import Arithmetic, Verdict
from abscert_plugin.errors import ConfigError, RecordError
from abscert_plugin.files import converted, read_json, read_packed, write_json, write_whole
from abscert_plugin.wording import plain_words

SCHEMA_VERSION: Final = 1
RECORDS: Final = "records.jsonl"
"""The rows in a run's folder."""
RUN: Final = "run.json"
"""What they were made by, beside them."""
CHECKPOINT: Final = "checkpoint.json"
"""How far the training in a folder is."""
HISTORY: Final = "history.jsonl"
"""The epochs of one that has ended, a row each."""
FORWARD: Final = "forward"
"""The method of a verdict that a run of the image itself decided."""
EXHAUSTIVE: Final = "exhaustive"
"""The method of one that running every combination of cells decided."""
SEARCHED: Final = "branch and bound"
"""The method of one that a search decided."""
_BLOCK: Final = 2**16  # bytes that are read at once
ROWS_LIMIT: Final = (
    2**30
)  # bytes of a file's rows, unpacked: about three million, sixty times ImageNet's validation split


@final
class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The verdict on one image.

    Args:
        index: the image's place in the data set's own test file.
        label: its class in the data set.
        prediction: the class that the ONNX file gives the clean image (-1 where it gave no number).
        claim: `cell` or `ball`; never compare rows of different claims.
        radius: the ball's radius on `radius_scale`; None for the claim `cell`.
        radius_scale: `pixel` or `training`; None for the claim `cell`.
        inputs: `float` or `uint8`, which images the ball holds; None for the claim `cell`.
        verdict: `certified`, `falsified` or `unknown`.
        reason: why, in one phrase.
        method: what decided it.
        reachable_log2: log2 of the number of interval images that the claim covers; None where there are no cells.
        margin: least logit of the label minus the greatest other logit, over what was run; None where not a number.
        seconds: time spent on this image (a batch's time is shared equally).
        counterexample: `itself` where the clean image is one, the name of a stored one, or None.
        schema: version of this row's layout; it has no default, so that no row can be read that does not say it.
        arithmetic: what evaluations of the file the verdict holds for (`Arithmetic`); None of `unknown`, and of rows
            that were written before they said so: see `holds_for`.
    """

    index: int
    label: int
    prediction: int
    claim: str
    radius: float | None
    radius_scale: str | None
    verdict: str
    reason: str
    method: str
    reachable_log2: float | None
    margin: float | None
    seconds: float
    counterexample: str | None
    schema: Literal[1]
    inputs: str | None = None
    arithmetic: str | None = None

    @property
    def holds_for(self) -> str | None:
        """What evaluations of the file the verdict holds for, of older rows too; None of `unknown`.

        Older rows were run where they are falsified, or certified by a pass or an enumeration; their bounds took off a
        guess at their own rounding, so prove nothing.
        """
        if self.arithmetic is not None or self.verdict == Verdict.UNKNOWN:
            return self.arithmetic
        was_run = self.verdict == Verdict.FALSIFIED or self.method in (FORWARD, EXHAUSTIVE)
        return Arithmetic.THIS_RUNTIME if was_run else Arithmetic.UNPROVEN


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what differs between what two runs say of themselves, such as `epochs: there 3, now 4`; empty if nothing.

    >>> differences({"data": {"images": 500}}, {"data": {"images": 100}})
    'data.images: there 500, now 100'
    """
    former, asked = _flat(there), _flat(now)
    keys = [key for key in sorted(former.keys() | asked.keys()) if former.get(key) != asked.get(key)]
    return "; ".join(f"{key}: there {former.get(key)!r:.80}, now {asked.get(key)!r:.80}" for key in keys)


def facts_of(training: str) -> Mapping[str, str]:
    """Return what a file says of its training, by key; nothing of what is written otherwise.

    >>> facts_of("method=ibp;seed=0")
    {'method': 'ibp', 'seed': '0'}
    """
    return dict(pair.partition("=")[::2] for pair in training.split(";") if "=" in pair)


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the sha256 checksum of a JSON object, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def need_alike(there: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """Raise where this node differs from the one that sends it work.

    Args:
        there: the facts of that node.
        here: those of this one.
        what: what it sends, in a word.

    Raises:
        ConfigError: if it does: it might give other rows.
    """
    pairs = differences(there, here)
    if pairs:
        raise ConfigError(f"the node {platform.node()} is not as the one that sends {what} ({pairs}); make them alike")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return facts with those of their parts, such as `training.epochs`."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Record)
_Row = TypeVar("_Row", bound=msgspec.Struct)


@final
class RecordWriter:
    """Appends records to a JSON Lines file; whole lines only, so that a killed run loses at most its last batch.

    Raises:
        RecordError: if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            drop_half_line(path)
            self._file: IO[bytes] = path.open("ab")
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror}; choose another --out") from error

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as failure:
            raise RecordError(f"cannot write {self._path}: {failure.strerror}") from failure

    def write(self, records: Iterable[msgspec.Struct]) -> None:
        """Append the records and hand them to the operating system.

        Raises:
            RecordError: if the disk is full or the file cannot be written; the lines before stay as they are.
        """
        try:
            self._file.write(_encoder.encode_lines(records))
            self._file.flush()
        except OSError as error:
            raise RecordError(f"cannot write {self._path}: {error.strerror}; the rows before are kept") from error


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a records file anew, whole or not at all.

    Raises:
        RecordError: if it cannot be written.
    """
    write_whole(path, lambda part: part.write_bytes(_encoder.encode_lines(records)))


def drop_half_line(path: Path) -> None:
    """Cut a last line without an end, as a killed run leaves it; do nothing where there is none or no file."""
    if not path.exists():
        return
    with path.open("r+b") as file:  # read from its end on
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            line_end = file.read(end - start).rfind(b"\n") + 1
            end = start + line_end
            if line_end:
                break
        if end < size:
            file.truncate(end)


def read_records(path: Path) -> list[Record]:
    """Return the rows of a records file (plain, or gzip by its name), in order; a half last line is left out.

    Raises:
        RecordError: if the file is missing, a line is not a record, or its schema is not this version's.
    """
    return list(_parse_lines(path, _decoder))


def read_rows(path: Path, kind: type[_Row]) -> list[_Row]:
    """Return the rows of a file of rows of another kind, as `read_records` does.

    Raises:
        RecordError: if the file is missing, or a line is not such a row.
    """
    return list(_parse_lines(path, msgspec.json.Decoder(kind)))


def _parse_lines(path: Path, decoder: msgspec.json.Decoder[_Row]) -> Iterator[_Row]:
    lines = read_packed(path, ROWS_LIMIT).split(b"\n")[
        :-1
    ]  # what follows the last end of line is a half line, or empty
    for number, line in enumerate(lines, start=1):
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            fault = plain_words(error)
            raise RecordError(
                f"{path}, line {number}: expected a record of schema {SCHEMA_VERSION}: {fault}"
            ) from error


@final
@dataclass(frozen=True, slots=True)
class RunInfo:
    """How a run's records were made: the content of run.json.

    Args:
        command: the subcommand, such as `verify`.
        configuration: every option that a result depends on.
        versions: of this project and of the libraries that took part.
        device: the machine, in words.
        provider: the onnxruntime execution provider that ran (None where none took part).
        data: name, split, count and sha256 of the data set.
        model: path and sha256 of the ONNX file (None where none took part).
        seconds: wall-clock time, None while the run is under way.
    """

    command: str
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str
    provider: str | None
    data: Mapping[str, Any] | None
    model: Mapping[str, Any] | None
    seconds: float | None = None
    schema: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write run.json atomically.

        Raises:
            RecordError: if it cannot be written.
        """
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "RunInfo":
        """Return the content of a run.json.

        Raises:
            RecordError: if it is missing, not JSON, of another schema, or an entry is of the wrong kind.
        """
        value = read_json(path)
        names, fault = {field.name for field in fields(cls)}, f"{path} is not a run.json of schema {SCHEMA_VERSION}"
        if value.get("schema") != SCHEMA_VERSION or set(value) != names:
            raise RecordError(fault)
        return converted(value, cls, fault)


def equal_run(out: Path, info: RunInfo, same: Iterable[str]) -> RunInfo | None:
    """Return what an earlier run in a folder says of itself, so that this one can go on with it; None where none is.

    Args:
        out: the folder.
        info: what this run says of itself.
        same: what both must say alike.

    Raises:
        RecordError: if the folder holds another run, or rows that nothing says the run of.
    """
    if not (out / RUN).exists():
        if (out / RECORDS).exists():
            raise RecordError(f"{out} holds records without a {RUN}; choose another --out")
        return None
    former = RunInfo.read(out / RUN)
    there, now = ({name: getattr(run, name) for name in same} for run in (former, info))
    pairs = differences(there, now).replace("data.images:", "data.images (--limit):")
    if pairs:
        raise RecordError(f"{out} holds another run ({pairs}); use --fresh or another --out")
    return former


def rows_in(folder: Path) -> Path | None:
    """Return the rows of a run's folder, plain or packed; None where there are none."""
    return next((folder / name for name in (RECORDS, f"{RECORDS}.gz") if (folder / name).is_file()), None)
