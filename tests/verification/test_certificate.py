"""Certificates as files, and their checks on networks small enough to enumerate."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_networks import export_tiny, tiny_data, tiny_network

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.ball import Ball
from abscert_plugin.blackbox import Provider
from abscert_plugin.claim import Arithmetic, Radius
from abscert_plugin.data import DataSet
from abscert_plugin.data.dataset import ArraySource
from abscert_plugin.errors import RecordError, VerifierError
from abscert_plugin.records import Record
from abscert_plugin.verification.ball import BallVerifier
from abscert_plugin.verification.budget import Budget
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.certificate import Certificate, Row, read_certificate, write_certificate
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.evidence import Evidence
from abscert_plugin.verification.finding import Check
from abscert_plugin.verification.origin import check_origin
from abscert_plugin.verification.replay import Replay, check_verdicts
from abscert_plugin.verification.reproof import Reproof
from abscert_plugin.verification.run import Verification, model_facts

RADIUS = Radius(Fraction(1, 5))
COUNTEREXAMPLES = "counterexamples, replayed through the file"
ANEW = "certified images, proven again"
ANSWERS = "predictions and margins of the images"


def replay_of(artifact: Artifact, ball: Ball | None) -> Replay:
    front = artifact.front
    if ball is None:
        cells = open_cells(artifact, None)[0]
        return Replay(lambda _: cells, None, artifact.run_images, front, None, 0.0)
    deployed = Deployed(artifact)
    verifier = BallVerifier(deployed, None, ball, Budget())
    return Replay(lambda _: verifier, Reproof(deployed, ball).fault, deployed.run, front, ball, deployed.floor)


class Case:
    """A certified data set of tiny images."""

    def __init__(self, folder: Path, ball: Ball | None) -> None:
        self.artifact = Artifact.open(export_tiny(tiny_network(1), 3, folder).deploy, Provider.CPU)
        data = tiny_data(40)
        batch = data.take(np.arange(len(data)))
        predicted = self.artifact.run_images(data.pixels(batch.images)).argmax(axis=1)
        wrong = np.arange(len(data)) % 8 == 0
        self.data: DataSet = replace(data, labels=(predicted + wrong) % len(data.classes))
        self.replay = replay_of(self.artifact, ball)
        self.run = folder / "run"
        verification = Verification(self.artifact, self.data, 16, self.replay.decider(None))
        self.records, self.info = verification.run(self.run, lambda _: None)
        self.path = folder / "c.json"
        write_certificate(self.path, self.run, self.records, self.info, self.data)
        self.certificate, self.is_intact = read_certificate(self.path)

    def checks(
        self,
        certificate: Certificate | None = None,
        sample: int | None = None,
        seed: int = 0,
        runs_alone: bool = False,
    ) -> list[Check]:
        stored = certificate or self.certificate
        model = model_facts(self.artifact)
        replay = self.replay if stored.ball == self.replay.ball else replay_of(self.artifact, stored.ball)
        return [
            *check_origin(stored, self.is_intact, model, self.data, runs_alone),
            *check_verdicts(stored, self.data, replay, sample, seed, lambda _: None),
        ]

    def failed(self, certificate: Certificate) -> set[str]:
        return {check.name for check in self.checks(certificate) if check.holds is False}


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("ball"), Ball(RADIUS))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("cell"), None)


def with_row(certificate: Certificate, place: int, row: Row) -> Certificate:
    rows = tuple(row if number == place else old for number, old in enumerate(certificate.rows))
    return msgspec.structs.replace(certificate, rows=rows)


def place_of(certificate: Certificate, wanted: Callable[[Row], bool]) -> int:
    return next(number for number, row in enumerate(certificate.rows) if wanted(row))


def stored_image(row: Row) -> np.ndarray:
    return np.frombuffer(base64.b64decode(row.image or ""), dtype="<f4")


def packed(image: np.ndarray) -> str:
    return base64.b64encode(image.astype("<f4").tobytes()).decode()


@pytest.mark.parametrize("name", ["ball", "cell"])
def test_a_certificate_is_read_back_as_it_was_written_and_holds(name: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(name)
    assert case.is_intact
    assert [row.record for row in case.certificate.rows] == case.records
    for row in case.certificate.rows:
        if row.image is not None:
            image = np.load(case.run / str(row.record.counterexample))
            assert stored_image(row).tobytes() == image.astype("<f4").tobytes()
    assert {row.record.verdict for row in case.certificate.rows} >= {"certified", "falsified"}
    assert case.certificate.ball == case.replay.ball
    assert all(check.holds for check in case.checks())
    assert [path.name for path in case.path.parent.glob("*.part")] == []


@pytest.mark.slow
def test_every_flipped_verdict_is_found_out(ball: Case, cell: Case) -> None:
    for case in (ball, cell):
        for place, row in enumerate(case.certificate.rows):
            if row.record.verdict == "falsified":
                label = row.record.label
                record = msgspec.structs.replace(row.record, verdict="certified", counterexample=None, prediction=label)
                found = case.failed(with_row(case.certificate, place, Row(record, None)))
                assert {ANEW, "rows agree with the claim"} <= found <= {ANEW, ANSWERS, "rows agree with the claim"}
            elif row.record.verdict == "certified":
                wrong = (row.record.label + 1) % 3
                record = msgspec.structs.replace(
                    row.record, verdict="falsified", counterexample="itself", prediction=wrong
                )
                found = case.failed(with_row(case.certificate, place, Row(record, None)))
                assert found == {COUNTEREXAMPLES, ANSWERS, "rows agree with the claim"}


@pytest.mark.slow
@settings(max_examples=30)  # each decides images anew
@given(
    pixel=st.integers(0, 3), beyond=st.floats(0.2 - 1e-8, 0.2 + 1e-7) | st.floats(0, 5), sign=st.sampled_from([-1, 1])
)
def test_a_counterexample_moved_out_of_the_ball_is_found_out(ball: Case, pixel: int, beyond: float, sign: int) -> None:
    place = place_of(ball.certificate, lambda row: row.image is not None)
    row = ball.certificate.rows[place]
    position = int(np.flatnonzero(ball.data.index == row.record.index)[0])
    center = ball.data.pixels(ball.data.take(np.array([position])).images)[0].ravel()
    image = stored_image(row).copy()
    image[pixel] = np.float32(center[pixel] + sign * beyond)
    value, middle = Fraction(float(image[pixel])), Fraction(float(center[pixel]))
    assume(abs(value - middle) > Fraction(1, 5) or not 0 <= value <= 1)
    moved = with_row(ball.certificate, place, Row(row.record, packed(image)))
    assert COUNTEREXAMPLES in ball.failed(moved)


@pytest.mark.parametrize("image", ["", "AAAA", "not base64!", packed(np.full(4, np.nan)), packed(np.full(4, -0.1))])
def test_what_is_no_image_is_no_counterexample(ball: Case, image: str) -> None:
    place = place_of(ball.certificate, lambda row: row.image is not None)
    changed = with_row(ball.certificate, place, Row(ball.certificate.rows[place].record, image))
    assert ball.failed(changed) == {COUNTEREXAMPLES}


def test_an_enlarged_radius_is_found_out_by_deciding_all_anew(ball: Case) -> None:
    rows = tuple(Row(msgspec.structs.replace(row.record, radius=0.5), row.image) for row in ball.certificate.rows)
    configuration = {**ball.certificate.configuration, "radius": "1/2"}
    larger = msgspec.structs.replace(ball.certificate, rows=rows, configuration=configuration)
    failing = {check.name: check.detail for check in ball.checks(larger) if check.holds is False}
    assert failing.keys() == {ANEW, "reachable cells"}
    assert "a point that it reaches is mislabelled" in failing[ANEW]


@pytest.mark.parametrize("edit", [{"label": 3}, {"label": -1}, {"label": 10**30}])
def test_a_label_of_no_class_is_found_out(ball: Case, cell: Case, edit: dict[str, int]) -> None:
    for case in (ball, cell):
        for place in (0, 1):
            record = msgspec.structs.replace(case.certificate.rows[place].record, **edit)
            changed = with_row(case.certificate, place, Row(record, case.certificate.rows[place].image))
            assert "labels" in case.failed(changed)


def test_a_file_that_has_to_be_run_alone_is_not_certified_in_batches(ball: Case) -> None:
    failed = [check for check in ball.checks(runs_alone=True) if check.holds is False]
    assert [check.name for check in failed] == ["rows agree with the claim"]
    assert "run one image at a time" in failed[0].detail


@pytest.mark.parametrize("change", [{"network": "another"}, {"training": "longer"}, {"classes": 99}])
def test_what_the_file_does_not_say_of_itself_is_found_out(ball: Case, change: dict[str, Any]) -> None:
    forged = msgspec.structs.replace(ball.certificate, model={**ball.certificate.model, **change})
    assert ball.failed(forged) == {"network"}


def test_a_sample_is_the_same_for_a_seed(ball: Case) -> None:
    seen: list[list[int]] = []

    def reproof(record: Record, image: np.ndarray, evidence: Evidence | None) -> str:
        seen[-1].append(record.index)
        assert ball.replay.reproof is not None
        return ball.replay.reproof(record, image, evidence)

    watched = replace(ball.replay, reproof=reproof)
    for seed in (0, 0, 1):
        seen.append([])
        list(check_verdicts(ball.certificate, ball.data, watched, 5, seed, lambda _: None))
    assert seen[0] == seen[1] != seen[2]
    assert all(len(set(indices)) == 5 for indices in seen)


def test_a_backend_that_fails_fails_the_check(ball: Case) -> None:
    def run(images: np.ndarray) -> np.ndarray:
        raise VerifierError("the backend is gone")

    broken = replace(ball.replay, run=run)
    checks = list(check_verdicts(ball.certificate, ball.data, broken, None, 0, lambda _: None))
    failing, *others = [check for check in checks if check.holds is False]
    assert [failing.name, *(check.name for check in others)] == [ANSWERS, COUNTEREXAMPLES]
    assert "the backend is gone" in failing.detail


def test_every_changed_byte_is_refused_or_found_by_the_digest(ball: Case, tmp_path: Path) -> None:
    whole = ball.path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(whole), 150).tolist():
        content = bytearray(whole)
        content[place] ^= 1 << int(random.integers(0, 7))
        (tmp_path / "c.json").write_bytes(bytes(content))
        try:
            _, is_intact = read_certificate(tmp_path / "c.json")
        except RecordError:
            continue
        assert not is_intact or json.loads(bytes(content)) == json.loads(whole)


@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.json"
    path.write_bytes(content)
    with pytest.raises(RecordError):
        read_certificate(path)


def test_a_pixel_that_changed_under_the_same_names_is_found_out(ball: Case, cell: Case) -> None:
    """The checksum of a folder of images covers names and sizes alone."""
    for case in (ball, cell):
        stored = case.data.source.read(np.arange(100 + 2 * len(case.data)))
        stored[case.data.index[3], 0, 0, 0] ^= 1
        data = replace(case.data, source=ArraySource(stored))
        checks = check_verdicts(case.certificate, data, case.replay, 1, 0, lambda _: None)
        assert "pixels" in {check.name for check in checks if check.holds is False}


def test_rows_of_other_pixels_are_not_certified_anew(cell: Case, tmp_path: Path) -> None:
    """A run goes on with the rows of a folder of which a file was changed: its checksum is of names and sizes."""
    stored = cell.data.source.read(np.arange(100 + 2 * len(cell.data)))
    stored[cell.data.index[3], 0, 0, 0] ^= 1
    data, path = replace(cell.data, source=ArraySource(stored)), tmp_path / "c.json"
    write_certificate(path, cell.run, cell.records, cell.info, cell.data)
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"other pixels than when .* decide them anew with --fresh"):
        write_certificate(path, cell.run, cell.records, cell.info, data)
    assert path.read_bytes() == before
    anew = [msgspec.structs.replace(record, seconds=record.seconds + 1) for record in cell.records]
    write_certificate(path, cell.run, anew, cell.info, data)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"arithmetic": "real"}, "rows agree with the claim"),
        ({"arithmetic": None}, "rows agree with the claim"),
        ({"prediction": 2}, "predictions and margins of the images"),
    ],
)
def test_a_row_that_says_more_than_was_shown_is_found_out(ball: Case, change: dict[str, Any], name: str) -> None:
    place = place_of(ball.certificate, lambda row: row.record.verdict == "unknown" or row.record.prediction < 2)
    if "arithmetic" in change:
        place = place_of(ball.certificate, lambda row: row.record.verdict == "certified")
    row = ball.certificate.rows[place]
    changed = msgspec.structs.replace(row, record=msgspec.structs.replace(row.record, **change))
    assert name in ball.failed(with_row(ball.certificate, place, changed))


def test_a_falsified_image_that_is_called_unknown_is_found_out_where_it_is_mislabelled_itself(ball: Case) -> None:
    place = place_of(ball.certificate, lambda row: row.record.counterexample == "itself")
    record = msgspec.structs.replace(
        ball.certificate.rows[place].record, verdict="unknown", counterexample=None, arithmetic=None
    )
    assert ANSWERS in ball.failed(with_row(ball.certificate, place, Row(record, None)))


def test_a_margin_that_is_not_the_counterexamples_is_found_out(ball: Case) -> None:
    place = place_of(ball.certificate, lambda row: row.record.verdict == "falsified")
    row = ball.certificate.rows[place]
    changed = msgspec.structs.replace(row, record=msgspec.structs.replace(row.record, margin=-123.0))
    assert COUNTEREXAMPLES in ball.failed(with_row(ball.certificate, place, changed))


def test_what_a_run_shows_is_no_proof_of_any_order(ball: Case) -> None:
    """Whatever a row's method is called: what was decided anew has to hold for the arithmetic that it names."""
    assert ball.replay.ball is not None
    here = Reproof(Deployed(ball.artifact, Arithmetic.THIS_RUNTIME), ball.replay.ball)
    place = place_of(ball.certificate, lambda row: row.record.method in ("exhaustive", "forward") and is_certified(row))
    record = ball.certificate.rows[place].record
    image = ball.data.pixels(ball.data.take(np.flatnonzero(ball.data.index == record.index)).images)[0]
    assert record.arithmetic == "any-order"
    assert here.fault(record, image, None) == "what is proven of it holds for this-runtime, not for any-order"
    told = msgspec.structs.replace(record, arithmetic="this-runtime")
    assert here.fault(told, image, None) == ""
    assert ball.replay.reproof is not None
    assert ball.replay.reproof(told, image, None) == ""  # any order implies it


def is_certified(row: Row) -> bool:
    return row.record.verdict == "certified"
