"""What each run came to, read from its records, history and run.json."""

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from abscert_plugin.errors import RecordError
from abscert_plugin.radius import Radius, RadiusScale
from abscert_plugin.records import Record, RunInfo, read_records
from abscert_plugin.verification.summary import Summary, summarise
from abscert_plugin.verification.verdict import Verdict
from compare.plan import Run
from compare.results import TRAINING, Place, State, stored_runs

_ATTACKS: Final = ("forward", "gradient attack", "score attack")


@final
@dataclass(frozen=True)
class Outcome:
    """One verification of a run.

    Args:
        run: the run.
        folder: of the verification; the run's is its parent.
        radius: the ball's radius; None for the claim `cell`.
        summary: counts and rates of its rows.
        attacked_error: share of images that the forward pass or an attack refutes, 0 to 1.
        certifying_seconds: wall-clock time of the verification.
        epoch_seconds: median time of an epoch of its training.
        version: of abscert-plugin that verified.
        device: the machine, in words.
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


def outcomes(results: Path) -> tuple[tuple[Outcome, ...], tuple[Place, ...]]:
    """Return every finished verification of a results folder, and the runs that are not done.

    Raises:
        RecordError: if a file of a run that is done cannot be read.
    """
    found: list[Outcome] = []
    others: list[Place] = []
    for place in stored_runs(results):
        if place.state is State.DONE:
            found += _of_run(place)
        else:
            others.append(place)
    return tuple(found), tuple(others)


def _of_run(place: Place) -> Iterator[Outcome]:
    pace = _epoch_seconds(place.folder / TRAINING / "history.jsonl")
    for folder in sorted(place.folder.glob("verify-*")):
        info = RunInfo.read(folder / "run.json")
        if info.seconds is None:
            raise RecordError(
                f"{folder} holds a run that did not end, though its {place.run.key} is done; run it again"
            )
        records = read_records(folder / "records.jsonl")
        yield Outcome(
            run=place.run,
            folder=folder,
            radius=_radius(info.configuration),
            summary=summarise(records),
            attacked_error=_attacked(records),
            certifying_seconds=info.seconds,
            epoch_seconds=pace,
            version=info.versions.get("abscert-plugin", ""),
            device=info.device,
        )


def _radius(configuration: Mapping[str, Any]) -> Radius | None:
    text, scale = configuration.get("radius"), configuration.get("radius_scale")
    if text is None:
        return None
    try:
        return Radius.parse(str(text), RadiusScale(str(scale)))
    except ValueError as error:
        raise RecordError(f"expected a radius scale of pixel or training, got {scale!r}") from error


def _attacked(records: list[Record]) -> float:
    refuted = sum(row.verdict == Verdict.FALSIFIED and row.method in _ATTACKS for row in records)
    return refuted / len(records)


def _epoch_seconds(history: Path) -> float:
    try:
        rows = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
        return float(statistics.median(row["seconds"] for row in rows))
    except (OSError, ValueError, KeyError, TypeError, statistics.StatisticsError) as error:
        raise RecordError(f"cannot read {history}: {error}") from error
