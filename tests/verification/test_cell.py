"""The claim `cell`, against running the deployed file on many images of every cell."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from strategies import grids, uint8_images
from tiny_networks import (
    CLASSES,
    SHAPE,
    constant_network,
    export_tiny,
    images_in_every_cell,
    run_onnx,
    tiny_network,
    with_weight,
)
from torch import nn

from abscert_plugin.artifact.metadata import INTERVAL, LOGITS, Metadata, read_metadata, write_metadata
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import BlackBox, Provider
from abscert_plugin.claim import Verdict
from abscert_plugin.errors import DataError, GridError, UnsupportedModelError, VerifierError
from abscert_plugin.front import Cells
from abscert_plugin.grid import Grid
from abscert_plugin.records import Record
from abscert_plugin.verification.cell import CellDecider, decide
from abscert_plugin.verification.logits import read_logits

IMAGE_COUNT = 5


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny(tiny_network(0), 3, tmp_path_factory.mktemp("tiny")).deploy


def verify(path: Path, images: np.ndarray, labels: np.ndarray) -> list[Record]:
    artifact = Artifact.open(path, Provider.CPU)
    return [item.record for item in CellDecider(artifact).decide(images, labels, np.arange(len(images)))]


def verdicts(records: list[Record]) -> list[str]:
    return [record.verdict for record in records]


def check_verdicts(records: list[Record], predictions: np.ndarray, labels: np.ndarray) -> None:
    """Assert that each verdict is true.

    Args:
        records: of the first image of each combination of cells.
        predictions: of the deployed file for several images of the same cells: [combination, image].
        labels: [combination].
    """
    for record, row, label in zip(records, predictions.tolist(), labels.tolist(), strict=True):
        if record.verdict == Verdict.CERTIFIED:
            assert set(row) == {label} == {record.prediction}
        if record.verdict == Verdict.FALSIFIED:
            assert row[0] == record.prediction != label
            assert record.counterexample == "itself"


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_verdicts_hold_for_every_image_of_the_cells(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cells: int
) -> None:
    exported = export_tiny(tiny_network(seed), cells, tmp_path_factory.mktemp("tiny"))
    images = images_in_every_cell(Grid(cells), IMAGE_COUNT, seed)
    (logits,) = run_onnx(exported.deploy, images.reshape(-1, *SHAPE))
    predictions = logits.argmax(axis=1).reshape(-1, IMAGE_COUNT)
    random = np.random.default_rng(seed).integers(0, CLASSES, len(images))
    labels = np.where(np.arange(len(images)) % 2 == 0, predictions[:, 0], random)

    records = verify(exported.deploy, images[:, 0], labels)
    check_verdicts(records, predictions, labels)
    # complete: random weights give no ties
    assert verdicts(records) == np.where(predictions[:, 0] == labels, "certified", "falsified").tolist()
    assert exported.abstract is not None
    assert verdicts(verify(exported.abstract, images[:, 0], labels)) == verdicts(records)


def tampered_pair(folder: Path) -> tuple[Path, np.ndarray]:
    """Return a file whose cells are half as wide as its metadata say, and two images of one cell of the metadata's.

    The network asks whether the first pixel's lower end is at least -0.75, so it tells the two images apart.
    """
    network = constant_network([0.0, 0.75, -9.0])
    cast(nn.Linear, network[1]).weight.data[1, 0] = 1
    path = export_tiny(network, 4, folder).deploy
    model = onnx.load_model(str(path))
    honest = read_metadata(model, path)
    claimed = replace(honest, front=Cells(Grid(2)))
    write_metadata(model, claimed)
    tampered = folder / "tampered.onnx"
    onnx.save_model(model, str(tampered))
    pair = np.full((2, *SHAPE), 0.1, dtype=np.float32)
    pair[1, 0, 0, 0] = 0.4
    assert np.array_equal(*Grid(2).cell(pair))
    return tampered, pair


def test_a_tampered_phi_would_give_a_false_verdict_and_is_refused(tmp_path: Path) -> None:
    tampered, pair = tampered_pair(tmp_path)
    metadata = read_metadata(onnx.load_model(str(tampered)), tampered)
    labels = np.array([0])
    file = onnx.load_model(str(tampered))
    opened = Artifact(tampered, "", file, metadata, BlackBox(tampered, Provider.CPU))
    unchecked = [item.record for item in CellDecider(opened).decide(pair[:1], labels, np.array([0]))]
    assert verdicts(unchecked) == ["certified"]
    predictions = run_onnx(tampered, pair)[0].argmax(axis=1)[None, :]
    assert predictions.tolist() == [[0, 1]]  # another image of the cell does not get the label
    with pytest.raises(AssertionError):
        check_verdicts(unchecked, predictions, labels)
    with pytest.raises(UnsupportedModelError, match="not the abstraction that its metadata name"):
        Artifact.open(tampered, Provider.CPU)


@pytest.mark.parametrize(
    ("logits", "label", "verdict", "prediction"),
    [
        ([1.0, 1.0, 1.0], 0, "unknown", 0),
        ([1.0, 1.0, 0.0], 1, "unknown", 0),
        ([1.0, 1.0, 0.0], 2, "falsified", 0),
        ([0.0, 0.0, 1.0], 2, "certified", 2),
        ([0.0, 0.0, 1e-45], 2, "certified", 2),
        ([0.0, -0.0, -1.0], 0, "unknown", 0),
        ([3e38, -3e38, -3e38], 0, "certified", 0),
        ([3e38, -3e38, -3e38], 1, "falsified", 0),
    ],
)
def test_ties_are_unknown_and_nothing_else_is(
    tmp_path: Path, logits: list[float], label: int, verdict: str, prediction: int
) -> None:
    exported = export_tiny(constant_network(logits), 2, tmp_path)
    for path in (exported.deploy, exported.abstract):
        assert path is not None
        (record,) = verify(path, np.zeros((1, *SHAPE), dtype=np.float32), np.array([label]))
        assert (record.verdict, record.prediction) == (verdict, prediction)
        assert ("equal" in record.reason) == (verdict == "unknown")


logit_rows = arrays(
    np.float32,
    (4, 3),
    elements=st.floats(width=32)
    | st.sampled_from([0.0, -0.0, 1.0, float(np.finfo(np.float32).max), float(np.finfo(np.float32).min)]),
)


@given(logit_rows, st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_verdicts_equal_comparing_the_logits_one_by_one(logits: np.ndarray, labels: list[int]) -> None:
    answers = read_logits(logits, np.array(labels))
    for row, label, prediction, margin in zip(
        logits.tolist(), labels, answers.prediction.tolist(), answers.margin.tolist(), strict=True
    ):
        others = [value for place, value in enumerate(row) if place != label]
        if not np.isfinite(row).all():
            expected, best = Verdict.UNKNOWN, -1
        elif all(row[label] > value for value in others):
            expected, best = Verdict.CERTIFIED, label
        elif any(row[label] < value for value in others):
            expected, best = Verdict.FALSIFIED, row.index(max(row))
        else:
            expected, best = Verdict.UNKNOWN, row.index(max(row))
        assert decide(margin)[0] is expected
        assert prediction == best


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(CLASSES))
def test_logits_that_are_no_numbers_are_unknown(deploy: Path, bad: float, place: int) -> None:
    bias = np.zeros(CLASSES)
    bias[place] = bad
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    for label in range(CLASSES):
        (record,) = verify(with_weight(deploy, "3.bias", bias), image, np.array([label]))
        assert (record.verdict, record.prediction, record.margin) == ("unknown", -1, None)
        assert record.reason == "a logit is not a finite number"


def test_a_failing_backend_is_unknown_with_its_reason(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: BlackBox, inputs: np.ndarray) -> np.ndarray:
        raise VerifierError("onnxruntime failed: out of memory")

    monkeypatch.setattr(BlackBox, "run", fail)
    records = verify(deploy, np.zeros((3, *SHAPE), dtype=np.float32), np.array([0, 1, 2]))
    assert verdicts(records) == ["unknown"] * 3
    assert {(record.prediction, record.margin, record.reason) for record in records} == {
        (-1, None, "onnxruntime failed: out of memory")
    }
    assert [(record.index, record.label) for record in records] == [(0, 0), (1, 1), (2, 2)]


def failing_file(folder: Path) -> Path:
    """Return a file that onnxruntime loads and cannot run: it looks up row 9 of a table of one row."""
    nodes = [
        helper.make_node("Flatten", [INTERVAL], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        helper.make_node("ReduceSum", ["scores", "axes"], ["sums"], keepdims=1),
        helper.make_node("Cast", ["sums"], ["place"], to=TensorProto.INT64),
        helper.make_node("Add", ["place", "nine"], ["far"]),
        helper.make_node("Gather", ["table", "far"], ["looked_up"], axis=0),
        helper.make_node("Squeeze", ["looked_up", "axes"], [LOGITS]),
    ]
    constants = [
        numpy_helper.from_array(np.zeros((1, CLASSES), dtype=np.float32), "table"),
        numpy_helper.from_array(np.zeros((8, 2), dtype=np.float32), "weight"),
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.array(9), "nine"),
    ]
    shapes: dict[str, list[int | str]] = {INTERVAL: ["batch", 2, 2, 2], LOGITS: ["batch", CLASSES]}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "failing", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    write_metadata(model, Metadata("0", Cells(Grid(2)), SHAPE, CLASSES, "failing", "none"))
    path = folder / "failing.onnx"
    onnx.save_model(model, str(path))
    return path


def test_a_file_that_fails_when_it_runs_is_unknown(tmp_path: Path) -> None:
    records = verify(failing_file(tmp_path), np.zeros((2, *SHAPE), dtype=np.float32), np.array([0, 1]))
    assert verdicts(records) == ["unknown", "unknown"]
    assert all(record.reason.startswith("onnxruntime failed: ") and "\n" not in record.reason for record in records)


def test_another_number_of_logits_than_the_metadata_say_is_unknown(deploy: Path) -> None:
    model = onnx.load_model(str(deploy))
    metadata = read_metadata(model, deploy)
    more = replace(metadata, classes=5)
    opened = Artifact(deploy, "", model, more, BlackBox(deploy, Provider.CPU))
    (item,) = CellDecider(opened).decide(np.zeros((1, *SHAPE), dtype=np.float32), np.array([4]), np.array([0]))
    record = item.record
    assert (record.verdict, record.reason) == ("unknown", "expected 5 logits, got 3")


@settings(max_examples=20)
@given(st.data(), grids(4))
def test_margins_of_deploy_and_abstract_are_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, grid: Grid
) -> None:
    exported = export_tiny(tiny_network(1), grid.cells, tmp_path_factory.mktemp("tiny"))
    images = data.draw(uint8_images((4, *SHAPE))) / np.float32(255)
    labels = np.zeros(4, dtype=np.int64)
    assert exported.abstract is not None
    deployed, abstract = (verify(path, images, labels) for path in (exported.deploy, exported.abstract))
    assert [record.margin for record in deployed] == [record.margin for record in abstract]


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_a_label_outside_the_classes_is_refused(deploy: Path, label: int) -> None:
    with pytest.raises(DataError, match=f"labels from 0 to 2, got {label}"):
        verify(deploy, np.zeros((2, *SHAPE), dtype=np.float32), np.array([0, label]))


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 3), (1, 4, 1)])
def test_images_of_another_shape_are_refused(deploy: Path, shape: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=r"images of shape \(1, 2, 2\)"):
        verify(deploy, np.zeros((1, *shape), dtype=np.float32), np.array([0]))


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -0.5, 255.0])
@pytest.mark.parametrize("name", ["deploy.onnx", "abstract.onnx"])
def test_a_pixel_outside_the_range_is_refused(deploy: Path, name: str, pixel: float) -> None:
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    image[0, 0, 1, 1] = pixel
    with pytest.raises(GridError, match="pixels in"):
        verify(deploy.with_name(name), image, np.array([0]))


def test_one_class_is_refused(tmp_path: Path) -> None:
    path = export_tiny(constant_network([1.0]), 2, tmp_path, classes=1).deploy
    with pytest.raises(UnsupportedModelError, match="at least 2 classes"):
        verify(path, np.zeros((1, *SHAPE), dtype=np.float32), np.array([0]))


def test_records_say_what_they_are_about(deploy: Path) -> None:
    artifact = Artifact.open(deploy, Provider.CPU)
    images = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    decided = CellDecider(artifact).decide(images, np.array([0, 1, 2]), np.array([7, 5, 9]))
    records = [item.record for item in decided]
    assert [(record.index, record.label) for record in records] == [(7, 0), (5, 1), (9, 2)]
    assert {(record.claim, record.radius, record.radius_scale, record.reachable_log2) for record in records} == {
        ("cell", None, None, 0.0)
    }
    assert all(isinstance(record.margin, float) and record.seconds > 0 for record in records)


def test_the_oracle_has_images_of_every_cell_and_sees_several_classes(deploy: Path) -> None:
    """Without this, the properties above might only ever see one cell or one class."""
    grid = Grid(3)
    images = images_in_every_cell(grid, IMAGE_COUNT, 0)
    cells = grid.cell(images).reshape(len(images), IMAGE_COUNT, -1)
    assert (cells == cells[:, :1]).all()
    assert len({tuple(row) for row in cells[:, 0].tolist()}) == 3**4
    predictions = run_onnx(deploy, images[:, 0])[0].argmax(axis=1)
    assert len(set(predictions.tolist())) > 1
