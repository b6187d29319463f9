"""A plan of two short runs, and what a results folder says of them."""

import hashlib
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from abscert_plugin.records import read_records
from compare.results.stored_run import RUNS, stored_run

PLAN = """
title = "small"
[[grid]]
data = ["digits"]
network = ["fc-3-code"]
method = ["ibp", "abstrain"]
radius = ["0.05"]
cells = [2]
epochs = 3
batch_size = 256
claims = ["cell", "ball"]
timeout = 5.0
limit = 30
"""


def outcome(results: Path) -> dict[str, Any]:
    """Return all that a results folder says, without times."""
    found: dict[str, Any] = {}
    for folder in sorted((results / RUNS).iterdir()):
        place = stored_run(folder)
        found[f"{folder.name} state"] = place.state
        found[f"{folder.name} weights"] = hashlib.sha256((folder / "training/deploy.onnx").read_bytes()).hexdigest()
        for path in sorted(folder.glob("verify-*/records.jsonl")):
            found[f"{folder.name} {path.parent.name}"] = [replace(row, seconds=0.0) for row in read_records(path)]
    return found
