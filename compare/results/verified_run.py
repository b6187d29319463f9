"""What each run came to, read from its records, history and run.json."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeVar, final

from abscert_plugin.claim import Radius, Verdict
from abscert_plugin.errors import RecordError
from abscert_plugin.files import read_text
from abscert_plugin.records import HISTORY, RECORDS, RUN, Record, RunInfo, read_records, rows_in
from abscert_plugin.verification.summary import Summary, summarise
from abscert_plugin.wording import plain_words
from compare.plans.planned_run import Run
from compare.results.agreement import need_own_rows, need_own_training, need_verifications, need_whole
from compare.results.stored_run import TRAINING, State, StoredRun, stored_runs

_ATTACKS: Final = ("forward", "gradient attack", "score attack")
ACTIVATIONS: Final[Mapping[str, str]] = {"lbp": "param-ramp"}  # of the methods whose own is not relu
_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)


@final
@dataclass(frozen=True)
class VerifiedRun:
    """A run with one of its verifications: what it came to.

    Args:
        run: the run.
        folder: of the verification; the run's is its parent.
        radius: the ball's radius; None for the claim `cell`.
        summary: counts and rates of its rows.
        attacked_error: share of images that the forward pass or an attack refutes, 0 to 1.
        certifying_seconds: wall-clock time of the verification.
        epoch_seconds: median time of an epoch of its training.
        version: of abscert-plugin that verified.
        device: the machine that verified, in words.
        activation: the activation function of its network.
        validation_error: that of the epoch that was kept, of its method's own claim or of an attack
            (`claim.validated`), 0 to 1; None where the history does not say.
        chosen_on_test: whether the epoch was chosen on the images that it is tested on; None where no file says.
        training_device: the machine that trained, in words; empty where no file says.
        certified_by: number of images that each way to certify has certified, as rows name it.
        proven: whether the verifier was one that proves its bounds; None of the claim `cell`.
    """

    run: Run
    folder: Path
    radius: Radius | None
    summary: Summary
    attacked_error: float
    certifying_seconds: float
    epoch_seconds: float
    version: str
    device: str
    activation: str
    validation_error: float | None
    chosen_on_test: bool | None
    training_device: str
    certified_by: Mapping[str, int] = field(default_factory=dict)
    proven: bool | None = None

    @property
    def pixel_radius(self) -> Fraction | None:
        """The ball's radius on the pixel scale; None for the claim `cell`."""
        return None if self.radius is None else self.radius.pixel


@final
@dataclass(frozen=True, slots=True)
class _TrainingFigures:
    """What a training's own files say."""

    epoch_seconds: float
    validation_error: float | None
    validation_sha256: str | None
    activation: str
    device: str


def verified_runs(results: Path) -> tuple[tuple[VerifiedRun, ...], tuple[StoredRun, ...]]:
    """Return every finished verification of a results folder, and the runs that are not done.

    Raises:
        RecordError: if a file of a run that is done cannot be read.
    """
    found: list[VerifiedRun] = []
    others: list[StoredRun] = []
    for stored in stored_runs(results):
        if stored.state is State.DONE:
            found += _of_run(stored)
        else:
            others.append(stored)
    return tuple(found), tuple(others)


def _of_run(stored: StoredRun) -> Iterator[VerifiedRun]:
    training = _training(stored.run, stored.folder / TRAINING)
    need_verifications(stored.run, stored.folder)
    for name, asked in sorted(stored.run.questions.items()):
        folder = stored.folder / name
        info = RunInfo.read(folder / RUN)
        records = read_records(records_file(folder))
        seconds = need_whole(folder, info, records)
        need_own_rows(stored.run, asked, folder, info, records)
        tested = (info.data or {}).get("sha256")
        known = tested is not None and training.validation_sha256 is not None
        yield VerifiedRun(
            run=stored.run,
            folder=folder,
            radius=asked.radius,
            summary=summarise(records),
            attacked_error=_attacked(records),
            certifying_seconds=seconds,
            epoch_seconds=training.epoch_seconds,
            version=info.versions.get("abscert-plugin", ""),
            device=info.device,
            activation=training.activation,
            validation_error=training.validation_error,
            chosen_on_test=tested == training.validation_sha256 if known else None,
            training_device=training.device,
            certified_by=Counter(row.method for row in records if row.verdict == Verdict.CERTIFIED),
            proven=None if asked.radius is None else bool(info.configuration.get("proofs")),
        )


def grouped(found: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Return items by what `key` says of each, in their own order."""
    groups: dict[_Key, list[_Item]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups


def records_file(folder: Path) -> Path:
    """Return the records of a verification; kept ones may be compressed."""
    return rows_in(folder) or folder / RECORDS


def _attacked(records: list[Record]) -> float:
    refuted = sum(row.verdict == Verdict.FALSIFIED and row.method in _ATTACKS for row in records)
    return refuted / len(records)


def _training(run: Run, folder: Path) -> _TrainingFigures:
    history, path = folder / HISTORY, folder / RUN
    try:
        rows = [json.loads(line) for line in read_text(history).splitlines()]
        pace = float(statistics.median(row["seconds"] for row in rows))
        # the loop keeps the epoch of the least validation error
        errors = [float(row["validation_error"]) for row in rows if "validation_error" in row]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, statistics.StatisticsError) as error:
        raise RecordError(f"cannot read {history}: {plain_words(error)}") from error
    info = RunInfo.read(path)
    need_own_training(run, folder, info, rows)
    described = info.configuration
    checksum = described.get("validation_sha256")
    if not isinstance(checksum, str | None):
        raise RecordError(f"expected a checksum as validation_sha256 in {path}, got {checksum!r:.100}")
    return _TrainingFigures(
        epoch_seconds=pace,
        validation_error=min(errors, default=None),
        validation_sha256=checksum,
        activation=str(described.get("activation") or run.activation or ACTIVATIONS.get(run.method, "relu")),
        device=info.device,
    )
