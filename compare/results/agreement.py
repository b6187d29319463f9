"""Whether what lies in a run's folder is that run's: its files and rows agree with its configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from abscert_plugin.claim import Verdict
from abscert_plugin.errors import RecordError
from abscert_plugin.records import Record, RunInfo, differences, facts_of
from compare.plans.planned_run import Question, Run

_ADVICE: Final = "run it again"


def need_verifications(run: Run, folder: Path) -> None:
    """Raise RecordError unless a run that is done holds the verifications that it is of, and no other."""
    expected, there = set(run.questions), {path.name for path in folder.glob("verify-*")}
    if expected != there:
        lacks, others = sorted(expected - there), sorted(there - expected)
        fault = f"lacks {lacks[0]}" if lacks else f"holds {others[0]}, which its run has not"
        raise RecordError(f"{folder} {fault}, though it is done; {_ADVICE}")


def need_whole(folder: Path, info: RunInfo, rows: Sequence[Record]) -> float:
    """Return the seconds that a verification took.

    Args:
        folder: where it lies.
        info: its run.json.
        rows: its rows.

    Raises:
        RecordError: if it did not end, its rows are not one for each image in order, or a mislabelled image is
            certified.
    """
    if info.seconds is None:
        raise RecordError(f"{folder} holds a run that did not end; {_ADVICE}")
    images, places = (info.data or {}).get("images"), [row.index for row in rows]
    if not isinstance(images, int) or len(places) != images or places != sorted(set(places)):
        raise RecordError(
            f"{folder} has {len(rows):,} rows, expected one for each of {images!r:.20} images in order; {_ADVICE}"
        )
    for row in rows:
        if row.verdict == Verdict.CERTIFIED and row.prediction != row.label:
            raise RecordError(f"{folder}: image {row.index} is certified though it is mislabelled; {_ADVICE}")
    return info.seconds


def need_own_rows(run: Run, asked: Question, folder: Path, info: RunInfo, rows: Sequence[Record]) -> None:
    """Raise RecordError unless a verification is of what its run asks: claim, radius, images, cells and training."""
    data, model = info.data or {}, info.model or {}
    trained = facts_of(str(model.get("training")))
    held = {} if run.arithmetic is None else {"arithmetic": str(run.arithmetic)}
    _need_alike(
        {
            **held,
            "claim": str(asked.claim),
            **(asked.radius.as_options() if asked.radius is not None else {"radius": None, "radius_scale": None}),
            "data": run.data,
            "split": "test",
            "method": run.method,
            "seed": str(run.seed),
            "cells": run.cells,
        },
        {
            **{name: info.configuration.get(name) for name in ("claim", "radius", "radius_scale", *held)},
            "data": data.get("name"),
            "split": data.get("split"),
            **{name: trained.get(name) for name in ("method", "seed")},
            "cells": model.get("cells"),
        },
        folder,
    )
    if asked.limit is not None and len(rows) > asked.limit:
        raise RecordError(f"{folder} has {len(rows):,} images, expected {asked.limit:,} as its run says; {_ADVICE}")
    of_all = _facts(asked)
    for row in rows:
        if (row.claim, row.radius, row.radius_scale) != of_all:
            raise RecordError(f"{folder}, image {row.index}: expected a row of {of_all}, got another; {_ADVICE}")


def need_own_training(run: Run, folder: Path, info: RunInfo, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Raise where a training is not its run's, or its history not that of its epochs.

    Args:
        run: the run.
        folder: of the training.
        info: its run.json.
        epochs: the rows of its history.

    Raises:
        RecordError: if it is another training, or did not end.
    """
    said, loop = info.configuration, info.configuration.get("training")
    loop = loop if isinstance(loop, Mapping) else {}
    names = ("method", "data", "network", "cells")
    found = {**{name: said.get(name) for name in names}, "seed": loop.get("seed")}
    own: dict[str, Any] = {**{name: getattr(run, name) for name in names}, "seed": run.seed}
    if run.epochs is not None:
        own["epochs"], found["epochs"] = run.epochs, loop.get("epochs")
    _need_alike(own, found, folder)
    numbers = [row.get("epoch") for row in epochs]
    if numbers != list(range(1, len(numbers) + 1)) or not (len(numbers) == loop.get("epochs") or loop.get("patience")):
        raise RecordError(f"{folder} has a history of {len(numbers)} of {loop.get('epochs')!r:.20} epochs; {_ADVICE}")


def _need_alike(own: Mapping[str, Any], said: Mapping[str, Any], folder: Path) -> None:
    pairs = differences(own, said).replace(": there ", ": expected ").replace(", now ", ", got ")
    if pairs:
        raise RecordError(f"{folder} is not of its run ({pairs:.400}); {_ADVICE}")


def _facts(asked: Question) -> tuple[str, float | None, str | None]:
    """Return what every row of a verification says of itself."""
    radius = asked.radius
    return (asked.claim, None, None) if radius is None else (asked.claim, float(radius.given), radius.scale)
