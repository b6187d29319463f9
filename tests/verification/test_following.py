"""A second solver for what stays open: scripts that are right, lie, crash, hang or print garbage."""

import logging
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from tiny_networks import SHAPE, export_tiny
from torch import nn

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import QueryVerdict, Radius
from abscert_plugin.data import DataSet, Split
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.errors import ConfigError, VerifierError
from abscert_plugin.records import Record
from abscert_plugin.verification.answers import read_answer
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.certificate import UNPROVEN_HERE, read_certificate, write_certificate
from abscert_plugin.verification.child_process import run_within
from abscert_plugin.verification.decision import Decided
from abscert_plugin.verification.following import Followed, open_follower
from abscert_plugin.verification.opening import BallQuestion, NetworkChoice, open_verifier
from abscert_plugin.verification.origin import check_origin
from abscert_plugin.verification.run import Verification, model_facts
from abscert_plugin.verification.solvers import SOLVERS, SolverEntry
from abscert_plugin.verification.summary import summarise

BALL = Ball(Radius.parse("0.2"))


def network(at: float) -> nn.Module:
    """Return a network that mislabels what has a sum of lower edges (training scale) above a threshold."""
    last = nn.Linear(8, 3)
    made = nn.Sequential(nn.Flatten(), last).requires_grad_(False)
    last.weight.zero_()
    last.bias.zero_()
    last.bias[0], last.bias[2] = at, -100.0
    last.weight[1, :4] = 1.0
    return made


@dataclass
class Case:
    """A file, and an image that its verifier leaves open, since it has time for one run of the file alone."""

    asked: BallQuestion
    image: np.ndarray
    folder: Path

    def followed(self, named: str, seconds: float = 5.0) -> Followed:
        first, _ = open_verifier(self.asked)
        return open_follower(named, seconds, first, self.asked)

    def decided(self, named: str, seconds: float = 5.0) -> Decided:
        (item,) = self.followed(named, seconds).decide(self.image, np.array([0]), np.array([7]))
        return item

    def program(self, body: str, name: str = "solver") -> str:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\nif [ "$1" = --version ]; then echo 1.2; exit; fi\n{body}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)


def case(folder: Path, at: float) -> Case:
    artifact = Artifact.open(export_tiny(network(at), 3, folder).deploy, Provider.CPU)
    images = np.full((8, *SHAPE), 153, dtype=np.uint8)  # 0.6, in the second cell; its ball reaches the third
    data = DataSet(
        name="tiny",
        split=Split.TEST,
        classes=("a", "b", "c"),
        shape=SHAPE,
        levels=255,
        source=ArraySource(images),
        labels=np.array([0]),
        index=np.array([7]),
        sha256="0" * 64,
    )
    asked = BallQuestion(artifact, data, BALL, Budget(seconds=0.0), NetworkChoice(black_box=True))
    return Case(asked, data.pixels(images[7:]), folder)


@pytest.fixture
def safe(tmp_path: Path) -> Case:
    """Return a file that mislabels nothing."""
    return case(tmp_path, 5.0)


@pytest.fixture
def unsafe(tmp_path: Path) -> Case:
    """Return a file that mislabels the images whose pixels all lie in the last of 3 cells."""
    return case(tmp_path, 1.0)


def sat(value: float) -> str:
    """Return a script's lines that answer `sat` with one value for all ends, as the standard prints it."""
    return "\n".join(["echo sat", "echo 'X float32 [1,2,2,2]'", *[f"echo {value}"] * 8, "echo 'Y float32 [1,3]'"])


UNSAT = "grep -q 'of class 0:' \"$2\" && echo unsat || echo unknown"  # and not of what the image itself satisfies
BAD = {
    "crash": ("echo 'out of luck' >&2; exit 3", "ended with status 3 and no answer: out of luck"),
    "crash before others": ("echo 'a.b.SomeError: why' >&2; echo 'warn(it)' >&2; exit 1", "answer: a.b.SomeError: why"),
    "crash without words": (
        "echo '    assert x in shapes' >&2; echo '       ^^^^^' >&2; echo AssertionError >&2; exit 1",
        "no answer: AssertionError at assert x in shapes",
    ),
    "garbage": ("echo 'all is well'", "expected sat, unsat, unknown or timed-out on its first line"),
    "a word in a sentence": ("echo 'unsat core not found'", "expected sat, unsat, unknown or timed-out"),
    "sat without an input": ("echo sat", "answered sat without a value for each of 8 inputs"),
    "unsat of whatever is asked": ("echo unsat", "unsat even to what the image itself satisfies: it misreads the file"),
    "sat that does not replay": (sat(-1.0), "not mislabelled by more than the floor"),
    "sat of no number": (sat(float("nan")), "answered sat without a value"),
}


def test_what_is_unsat_holds_for_real_numbers_and_names_solver_and_version(safe: Case) -> None:
    program = safe.program(UNSAT)
    followed = safe.followed(program)
    (item,) = followed.decide(safe.image, np.array([0]), np.array([7]))
    record = item.record
    assert (record.verdict, record.arithmetic, record.method) == ("certified", "real", "then solver 1.2")
    assert record.reason == "certified by the solver solver 1.2"
    assert followed.configuration["then"] == {
        "program": "solver",
        "version": "1.2",
        "solver": "solver 1.2",
        "option": program,
        "arithmetic": "real",
        "timeout_seconds": 5.0,
    }
    assert followed.versions["solver"] == "1.2"


def test_a_certificate_does_not_count_what_is_certified_for_real_numbers(safe: Case, tmp_path: Path) -> None:
    asked = safe.asked
    followed = safe.followed(safe.program(UNSAT))
    verification = Verification(asked.artifact, asked.data, 1, followed)
    records, run = verification.run(tmp_path / "run", lambda _: None)
    assert [(record.verdict, record.holds_for) for record in records] == [("certified", "real")]
    assert summarise(records).holds_for == "real"
    path = tmp_path / "certificate.json"
    write_certificate(path, tmp_path / "run", records, run, asked.data)
    certificate, _ = read_certificate(path)
    (row,) = certificate.rows
    assert (row.record.verdict, row.record.arithmetic) == ("unknown", None)
    assert row.record.reason == f"certified by the solver solver 1.2 {UNPROVEN_HERE}"
    checks = list(check_origin(certificate, True, model_facts(asked.artifact), asked.data, False))
    (said,) = [check for check in checks if check.name == "images left to another solver"]
    assert (said.holds, said.detail[:32]) == (None, "not checked: 1 are unknown here:")
    forged = msgspec.structs.replace(certificate, rows=(msgspec.structs.replace(row, record=records[0]),))
    faults = [check.detail for check in check_origin(forged, True, model_facts(asked.artifact), asked.data, False)]
    assert any("is said to hold for real, which its method cannot show" in fault for fault in faults)


def test_a_program_is_called_as_the_standard_says(safe: Case) -> None:
    body = 'echo "$@" > "$(dirname "$0")/called"; cp "$2" "$(dirname "$0")/query"; echo unknown'
    safe.decided(safe.program(body), seconds=7.5)
    words = (safe.folder / "called").read_text().split()
    assert [words[0], words[2], *words[4:]] == ["verify", "--network", "--timeout", "7"]
    assert words[3] == f"f={(safe.folder / 'abstract.onnx').resolve()}"
    assert (safe.folder / "query").read_text().startswith("(vnnlib-version <2.0>)")


def test_what_is_sat_is_replayed_and_stored(unsafe: Case) -> None:
    item = unsafe.decided(unsafe.program(sat(1.0)))
    record, image = item.record, item.counterexample
    assert (record.verdict, record.arithmetic, record.method) == ("falsified", "this-runtime", "then solver 1.2")
    assert image is not None
    assert unsafe.asked.ball.contains(unsafe.image[0], image)
    assert unsafe.asked.artifact.run_images(image[None])[0].argmax() == 1


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_one_line_and_not_counted(safe: Case, name: str, caplog: pytest.LogCaptureFixture) -> None:
    body, words = BAD[name]
    followed = safe.followed(safe.program(body))
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            (item,) = followed.decide(safe.image, np.array([0]), np.array([7]))
        assert (item.record.verdict, item.counterexample) == ("unknown", None)
        assert words in item.record.reason
        assert item.record.reason.startswith("time-out of 0 s; ")
    (line,) = caplog.messages
    assert words in line
    assert "\n" not in line


def test_unsat_that_the_file_contradicts_is_one_line_and_not_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = case(tmp_path, -1.0)  # the image itself is right, most of its ball is not
    item = wrong.decided(wrong.program(UNSAT))
    assert item.record.verdict == "unknown"
    assert "is wrong" in item.record.reason
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("word", ["unknown", "timed-out"])
def test_an_honest_unknown_is_no_fault(safe: Case, word: str, caplog: pytest.LogCaptureFixture) -> None:
    record = safe.decided(safe.program(f"echo {word}")).record
    assert record.verdict == "unknown"
    assert record.arithmetic is None
    assert not caplog.messages


def test_what_hangs_is_killed_with_its_children(safe: Case) -> None:
    pids = safe.folder / "pids"
    program = safe.program(f"sleep 600 & echo $! $$ > {pids}; wait")
    start = time.monotonic()
    with pytest.raises(VerifierError, match="did not end within 1 s and was killed"):
        run_within([program, "verify"], safe.folder, 1.0)
    assert time.monotonic() - start < 20
    for pid in pids.read_text().split():
        assert not _runs(int(pid))


def test_what_is_left_running_ends_with_its_solver(safe: Case) -> None:
    pids = safe.folder / "pids"
    ended = run_within([safe.program(f"sleep 600 & echo $! > {pids}; echo unsat"), "verify"], safe.folder, 20.0)
    assert (ended.status, ended.out) == (0, "unsat\n")
    assert not _runs(int(pids.read_text()))


def _runs(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return False
        time.sleep(0.05)
    return True


def test_scripts_of_a_competition_are_prepared_and_run(unsafe: Case) -> None:
    folder = unsafe.folder / "entry"
    folder.mkdir()
    pairs = " ".join(f"(X_{place} 1.0)" for place in range(8))
    (folder / "prepare_instance.sh").write_text(f'echo "$@" > {folder}/prepared')
    (folder / "run_instance.sh").write_text(f'echo "$@" > {folder}/called; printf "sat\\n({pairs})\\n" > "$5"')
    record = unsafe.decided(f"{folder}=mnist", seconds=9.0).record
    assert record.verdict == "falsified"
    assert record.method.startswith(f"then {folder.parent.name}/entry (run_instance.sh ")
    assert (folder / "prepared").read_text().split()[:2] == ["v1", "mnist"]
    called = (folder / "called").read_text().split()
    assert (called[:2], called[5], len(called)) == (["v1", "mnist"], "9", 6)
    (folder / "prepare_instance.sh").write_text("exit 1")
    assert "prepare_instance.sh" not in record.reason
    assert "prepare_instance.sh ended with status 1" in unsafe.decided(str(folder)).record.reason


def test_a_script_that_ends_programs_of_others_is_refused_before_it_runs(safe: Case) -> None:
    folder = safe.folder / "entry"
    folder.mkdir()
    (folder / "run_instance.sh").write_text(f"touch {folder}/called")
    (folder / "prepare_instance.sh").write_text(f"touch {folder}/called\n  sudo killall -q  -9 nothing-of-this-name\n")
    with pytest.raises(ConfigError, match=r"prepare_instance.sh ends every .*\(killall -q -9 nothing-of-this-name\)"):
        safe.followed(str(folder))
    (folder / "prepare_instance.sh").write_text("# killall is not for us\n")
    safe.followed(str(folder))
    assert not (folder / "called").exists()


class Lying:
    """A solver of another package that fails, or calls everything falsified by one image."""

    def __init__(self, image: np.ndarray | None) -> None:
        self.image = image

    configuration: ClassVar[dict[str, Any]] = {}
    versions: ClassVar[dict[str, str]] = {}

    def decide(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Sequence[Decided]:
        if self.image is None:
            raise RuntimeError("no such thing")
        facts: dict[str, Any] = dict.fromkeys(("reachable_log2", "margin"))
        record = Record(
            **facts,
            index=int(index[0]),
            label=int(labels[0]),
            prediction=1,
            claim="ball",
            radius=0.2,
            radius_scale="pixel",
            inputs="float",
            verdict="falsified",
            reason="so it says",
            method="lying",
            seconds=0.0,
            counterexample="anything",
            schema=1,
        )
        return [Decided(record, self.image)]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (None, "the solver lying failed: RuntimeError: no such thing"),
        (np.full(SHAPE, 0.7, np.float32), "its counterexample is not mislabelled by more than the floor"),
        (np.full(SHAPE, 0.1, np.float32), "its counterexample lies outside the ball"),
    ],
)
def test_a_class_of_another_package_is_checked_too(
    safe: Case, monkeypatch: pytest.MonkeyPatch, image: np.ndarray | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = SolverEntry("lying", "lies", lambda *_: Lying(image))
    monkeypatch.setitem(SOLVERS._entries, "lying", entry)
    record = safe.decided("lying").record
    assert record.verdict == "unknown"
    assert words in record.reason
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("named", ["no-such-solver", "abscert", "vibecheck=/no/such/file", "marabou=/no/python"])
def test_what_is_no_solver_is_refused_in_one_line(safe: Case, named: str) -> None:
    with pytest.raises(ConfigError, match=r"^expected [^\n]*$"):
        safe.followed(named)
    with pytest.raises(ConfigError, match="then-timeout above 0"):
        safe.followed(safe.program("echo unsat"), seconds=0.0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("unsat\n", QueryVerdict.UNSAT),
        ("\nholds", QueryVerdict.UNSAT),
        ("timeout", QueryVerdict.TIMED_OUT),
        ("UNKNOWN\n", QueryVerdict.UNKNOWN),
    ],
)
def test_words_are_those_of_the_field(text: str, word: QueryVerdict) -> None:
    assert read_answer(text, 2).word is word


@pytest.mark.parametrize("text", ["sat\n((X_0 0.5)\n (X_1 -1e-3)\n (Y_0 2))", "sat ((X_0 0.5) (X_1 -0.001))"])
def test_inputs_are_read_as_competitions_write_them(text: str) -> None:
    assert read_answer(text, 2).point == pytest.approx([0.5, -1e-3])


@pytest.mark.parametrize(
    "text", ["", "sat\n(X_0 1)", "sat\n(X_0 1)(X_1 x)", "sat\n(X_0 1)(X_1 1)(X_2 1)", "unsat (X_0 1)"]
)
def test_what_is_no_answer_is_none(text: str) -> None:
    with pytest.raises(VerifierError):
        read_answer(text, 2)
