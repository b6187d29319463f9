"""Compare the bounds of two versions of auto_LiRPA on the same boxes of reachable cells, and both with the verdicts.

The other version is a checkout (--other FOLDER, which holds the package auto_LiRPA), imported by a process of its own.
For every method the last lines have the largest difference of the least margins, relative to max(1, |bound|),
and how many images each version certifies. A falsified image that a version certifies would be a contradiction, and
ends the comparison.

usage: python benchmarks/lirpa_versions.py RUN_FOLDER --other FOLDER --radius 0.1 [--data mnist] [--limit 200]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.claim import Radius
from abscert_plugin.data import Split, load_data
from abscert_plugin.lirpa.compat import lirpa_version, load_lirpa
from abscert_plugin.lirpa.whitebox import open_white_box
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.deployed import Deployed

AT_ONCE = 50


def images_of(options):
    data = load_data(options.data, Split.TEST, options.data_dir).first(options.limit)
    batch = data.take(np.arange(len(data)))
    return data.pixels(batch.images), batch.labels, batch.index


def dump(options) -> None:
    """Write the least margin that each method bounds, for every image."""
    path = options.run / "deploy.onnx"
    artifact = Artifact.open(path, Provider.CPU)
    white_box = open_white_box(artifact)
    images, labels, _ = images_of(options)
    reach = artifact.front.reach(Ball(Radius.parse(options.radius)), images)
    lower, upper = (torch.from_numpy(end) for end in reach.box())
    found = {}
    for method in BoundMethod:
        parts = [
            white_box.bounder.margins(
                lower[start : start + AT_ONCE],
                upper[start : start + AT_ONCE],
                torch.from_numpy(labels[start : start + AT_ONCE]),
                method,
            ).amin(dim=1)
            for start in range(0, len(images), AT_ONCE)
        ]
        found[str(method)] = torch.cat(parts).numpy()
    np.savez(options.dump, place=str(Path(load_lirpa().__file__).parent), **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--radius", default="0.1")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dump is not None:
        dump(options)
        return

    folder = Path(tempfile.mkdtemp())
    files = {"installed": folder / "installed.npz", "other": folder / "other.npz"}
    for name, file in files.items():
        first = [str(options.other.resolve())] if name == "other" else []
        paths = os.pathsep.join([*first, str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, *sys.argv, "--dump", str(file)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
    bounds = {name: dict(np.load(file)) for name, file in files.items()}
    places = [str(item.pop("place")) for item in bounds.values()]
    assert places[0] != places[1], places

    path = options.run / "deploy.onnx"
    artifact = Artifact.open(path, Provider.CPU)
    deployed = Deployed(artifact)
    white_box = open_white_box(artifact)
    verifier = BallVerifier(deployed, white_box, Ball(Radius.parse(options.radius)), Budget(seconds=2))
    records = [item.record for item in verifier.decide(*images_of(options))]
    falsified = np.array([record.verdict == "falsified" for record in records])
    result = {"installed": lirpa_version(), "images": len(records), "falsified": int(falsified.sum())}
    for method in BoundMethod:
        mine, theirs = (bounds[name][str(method)] for name in files)
        assert not ((mine > 0) & falsified).any(), method
        assert not ((theirs > 0) & falsified).any(), method
        difference = np.abs(mine - theirs) / np.maximum(1, np.abs(mine))
        result[str(method)] = {
            "largest_relative_difference": float(difference.max()),
            "certified_by_installed": int((mine > 0).sum()),
            "certified_by_other": int((theirs > 0).sum()),
        }
    print(json.dumps(result, indent=2))


main()
