"""Wrap, on graphs that this project did not make: scikit-learn's, and the ImageNet-sized ones of the onnx package."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import light_models as light
import numpy as np
import onnx
import onnx_graphs as graphs
import onnxruntime
import pytest
from command_line import refused
from midpoint_oracle import assert_logits, intervals, listed, midpoints, pixels, stored_images
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

import abscert_plugin
from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.wrap import WrapOptions, Wrapped, wrap
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import InputScale
from abscert_plugin.records import Record
from abscert_plugin.verification.run import Verification

CELLS = 7
DIGIT = (1, 8, 8)
DIGITS_SCALE = InputScale((0.0, 16.0))
DIGITS_OPTIONS = WrapOptions(Grid(CELLS), DIGIT, scale=DIGITS_SCALE)
COMMAND = [sys.executable, "-c", "from abscert_plugin.cli import main; main()"]

# from scikit-learn

CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(max_iter=500, tol=1e-2),
    "mlp": lambda: MLPClassifier((24,), tol=1e-2, n_iter_no_change=3, random_state=0),
}


@cache
def trained(name: str) -> Any:
    images, labels = load_digits(return_X_y=True)
    return CLASSIFIERS[name]().fit(images[:1200], labels[:1200])


def save_converted(name: str, folder: Path, **options: bool) -> Path:
    """Save what skl2onnx makes of the classifier; `zipmap` is on unless it is told otherwise."""
    classifier = trained(name)
    example = np.zeros((1, 64), dtype=np.float32)
    return graphs.save(to_onnx(classifier, example, options={id(classifier): options}), folder)


def digits_midpoints(stored: np.ndarray) -> np.ndarray:
    """Return what scikit-learn reads for the cells' mid-points of 8-bit images: 64 values from 0 to 16."""
    return 16 * midpoints(stored, CELLS).reshape(len(stored), -1)


@pytest.mark.parametrize("options", [{}, {"zipmap": False}], ids=["dictionaries", "tensor"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scikit_learn_classifiers_give_their_probabilities_on_midpoints(
    tmp_path: Path, name: str, options: dict[str, bool]
) -> None:
    wrapped = wrap(save_converted(name, tmp_path, **options), tmp_path / "out", DIGITS_OPTIONS)
    stored = stored_images(20, DIGIT)
    expected = trained(name).predict_proba(digits_midpoints(stored))
    assert len(set(expected.argmax(axis=1))) > 2
    assert_logits(wrapped, stored, CELLS, expected)
    assert wrapped.metadata.image_shape == DIGIT
    assert wrapped.metadata.classes == 10
    assert wrapped.notes == ()


def test_raw_scores_of_scikit_learn_are_logits(tmp_path: Path) -> None:
    wrapped = wrap(save_converted("logistic", tmp_path, raw_scores=True), tmp_path / "out", DIGITS_OPTIONS)
    stored = stored_images(20, DIGIT)
    assert_logits(wrapped, stored, CELLS, trained("logistic").decision_function(digits_midpoints(stored)))


@pytest.mark.parametrize(
    ("options", "output"),
    [({}, "output_probability"), ({"zipmap": False}, "probabilities")],
    ids=["dictionaries", "tensor"],
)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_probabilities_can_be_named_as_the_file_names_them(
    tmp_path: Path, name: str, options: dict[str, bool], output: str
) -> None:
    path = save_converted(name, tmp_path, **options)
    assert output in {value.name for value in onnx.load_model(str(path)).graph.output}
    named = wrap(path, tmp_path / "named", WrapOptions(Grid(CELLS), DIGIT, scale=DIGITS_SCALE, output=output))
    found = wrap(path, tmp_path / "found", DIGITS_OPTIONS)
    assert named.deploy.read_bytes() == found.deploy.read_bytes()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_of_scikit_learn_are_wrapped_where_their_number_is_told(tmp_path: Path, name: str) -> None:
    path = save_converted(name, tmp_path, zipmap=False)
    options = WrapOptions(Grid(CELLS), DIGIT, scale=DIGITS_SCALE, output="label")
    with pytest.raises(ConfigError, match="gives labels alone; name its output of scores with --output, or wrap it"):
        wrap(path, tmp_path / "out", options)
    assert listed(tmp_path / "out") == []
    wrapped = wrap(path, tmp_path / "out", replace(options, labels=10))
    stored = stored_images(5, DIGIT)
    expected = np.eye(10)[trained(name).predict(digits_midpoints(stored))]
    for place in range(5):  # one by one, as the graph of an MLP does not show that images stay apart
        assert_logits(wrapped, stored[place : place + 1], CELLS, expected[place : place + 1])


def test_an_output_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    path = save_converted("mlp", tmp_path)
    options = WrapOptions(Grid(CELLS), DIGIT, scale=DIGITS_SCALE, output="logits")
    with pytest.raises(ConfigError, match=r"got 'logits'; it has 'output_label'.*, 'output_probability'"):
        wrap(path, tmp_path / "out", options)
    assert listed(tmp_path / "out") == []


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_verdicts_on_digits_are_those_of_scikit_learn_on_midpoints(tmp_path: Path, name: str) -> None:
    wrapped = wrap(save_converted(name, tmp_path), tmp_path / "out", DIGITS_OPTIONS)
    images, labels = load_digits(return_X_y=True)
    rows = verify(wrapped.deploy, tmp_path / "verified", load_data("digits", Split.TEST))
    index = [row.index for row in rows]
    cells = np.minimum(images[index].astype(np.int64) * CELLS // 16, CELLS - 1)
    predictions = trained(name).predict(16 * (cells + 0.5) / CELLS)
    assert [row.prediction for row in rows] == predictions.tolist()
    right = predictions == labels[index]
    assert [row.verdict for row in rows] == np.where(right, "certified", "falsified").tolist()
    assert 0.6 < right.mean() < 1  # so both verdicts were there


# ImageNet-sized graphs


def verify(path: Path, out: Path, data: Any, batch_size: int = 100) -> list[Record]:
    rows, _ = Verification(Artifact.open(path, Provider.CPU), data, batch_size).run(out, lambda _: None)
    return rows


def photos(count: int = 2) -> np.ndarray:
    """Return stored images; every other one is dark."""
    images = stored_images(count, light.SHAPE)
    images[1::2] //= 8
    return images


def run_one_by_one(path: Path, inputs: np.ndarray) -> np.ndarray:
    """Return what onnxruntime gives for each input on its own: [inputs, classes]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: inputs[place : place + 1]})[0] for place in range(len(inputs))]
    return np.concatenate(rows).reshape(len(inputs), light.CLASSES)


def source_on_midpoints(path: Path, stored: np.ndarray) -> np.ndarray:
    return run_one_by_one(path, midpoints(stored, CELLS).astype(np.float32))


def assert_close(logits: np.ndarray, expected: np.ndarray) -> None:
    """Check logits to 1e-4 of the largest, float32 sums over up to 25,088 values, and that this tells images apart."""
    tolerance = 1e-4 * np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 10 * tolerance
    assert np.allclose(logits, expected, rtol=0, atol=tolerance)


def sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [size.dim_value for size in value.type.tensor_type.shape.dim]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "zfnet512" else ()) for name in light.NAMES],
)
def test_imagenet_sized_graphs_give_their_logits_on_midpoints(tmp_path: Path, name: str) -> None:
    path = light.save_with_weights(name, tmp_path)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(CELLS)))
    stored = photos()
    assert_close(run_one_by_one(wrapped.deploy, pixels(stored)), source_on_midpoints(path, stored))

    assert wrapped.notes == ("its batch is fixed to 1, so images are run one by one",)
    for file, port, shape in (
        (wrapped.deploy, "image", [1, 3, 224, 224]),
        (wrapped.abstract, "interval", [1, 6, 224, 224]),
    ):
        model = onnx.load_model(str(file))
        assert [(value.name, sizes(value)) for value in model.graph.input] == [(port, shape)]
        assert [(value.name, sizes(value)) for value in model.graph.output] == [("logits", [1, light.CLASSES])]
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
        assert {entry.key: entry.value for entry in model.metadata_props} == {
            "abscert.version": abscert_plugin.__version__,
            "abscert.cells": str(CELLS),
            "abscert.domain": "-1,1",
            "abscert.pixel_range": "0,1",
            "abscert.image_shape": "3,224,224",
            "abscert.classes": str(light.CLASSES),
            "abscert.network": f"wrapped:{name}.onnx",
            "abscert.training": "none",
        }
        assert check_artifact(model, file) == wrapped.metadata


def forms(name: str) -> set[tuple[object, ...]]:
    """Return the operators of a graph, with the names of their attributes."""
    graph = onnx.load_model(str(light.shipped(name))).graph
    return {(node.op_type, *sorted(one.name for one in node.attribute)) for node in graph.node}


@pytest.mark.parametrize(("name", "other"), light.OF_THE_SAME_OPERATORS.items())
def test_a_graph_that_is_left_out_has_no_operator_of_its_own(name: str, other: str) -> None:
    assert name not in light.NAMES
    assert forms(name) <= set().union(*map(forms, light.NAMES))
    assert {form[0] for form in forms(name)} <= {form[0] for form in forms(other)}


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Wrapped]:
    folder = tmp_path_factory.mktemp("squeezenet")
    path = light.save_with_weights("squeezenet", folder)
    return path, wrap(path, folder / "out", WrapOptions(Grid(CELLS)))


def test_abstract_reads_intervals_of_imagenet_size(squeezenet: tuple[Path, Wrapped]) -> None:
    path, wrapped = squeezenet
    stored = photos()
    assert_close(run_one_by_one(wrapped.abstract, intervals(stored, CELLS)), source_on_midpoints(path, stored))


def save_folder_data_set(folder: Path, stored: np.ndarray, labels: list[int]) -> None:
    for label in range(light.CLASSES):
        (folder / "test" / f"{label:04d}").mkdir(parents=True)
    for place, (image, label) in enumerate(zip(stored, labels, strict=True)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / "test" / f"{label:04d}" / f"{place}.png")


@pytest.mark.parametrize("artifact", ["deploy", "abstract"])
def test_a_fixed_batch_is_verified_image_by_image(
    squeezenet: tuple[Path, Wrapped], tmp_path: Path, artifact: str
) -> None:
    path, wrapped = squeezenet
    stored = photos(5)
    expected = source_on_midpoints(path, stored)
    first, second = np.argsort(expected, axis=1)[:, ::-1][:, :2].T
    labels = np.where(np.arange(5) < 3, first, second)
    save_folder_data_set(tmp_path, stored, labels.tolist())
    data = load_data("folder", Split.TEST, tmp_path)
    rows = verify(getattr(wrapped, artifact), tmp_path / "verified", data, batch_size=2)

    assert [row.label for row in rows] == sorted(labels.tolist())
    places = np.lexsort((np.arange(5), labels))  # the data set sorts files by class, then by name
    assert [row.prediction for row in rows] == first[places].tolist()
    assert [row.verdict for row in rows] == ["certified" if place < 3 else "falsified" for place in places]
    best_other = np.where(labels == first, expected[np.arange(5), second], expected[np.arange(5), first])
    margins = expected[np.arange(5), labels] - best_other
    assert np.allclose(
        np.array([row.margin for row in rows], float), margins[places], rtol=0, atol=1e-4 * expected.max()
    )
    assert np.abs(margins).min() > 1e-3 * expected.max()


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10), ("Hardmax", 11)])
def test_what_the_converter_makes_another_function_of_is_refused(tmp_path: Path, operator: str, opset: int) -> None:
    """An offset common to all logits would hide the difference from a comparison of a few."""
    attributes = {"axis": 1} if operator == "Hardmax" else {"mode": "linear"}
    nodes = [
        helper.make_node(operator, ["x"] if operator == "Hardmax" else ["x", "scales"], ["r"], **attributes),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    entries = 16 if operator == "Hardmax" else 64
    tensors = [
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.random.default_rng(0).standard_normal((entries, 2)).astype(np.float32), "w"),
        numpy_helper.from_array(np.full(2, 1e4, np.float32), "b"),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
    ]
    graph = helper.make_graph(nodes, "old", ends[:1], ends[1:], tensors[operator == "Hardmax" :])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, tmp_path / "old.onnx")
    line = refused("wrap", tmp_path / "old.onnx", "--cells", 255, "--image-shape", "1,4,4", "--out", tmp_path / "out")
    assert f"onnx makes another function of its {operator}" in line
    assert not (tmp_path / "out").exists()


def test_wrap_on_the_command_line_says_what_it_wrote_and_noted(tmp_path: Path) -> None:
    source = light.shipped("squeezenet")
    out = tmp_path / "out"
    command = [*COMMAND, "wrap", str(source), "--cells", "7", "--out", str(out), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    note = "its batch is fixed to 1, so images are run one by one"
    assert json.loads(result.stdout) == {
        "deploy": str(out / "deploy.onnx"),
        "abstract": str(out / "abstract.onnx"),
        "notes": [note],
    }
    assert result.stderr == f"note: {note}\n"
    assert listed(out) == ["abstract.onnx", "deploy.onnx"]
    stored = photos(1)
    logits, expected = run_one_by_one(out / "deploy.onnx", pixels(stored)), source_on_midpoints(source, stored)
    assert np.allclose(logits, expected, rtol=0, atol=1e-4 * expected.max())
