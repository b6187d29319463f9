"""Answers questions of side_by_side.py in a process of its own: our verifier, or alpha-beta-CROWN from its checkout.

usage: python benchmarks/side_by_side_worker.py ours|theirs OPTIONS_AS_JSON

A line of JSON on stdin is a question, a line on stdout its answer. The clocks of both tell the CPU time of their
process, so that budgets and times are the same on a machine that is busy with other things. `theirs` runs in the
other Python, where no module of this project can be imported.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SCALED = "scaled"  # what our plain files make of pixels in [0, 1] first: 2 x - 1


def tell_cpu_time() -> None:
    """Make the clocks by which both keep their budgets tell the CPU time of this process."""
    since = time.time()
    time.time = lambda: since + time.process_time()
    time.perf_counter = time.monotonic = time.process_time


class Ours:
    """`BallVerifier` as `abscert verify` opens it, an image at a time; also hands out boxes, and replays points."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        import numpy as np
        import torch

        from abscert_plugin.artifact.opened import Artifact
        from abscert_plugin.ball import Ball
        from abscert_plugin.blackbox import Provider
        from abscert_plugin.claim import Radius
        from abscert_plugin.data import Split, load_data
        from abscert_plugin.verification.budget import Budget
        from abscert_plugin.verification.opening import BallQuestion, open_verifier

        torch.set_num_threads(1)
        self._np = np
        self._artifact = Artifact.open(Path(options["model"]), Provider.CPU)
        self._is_scaled = any(SCALED in node.output for node in self._artifact.model.graph.node)
        self._data = load_data(options["data"], Split.TEST, options["data_dir"] and Path(options["data_dir"]))
        self._ball = Ball(Radius.parse(options["radius"]))
        question = BallQuestion(self._artifact, self._data, self._ball, Budget(seconds=options["seconds"]))
        self._verifier, _ = open_verifier(question)

    def about(self) -> dict[str, Any]:
        grid = self._artifact.grid
        return {"images": len(self._data), "cells": None if grid is None else grid.cells}

    def box(self, index: int) -> dict[str, Any]:
        """Return an image's label, and the box that `abscert queries` asks about, of a plain file of ours scaled."""
        image, label = self._image(index)
        reach = self._artifact.front.reach(self._ball, image)
        lower, upper = reach.box() if self._is_scaled else self._artifact.front.held_ends(reach.lowest, reach.highest)
        return {
            "label": label,
            "classes": self._artifact.metadata.classes,
            "shape": list(lower.shape),
            "lower": lower.ravel().tolist(),
            "upper": upper.ravel().tolist(),
        }

    def decide(self, index: int) -> dict[str, Any]:
        image, label = self._image(index)
        (found,) = self._verifier.decide(image, self._np.array([label]), self._np.array([index]))
        record = found.record
        return {"verdict": str(record.verdict), "how": record.method, "reason": record.reason}

    def replay(self, index: int, point: list[float]) -> dict[str, Any]:
        """Return whether an input of the network is an image of the ball that the deployed file mislabels.

        Of a network with cells, the combination of reachable cells next to it is run.
        """
        image, label = self._image(index)
        reach = self._artifact.front.reach(self._ball, image)
        shape = self._artifact.front.input_shape(self._artifact.metadata.image_shape)
        given = self._np.array(point, dtype=self._np.float32).reshape(1, *shape)
        if self._artifact.grid is not None:
            low, high = self._np.split(given.clip(-1, 1), 2, axis=1)
            given = self._artifact.grid.cell((((low + high) / 2 + 1) / 2).clip(0, 1))
        elif self._is_scaled:
            given = (given + 1) / 2
        nearest = self._np.clip(given, reach.lowest, reach.highest)
        logits = self._verifier.run(self._artifact.front.images(nearest))[0]
        others = self._np.delete(logits, label)
        return {"margin": float(logits[label] - others.max())}

    def _image(self, index: int) -> tuple[Any, int]:
        batch = self._data.take(self._np.array([index]))
        return self._data.pixels(batch.images), int(batch.labels[0])


class Theirs:
    """`ABCrownSolver` with its defaults on the CPU; its incomplete verifier, attack and search share the budget."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        sys.path.insert(0, str(Path(options["checkout"]) / "complete_verifier"))
        self._torch = import_module("torch")
        self._torch.set_num_threads(1)
        self._api = import_module("api")
        defaults = self._api.ConfigBuilder.from_defaults()
        self._config = defaults.set(
            general__device="cpu", bab__timeout=options["seconds"], attack__pgd_order=options["attack"]
        )()
        with self._api._config_context(self._config), TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            path.write_bytes(behind_scaling(options["network"]))
            self._network = import_module("load_model").load_model_onnx(str(path))[0].eval()
        if not any("Conv" in type(layer).__name__ for layer in self._network.modules()):
            # `auto` would hand these to Gurobi, which wants a licence
            self._config["general"]["complete_verifier"] = "bab"

    def about(self) -> dict[str, Any]:
        lirpa = import_module("auto_LiRPA")
        return {"auto_LiRPA": str(lirpa.__version__), "torch": str(self._torch.__version__)}

    def decide(self, box: Mapping[str, Any]) -> dict[str, Any]:
        torch = self._torch
        lower, upper = (torch.tensor(box[end]).reshape(box["shape"]) for end in ("lower", "upper"))
        clauses = []  # any of: logit of the label - logit of the other <= 0
        for other in range(box["classes"]):
            if other != box["label"]:
                row = torch.zeros(1, box["classes"])
                row[0, box["label"]], row[0, other] = 1.0, -1.0
                clauses.append((row, torch.zeros(1)))
        spec = self._api.VerificationSpec.build_spec(lower=lower, upper=upper, clauses=[clauses])
        try:
            result = self._api.ABCrownSolver(spec, self._network, config=self._config).solve()
        except Exception as error:  # noqa: BLE001 - whatever its code raises, it leaves the image open
            return {"verdict": "unknown", "how": "error", "reason": f"{type(error).__name__}: {error}"[:300]}
        if result.status.startswith("unsafe"):
            found = result.stats["attack_examples"]
            point = None if found is None else found.detach().reshape(-1, lower.numel())
            return {"verdict": "falsified", "how": result.status, "points": [] if point is None else point.tolist()}
        proved = result.status.startswith("safe") or result.status == "verified"
        return {"verdict": "certified" if proved else "unknown", "how": result.status}


def behind_scaling(path: str) -> bytes:
    """Return a file without the scaling of pixels in front, which auto_LiRPA 0.7 does not bound with its patches."""
    onnx = import_module("onnx")
    model = onnx.load(path)
    graph, (taken,) = model.graph, model.graph.input
    places = [place for place, node in enumerate(graph.node) if SCALED in node.output]
    if places:
        del graph.node[: places[0] + 1]
        taken.name = SCALED
    content: bytes = model.SerializeToString()
    return content


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a tool prints is no answer
    tell_cpu_time()
    worker = {"ours": Ours, "theirs": Theirs}[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps(worker.about()), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.process_time()
        answer = getattr(worker, asked.pop("ask"))(**asked)
        seconds = round(time.process_time() - start, 4)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({**answer, "seconds": seconds, "peak_mib": peak}), file=answers, flush=True)


main()
