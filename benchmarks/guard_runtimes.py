"""Guards in several runtimes: do logits lie within a proof's enclosures, and does what one certifies hold in all?

Of each file a guard is written. Runtimes run the file on test images and at a corner of the ball around each, and the
guard on the images. What a guard certifies in any runtime, in any way of running it, has to hold for the logits of all:
the image and the corner have its label, and a margin of no less than the largest that any guard tells. Exactly: a
guard's margin bounds what is computed, rounding included.

usage: python benchmarks/guard_runtimes.py DEPLOY.ONNX [DEPLOY.ONNX ...] [--radius 0.1] [--data mnist] [--images 200]
           [--openvino PYTHON] [--web FOLDER]

PYTHON is one that has openvino; in FOLDER, `npm install onnxruntime-web` was run, and node is there. Prints a line for
records/benchmarks.jsonl; the exit status is 1 where something does not hold.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
from engines import TORCH, Engine, Outputs, Run, by_torch, engines
from runtimes import Enclosed, arguments, command, images_of

from abscert_plugin.artifact.metadata import LOGITS
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Inputs, Radius
from abscert_plugin.guards.guarded import CERTIFIED, LABEL, MARGIN
from abscert_plugin.guards.write import write_guard

OUTPUTS = (LOGITS, LABEL, CERTIFIED, MARGIN)
FAULTS = ("outside", "labels_lost", "margins_broken", "other_label", "other_logits")


@dataclass(frozen=True)
class Seen:
    """What a runtime computes in one way of running.

    Args:
        own, moved: the file's logits at the images, and at the corners of their balls.
        guard: the guard's outputs at the images; None where the runtime has no guard.
    """

    own: np.ndarray
    moved: np.ndarray
    guard: Outputs | None

    @property
    def all_logits(self) -> tuple[np.ndarray, np.ndarray]:
        return self.own.astype(np.float64), self.moved.astype(np.float64)


@dataclass(frozen=True)
class Guards:
    """A file and its guard, and images to run them on.

    Args:
        artifact: the file.
        guard: where its guard is.
        own, moved: the images and the corners of their balls, with what a proof says of the logits there.
    """

    artifact: Artifact
    guard: Path
    own: Enclosed
    moved: Enclosed

    @classmethod
    def of(cls, artifact: Artifact, guard: Path, ball: Ball, images: np.ndarray) -> "Guards":
        """Return them, with a corner of each ball by chance."""
        reach = artifact.front.reach(ball, images)
        is_high = np.random.default_rng(0).random(reach.lowest.shape) < 0.5
        corners = artifact.front.images(np.where(is_high, reach.highest, reach.lowest))
        return cls(artifact, guard, Enclosed.of(artifact, images), Enclosed.of(artifact, corners))

    def seen(self, engine: Engine) -> Iterator[Seen]:
        """Yield what a runtime computes in each of its ways."""
        for model, guard in zip(engine(self.artifact.path, [LOGITS]), engine(self.guard, OUTPUTS), strict=True):
            yield self._logits(model, guard(self.own.images))

    def seen_by_torch(self) -> Iterator[Seen]:
        for model in by_torch(self.artifact):
            yield self._logits(model, None)

    def _logits(self, model: Run, guard: Outputs | None) -> Seen:
        return Seen(model(self.own.images)[LOGITS], model(self.moved.images)[LOGITS], guard)

    def rows(self, found: Mapping[str, Sequence[Seen]]) -> Iterator[dict[str, object]]:
        """Yield for each runtime counts of what does not hold, and how far its numbers are from those of the first.

        Args:
            found: what each runtime computes in each of its ways.
        """
        guards = [seen.guard for runs in found.values() for seen in runs if seen.guard is not None]
        is_certified = reduce(np.logical_or, (guard[CERTIFIED] for guard in guards))
        margin = reduce(np.maximum, (self._told(guard) for guard in guards))
        for name, runs in found.items():
            row: dict[str, object] = {"runtime": name, "runs": len(runs), "certified_by_any": int(is_certified.sum())}
            for fault in FAULTS:
                row[fault] = sum(self._faults(seen, is_certified, margin)[fault] for seen in runs)
            row["difference"] = max(map(self._difference, runs))
            row["share"] = max(self.own.share(seen.own.astype(np.float64)) for seen in runs)
            told = [seen.guard for seen in runs if seen.guard is not None]
            counts = [int(guard[CERTIFIED].sum()) for guard in told]
            row["certified"] = [min(counts), max(counts)] if counts else None
            gaps = [float(np.abs(guard[MARGIN] - guards[0][MARGIN]).max()) for guard in told]
            row["margin_difference"] = max(gaps) if gaps else None
            yield row

    def _told(self, guard: Outputs) -> np.ndarray:
        """Return a guard's margins of our label; where its own is another, it tells nothing of ours."""
        return np.where(guard[LABEL] == self.own.labels, guard[MARGIN].astype(np.float64), -np.inf)

    def _difference(self, seen: Seen) -> float:
        return max(self.own.difference(seen.own), self.moved.difference(seen.moved))

    def _faults(self, seen: Seen, is_certified: np.ndarray, margin: np.ndarray) -> dict[str, int]:
        """Return how many logits lie outside, labels are lost, margins are too large; and a guard's own contradictions.

        Args:
            seen: in one way.
            is_certified: by a guard in any runtime.
            margin: the largest that any guard tells.
        """
        own, moved = seen.all_logits
        counts = dict.fromkeys(FAULTS, 0)
        counts["outside"] = self.own.outside(own) + self.moved.outside(moved)
        for logits in (own, moved):
            counts["labels_lost"] += int((is_certified & (logits.argmax(axis=1) != self.own.labels)).sum())
            counts["margins_broken"] += int((_margins(logits, self.own.labels) < margin).sum())
        if seen.guard is not None:
            counts["other_label"] = int((seen.guard[LABEL] != seen.guard[LOGITS].argmax(axis=1)).sum())
            counts["other_logits"] = int((seen.guard[LOGITS] != seen.own).sum())
        return counts


def _margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    is_label = np.arange(logits.shape[1]) == labels[:, None]
    return logits[is_label] - np.where(is_label, -np.inf, logits).max(axis=1)


def compared(guards: Guards, runtimes: Mapping[str, Engine]) -> list[dict[str, object]]:
    """Return a row for each runtime, and one for torch."""
    found = {name: list(guards.seen(engine)) for name, engine in runtimes.items()}
    found[TORCH] = list(guards.seen_by_torch())
    return list(guards.rows(found))


def faults(rows: Iterable[Mapping[str, object]]) -> int:
    return sum(int(str(row[fault])) for row in rows for fault in FAULTS)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--radius", default="0.1")
    options = parser.parse_args()
    images, ball = images_of(options), Ball(Radius.parse(options.radius), Inputs.FLOAT)
    rows: list[dict[str, object]] = []
    for path in options.files:
        artifact = Artifact.open(path, Provider.CPU, threads=1)
        with tempfile.TemporaryDirectory() as name:
            guard = Path(name) / "guard.onnx"
            write_guard(artifact, [ball], guard)
            made = compared(Guards.of(artifact, guard, ball, images), engines(options.openvino, options.web))
        rows += [{"file": path.parent.name, "images": len(images), **row} for row in made]
    record = {
        "what": "guards in several runtimes: logits in enclosures, certified labels and margins kept in all",
        "command": command("guard_runtimes.py", options, f"--radius {options.radius}"),
        "figure": f"{faults(rows)} logits outside their enclosures, certified labels lost or margins broken",
        "guard_runtimes": rows,
    }
    print(json.dumps(record))
    sys.exit(bool(faults(rows)))


if __name__ == "__main__":
    main()
