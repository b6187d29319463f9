"""Rows of verifications for the reports, and tables as the plain text of their cells."""

import io
from typing import Any

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from abscert_plugin.data import DataSet, Split
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.records import SCHEMA_VERSION, Record, RunInfo

ROW = Record(
    index=0,
    label=0,
    prediction=0,
    claim="cell",
    radius=None,
    radius_scale=None,
    verdict="certified",
    reason="fine",
    method="forward",
    reachable_log2=0.0,
    margin=1.0,
    seconds=0.25,
    counterexample=None,
    schema=SCHEMA_VERSION,
)
VERDICTS = ("certified", "falsified", "unknown")


def row(index: int, verdict: str = "certified", **changes: Any) -> Record:
    """Return one row; under the claim `ball` its radius is 0.1 on the pixel scale."""
    if changes.get("claim") == "ball":
        changes = {"radius": 0.1, "radius_scale": "pixel", **changes}
    return replace(ROW, index=index, verdict=verdict, **changes)


def random_rows(count: int, seed: int = 0, labels: int = 3, **changes: Any) -> list[Record]:
    """Return rows of random verdicts, labels and predictions."""
    random = np.random.default_rng(seed)
    verdicts, chosen, predicted = random.choice(VERDICTS, count), *random.integers(0, labels, (2, count))
    draws = zip(verdicts, chosen, predicted, strict=True)
    return [
        row(index, str(verdict), label=int(label), prediction=int(prediction), reason=f"why {verdict}", **changes)
        for index, (verdict, label, prediction) in enumerate(draws)
    ]


def run_info(**changes: Any) -> RunInfo:
    """Return what a run.json of these rows says."""
    facts = {
        "command": "verify",
        "configuration": {"claim": "cell", "batch_size": 250},
        "versions": {"numpy": "2.0"},
        "device": "a machine",
        "provider": "CPUExecutionProvider",
        "data": {"name": "pictures", "split": "test"},
        "model": {"path": "deploy.onnx", "sha256": "ab" * 32, "cells": 4, "network": "dm-small"},
        "seconds": 1.5,
    }
    return RunInfo(**{**facts, **changes})


def picture_data(shape: tuple[int, int, int], count: int, classes: tuple[str, ...] = ("a", "b", "c")) -> DataSet:
    """Return random images whose index starts at 5; their labels go round the classes."""
    images = np.random.default_rng(0).integers(0, 256, (5 + count, *shape), dtype=np.uint8)
    labels = np.arange(count) % len(classes)
    return DataSet(
        "pictures", Split.TEST, classes, shape, 255, ArraySource(images), labels, 5 + np.arange(count), "0" * 64
    )


def cells_of(table: Table) -> list[list[str]]:
    """Return the header and the rows of a table as text."""
    columns = [[_plain(column.header), *map(_plain, column.cells)] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def printed(table: Table, width: int = 400) -> str:
    """Return what a terminal gets."""
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    console.print(table)
    return written.getvalue()
