"""A results folder whose files disagree gives no figure: each edit is named, with what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stored_records import RUN, store

from abscert_plugin.claim import Arithmetic
from abscert_plugin.errors import RecordError
from compare.results.verified_run import verified_runs

Edit = Callable[[Path], object]
IBP = msgspec.structs.replace(RUN, method="ibp", cells=None, claims=("ball",))
BALL = "verify-ball-0.15"


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def of_run(where: str, *names: str, value: object) -> Edit:
    """Return an edit of an entry of a run.json."""

    def change(content: dict[str, Any]) -> None:
        for name in names[:-1]:
            content = content[name]
        content[names[-1]] = value

    return lambda folder: rewrite(folder / where / "run.json", change)


def of_rows(change: Callable[[list[str]], list[str]]) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / BALL / "records.jsonl"
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return edit


def of_each_row(**values: object) -> Edit:
    return of_rows(lambda lines: [json.dumps({**json.loads(line), **values}) + "\n" for line in lines])


def history_of(count: int) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / "training/history.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))

    return edit


EDITS: list[tuple[Edit, str]] = [
    (of_rows(lambda lines: lines[:150]), "150 rows, expected one for each of 200"),
    (of_rows(lambda lines: [line for line in lines if "falsified" not in line]), "rows, expected one for each of 200"),
    (of_rows(lambda lines: [*lines[:-1], lines[-1][:40]]), "199 rows, expected one for each of 200"),
    (of_rows(lambda lines: lines[::-1]), "200 rows, expected one for each of 200"),
    (of_rows(lambda lines: [line.replace('"falsified"', '"certified"') for line in lines]), "it is mislabelled"),
    (of_each_row(radius=0.05), "image 0: expected a row of .*0.15"),
    (of_each_row(radius_scale="training"), "image 0: expected a row of"),
    (of_run(BALL, "configuration", "radius", value="3/10"), "radius: expected '3/20', got '3/10'"),
    (of_run(BALL, "configuration", "claim", value="cell"), "claim: expected 'ball', got 'cell'"),
    (of_run(BALL, "data", "split", value="train"), "split: expected 'test', got 'train'"),
    (of_run(BALL, "data", "name", value="cifar10"), "data: expected 'mnist', got 'cifar10'"),
    (of_run(BALL, "data", "images", value=150), "200 rows, expected one for each of 150"),
    (of_run(BALL, "model", "cells", value=4), "cells: expected None, got 4"),
    (of_run(BALL, "model", "training", value="method=sabr;seed=0"), "method: expected 'ibp', got 'sabr'"),
    (of_run(BALL, "model", "training", value="method=ibp;seed=1"), "seed: expected '0', got '1'"),
    (of_run(BALL, "seconds", value=None), "did not end"),
    (of_run("training", "configuration", "method", value="sabr"), "method: expected 'ibp', got 'sabr'"),
    (of_run("training", "configuration", "training", "seed", value=3), "seed: expected 0, got 3"),
    (of_run("training", "configuration", "network", value="dm-large"), "network: expected 'dm-small', got 'dm-large'"),
    (history_of(2), "history of 2 of 3 epochs"),
    (lambda folder: shutil.rmtree(folder / BALL), f"lacks {BALL}"),
    (lambda folder: shutil.copytree(folder / BALL, folder / "verify-ball-0.3"), "holds verify-ball-0.3"),
    (lambda folder: (folder / "training/run.json").unlink(), "training/run.json"),
]


@pytest.mark.parametrize(("edit", "reason"), EDITS, ids=[reason for _, reason in EDITS])
def test_a_run_whose_files_disagree_is_refused(edit: Edit, reason: str, tmp_path: Path) -> None:
    folder = store(tmp_path, IBP, {"ball": 20})
    ((found,), others) = verified_runs(tmp_path)
    assert (found.summary.images, found.summary.verified_error, others) == (200, 0.1, ())
    edit(folder)
    with pytest.raises(RecordError, match=reason):
        verified_runs(tmp_path)


def test_more_images_than_the_run_is_of_are_refused(tmp_path: Path) -> None:
    store(tmp_path, msgspec.structs.replace(IBP, ball_limit=100), {"ball": 20})
    with pytest.raises(RecordError, match="200 images, expected 100 as its run says"):
        verified_runs(tmp_path)


def test_verdicts_that_hold_for_less_than_the_run_asks_are_refused(tmp_path: Path) -> None:
    folder = store(tmp_path, msgspec.structs.replace(IBP, arithmetic=Arithmetic.ANY_ORDER), {"ball": 20})
    of_run(BALL, "configuration", "arithmetic", value="any-order")(folder)
    assert len(verified_runs(tmp_path)[0]) == 1
    of_run(BALL, "configuration", "arithmetic", value="this-runtime")(folder)
    with pytest.raises(RecordError, match="arithmetic: expected 'any-order', got 'this-runtime'"):
        verified_runs(tmp_path)


def test_a_patient_training_may_end_early(tmp_path: Path) -> None:
    folder = store(tmp_path, IBP, {"ball": 20})
    history_of(2)(folder)
    of_run("training", "configuration", "training", "patience", value=1)(folder)
    assert len(verified_runs(tmp_path)[0]) == 1
