"""Our verifier and alpha-beta-CROWN on the same images, in turn, on the claim `ball`.

Both are asked about one image at a time, on one thread, by a process that stays: opening the files is not counted, and
the first image is asked about once more before anything is. The clock of both is the CPU time of their process. A
plain network is the deployed file for both, theirs without the scaling 2 x - 1 of our files, over the scaled box; of a
network with cells theirs is asked about the abstract.onnx beside it, over the box that `abscert queries` writes, which
holds more than the ball: its `sat` counts as falsified where an image of the ball next to its point is mislabelled by
the file, and as `box alone` elsewhere. Answers that came later than the budget count, and are told.

alpha-beta-CROWN runs with its defaults for the CPU (attack before bounds: 30 starts of 100 steps), from its
checkout, in a Python that has torch, onnx2pytorch (the fork that it names), onnxoptimizer, onnxsim, skl2onnx, gurobipy,
termcolor, psutil, pandas, sympy.

usage: python benchmarks/side_by_side.py ask MODEL... --radius 0.1 --data mnist --limit 200 --out ANSWERS.jsonl
           --python /path/to/python --checkout /path/to/alpha-beta-CROWN [--seconds 10] [--attack before|after|skip]
       python benchmarks/side_by_side.py table ANSWERS.jsonl...
       python benchmarks/side_by_side.py keep ANSWERS.jsonl...

`ask` goes on with a file that it finds: what stands in it is not asked again. `keep` writes what counts into
records/side_by_side.jsonl. side_by_side_networks.py trains the networks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from abscert_plugin.cores import with_threads

WORKER: Final = Path(__file__).with_name("side_by_side_worker.py")
KEPT: Final = Path(__file__).with_name("records") / "side_by_side.jsonl"
PATIENCE: Final = 3  # a worker that takes so many times its budget, and 30 s, is ended
TICKS: Final = os.sysconf("SC_CLK_TCK")
NUMBERS: Final = ("decided", "certified", "falsified", "unknown")


class Worker:
    """A process that answers questions; started again where it died or was ended.

    Args:
        python: its interpreter.
        who: `ours` or `theirs`.
        options: what it is told.
        log: takes what it prints besides.
    """

    def __init__(self, python: str, who: str, options: dict[str, Any], log: Path) -> None:
        self._command = [python, str(WORKER), who, json.dumps(options)]
        self._seconds, self._log = options["seconds"], log
        self._process: subprocess.Popen[str] | None = None
        self.about: dict[str, Any] = {}

    def ask(self, ask: str, **question: Any) -> dict[str, Any]:
        """Return the answer; of a worker that died or was ended, `unknown`."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        most = used(process.pid) + PATIENCE * self._seconds + 30
        done = threading.Event()
        threading.Thread(target=end_after, args=(process, most, done), daemon=True).start()
        try:
            process.stdin.write(json.dumps({"ask": ask, **question}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        done.set()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process = None
        return {"verdict": "unknown", "how": "ended", "reason": f"exit status {process.wait()}"}

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("a") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=with_threads(1)
            )
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            raise SystemExit(f"{self._command[2]} did not start; its last lines are in {self._log}")
        self._process, self.about = process, json.loads(told)
        return process

    def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()


def used(process: int) -> float:
    """Return the CPU seconds of a process and of those that it started and that have ended; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def end_after(process: subprocess.Popen[str], most: float, done: threading.Event) -> None:
    """End a process once it has used so many CPU seconds, unless it is done before."""
    while not done.wait(1.0):
        if used(process.pid) > most:
            process.kill()
            return


def ask(options: argparse.Namespace) -> None:
    known = {(item["model"], item["index"]) for item in read(options.out)} if options.out.exists() else set()
    for model in options.models:
        wanted = [index for index in options.images or range(options.limit) if (str(model), index) not in known]
        if wanted:
            ask_about(model, wanted, options)


def ask_about(model: Path, wanted: Sequence[int], options: argparse.Namespace) -> None:
    told = {
        "model": str(model),
        "network": str(model),
        "data": options.data,
        "data_dir": None if options.data_dir is None else str(options.data_dir),
        "radius": options.radius,
        "seconds": options.seconds,
        "checkout": str(options.checkout),
        "attack": options.attack,
    }
    log = options.out.with_suffix(".log")
    ours = Worker(sys.executable, "ours", told, log)
    first = ours.ask("box", index=wanted[0])
    if ours.about["cells"] is not None:
        told["network"] = str(model.with_name("abstract.onnx"))
    theirs = Worker(options.python, "theirs", told, log)
    ours.ask("decide", index=wanted[0])
    theirs.ask("decide", box=first)
    with options.out.open("a") as out:
        for index in wanted:
            box = ours.ask("box", index=index)
            if "label" not in box:
                raise SystemExit(f"ours ended at image {index}: {box['reason']}; its last lines are in {log}")
            answers: dict[str, dict[str, Any]] = {}
            for who in WHO if index % 2 == 0 else WHO[::-1]:
                answers[who] = ours.ask("decide", index=index) if who == "ours" else theirs.ask("decide", box=box)
            points = answers["theirs"].pop("points", None)
            if points is not None:
                margins = [ours.ask("replay", index=index, point=point)["margin"] for point in points]
                answers["theirs"]["margin"] = min(margins, default=None)
                if not any(margin <= 0 for margin in margins):
                    answers["theirs"]["verdict"] = "box alone" if ours.about["cells"] else "not replayed"
            row = {"model": str(model), "index": index, "label": box["label"], "radius": options.radius}
            row |= {"data": options.data, "budget": options.seconds, "attack": options.attack, **answers}
            print(json.dumps({**row, "about": theirs.about}), file=out, flush=True)
            print(f"{model} {index}: {said(answers['ours'])}; {said(answers['theirs'])}", flush=True)
    ours.stop()
    theirs.stop()


def said(answer: dict[str, Any]) -> str:
    return f"{answer['verdict']} by {answer['how']} in {answer.get('seconds', 'no')} s"


def read(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text().splitlines())


def keep(paths: Sequence[Path], into: Path) -> None:
    """Write answers without what a table has no use for; a network is called as its folder."""
    with into.open("w") as out:
        for row in (row for path in paths for row in read(path)):
            named = {"model": Path(row["model"]).parent.name, "index": row["index"], "radius": row["radius"]}
            answers = {who: {key: row[who][key] for key in ANSWER if key in row[who]} for who in WHO}
            print(json.dumps({**named, "budget": row["budget"], **answers}), file=out)


def table(paths: Sequence[Path]) -> str:
    """Return a Markdown table, a row for each model: ours / theirs."""
    models = by_model(paths)
    head = ["network", "images", *NUMBERS, "contradictions", "late", "time ratio", "and beyond first steps", "peak MiB"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join([name, *cells(rows)])} |" for name, rows in models.items()]
    open_by_us = {name: opened(rows, "ours", "theirs") for name, rows in models.items()}
    open_by_them = {name: opened(rows, "theirs", "ours") for name, rows in models.items()}
    lines += ["", "Decided by theirs alone:", *(f"- {name}: {found}" for name, found in open_by_us.items())]
    lines += ["", "Decided by ours alone:", *(f"- {name}: {found}" for name, found in open_by_them.items())]
    odd = sorted({f"{row['theirs']['verdict']} ({row['theirs']['how']})" for rows in models.values() for row in rows})
    return "\n".join([*lines, "", f"Answers of theirs: {', '.join(odd)}."]) + "\n"


def by_model(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each model."""
    models: dict[str, list[dict[str, Any]]] = {}
    for row in (row for path in paths for row in read(path)):
        models.setdefault(row["model"], []).append(row)
    return models


def cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    both = [row for row in rows if is_decided(row["ours"]) and is_decided(row["theirs"])]
    hard = [row for row in both if row["theirs"]["how"] not in FIRST_STEPS]
    counts = [f"{count(rows, 'ours', word)} / {count(rows, 'theirs', word)}" for word in NUMBERS]
    wrong = sum(row["ours"]["verdict"] != row["theirs"]["verdict"] for row in both)
    late = [sum(is_decided(row[who]) and row[who]["seconds"] > row["budget"] for row in rows) for who in WHO]
    peak = [max(row[who].get("peak_mib", 0) for row in rows) for who in WHO]
    return [
        str(len(rows)),
        *counts,
        str(wrong),
        f"{late[0]} / {late[1]}",
        *(f"{ratio(some)} of {len(some)}" for some in (both, hard)),
        f"{peak[0]} / {peak[1]}",
    ]


WHO: Final = ("ours", "theirs")
ANSWER: Final = ("verdict", "how", "seconds", "peak_mib")
FIRST_STEPS: Final = ("safe-incomplete", "unsafe-pgd")  # of theirs: bounds without a search, and the attack before them


def is_decided(answer: dict[str, Any]) -> bool:
    return answer["verdict"] in ("certified", "falsified")


def count(rows: Sequence[dict[str, Any]], who: str, word: str) -> int:
    if word == "decided":
        return sum(is_decided(row[who]) for row in rows)
    if word == "unknown":
        return sum(not is_decided(row[who]) for row in rows)
    return sum(row[who]["verdict"] == word for row in rows)


def ratio(rows: Sequence[dict[str, Any]]) -> str:
    """Return the median of our time over theirs."""
    if not rows:
        return "-"
    return f"{statistics.median(row['ours']['seconds'] / max(row['theirs']['seconds'], 1e-4) for row in rows):.3g}"


def opened(rows: Sequence[dict[str, Any]], by: str, other: str) -> str:
    places = [str(row["index"]) for row in rows if not is_decided(row[by]) and is_decided(row[other])]
    return ", ".join(places) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask", help="ask both")
    asking.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="deploy.onnx, with cells or without")
    asking.add_argument("--radius", default="0.1", help="on the pixel scale")
    asking.add_argument("--data", default="mnist")
    asking.add_argument("--data-dir", type=Path)
    asking.add_argument("--limit", type=int, default=200, help="how many images, from the first")
    asking.add_argument("--images", type=int, nargs="+", help="these in their place, by their index")
    asking.add_argument("--seconds", type=float, default=10.0, help="CPU time an image")
    asking.add_argument("--attack", choices=("before", "after", "skip"), default="before", help="when theirs attacks")
    asking.add_argument("--python", required=True, help="interpreter with what alpha-beta-CROWN needs")
    asking.add_argument("--checkout", type=Path, required=True, help="its folder")
    asking.add_argument("--out", type=Path, required=True, help="a file of JSON lines, gone on with where it is there")
    showing = commands.add_parser("table", help="print what stands in such files")
    showing.add_argument("answers", type=Path, nargs="+")
    keeping = commands.add_parser("keep", help=f"put what counts of such files into {KEPT.name}")
    keeping.add_argument("answers", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "table":
        print(table(options.answers), end="")
    elif options.command == "keep":
        keep(options.answers, KEPT)
    else:
        ask(options)


if __name__ == "__main__":
    main()
