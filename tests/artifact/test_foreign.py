"""ONNX classifiers of others, opened as they are: all shapes and types of input and answer."""

import gzip
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from abscert_plugin.artifact import foreign, opened
from abscert_plugin.artifact.foreign import open_classifier, open_foreign
from abscert_plugin.artifact.model_file import read_model
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.blackbox import Provider
from abscert_plugin.errors import AbscertError, ConfigError, UnsupportedModelError
from abscert_plugin.preprocessing import InputScale, Layout, Opening, Preprocessing
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.logits import read_logits

SHAPE = (3, 4, 4)
PIXELS = (0.0, 255.0)
FLOAT16, DOUBLE, BFLOAT16 = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16
IMAGES = (np.random.default_rng(1).integers(0, 256, (9, *SHAPE)) / np.float32(255)).astype(np.float32)


def scores(read: np.ndarray) -> np.ndarray:
    """Return the logits of `graphs.linear` for what it reads."""
    found: np.ndarray = read.reshape(len(read), -1).astype(np.float64) @ graphs.weights()
    return found


def model(
    sizes: list[Any],
    before: list[graphs.Node] | None = None,
    after: list[graphs.Node] | None = None,
    kind: int = TensorProto.FLOAT,
    answer: tuple[int, list[Any]] = (TensorProto.FLOAT, ["n", 5]),
    **constants: Any,
) -> ModelProto:
    """Return a linear classifier that reads `x` of these sizes; nodes stand between `x` and `z`, and behind `y`."""
    before = before if before is not None else [("Reshape", ["x", "rows"], ["z"], {})]
    nodes: list[graphs.Node] = [*before, ("MatMul", ["z", "w"], ["y"], {}), *(after or [])]
    tensors = {"w": graphs.weights(), "rows": np.array([-1, 48]), **constants}
    used = {name for node in nodes for name in node[1]}
    output = graphs.value(nodes[-1][2][0], answer[1], answer[0])
    held = [graphs.constant(name, array) for name, array in tensors.items() if name in used]
    return graphs.make(nodes, [graphs.value("x", sizes, kind)], [output], held)


def cast(kind: int) -> list[graphs.Node]:
    return [("Reshape", ["x", "rows"], ["r"], {}), ("Cast", ["r"], ["z"], {"to": kind})]


def last(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


ARGMAX: list[graphs.Node] = [("ArgMax", ["y"], ["label"], {"axis": 1, "keepdims": 0})]
FIRST: graphs.Node = ("Slice", ["y", "zero", "one", "one"], ["s"], {})
ENDS: dict[str, Any] = {"zero": np.array([0]), "one": np.array([1])}
NAMED: dict[str, tuple[ModelProto, Opening, Any]] = {
    "flat": (model(["n", 48]), Opening(), scores(IMAGES)),
    "flat, channels last": (model(["n", 48]), Opening(layout=Layout.NHWC), scores(last(IMAGES))),
    "a row": (model(["n", 1, 48]), Opening(), scores(IMAGES)),
    "a column, one image": (model([1, 48, 1]), Opening(), scores(IMAGES)),
    "no batch": (model([48], answer=(TensorProto.FLOAT, [1, 5])), Opening(), scores(IMAGES)),
    "channels last": (model(["n", 4, 4, 3]), Opening(), scores(last(IMAGES))),
    "batch of 8": (model([8, 3, 4, 4], answer=(TensorProto.FLOAT, [8, 5])), Opening(), scores(IMAGES)),
    "free sizes": (model(["n", "c", "h", "w"]), Opening(), scores(IMAGES)),
    "normalised": (
        model(["n", 3, 4, 4]),
        Opening(scale=InputScale(PIXELS, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))),
        scores((IMAGES * 255.0 - np.reshape([100, 110, 120], (3, 1, 1))) / np.reshape([50, 60, 70], (3, 1, 1))),
    ),
    "uint8": (
        model(["n", 3, 4, 4], cast(1), kind=TensorProto.UINT8),
        Opening(scale=InputScale(PIXELS)),
        scores(IMAGES * 255.0),
    ),
    "int64": (
        model(["n", 3, 4, 4], cast(1), kind=TensorProto.INT64),
        Opening(scale=InputScale(PIXELS)),
        scores(IMAGES * 255.0),
    ),
    "int8": (
        model(["n", 3, 4, 4], cast(1), kind=TensorProto.INT8),
        Opening(scale=InputScale((-128.0, 127.0))),
        scores(IMAGES * 255.0 - 128),
    ),
    "float64": (model(["n", 3, 4, 4], cast(1), kind=DOUBLE), Opening(), scores(IMAGES)),
    "float16": (model(["n", 3, 4, 4], cast(1), kind=FLOAT16), Opening(), scores(IMAGES.astype(np.float16))),
    "bfloat16": (model(["n", 3, 4, 4], cast(1), kind=BFLOAT16), Opening(), None),
    "scores [n, 5, 1]": (
        model(["n", 48], after=[("Unsqueeze", ["y", "two"], ["u"], {})], answer=(1, ["n", 5, 1]), two=np.array([2])),
        Opening(),
        scores(IMAGES),
    ),
    "scores [5]": (
        model([1, 48], after=[("Squeeze", ["y", "zero"], ["u"], {})], answer=(1, [5]), zero=np.array([0])),
        Opening(),
        scores(IMAGES),
    ),
    "one score": (
        model(["n", 48], after=[("Slice", ["y", "zero", "one", "one"], ["s"], {})], answer=(1, ["n", 1]), **ENDS),
        Opening(),
        scores(IMAGES)[:, :1] * [0.0, 1.0],
    ),
    "one probability": (
        model(["n", 48], after=[FIRST, ("Sigmoid", ["s"], ["p"], {})], answer=(1, ["n", 1]), **ENDS),
        Opening(),
        (1 / (1 + np.exp(-scores(IMAGES)[:, :1])) - 0.5) * [0.0, 1.0],
    ),
    "labels": (
        model(["n", 48], after=ARGMAX, answer=(TensorProto.INT64, ["n"])),
        Opening(),
        np.eye(5)[scores(IMAGES).argmax(1)],
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_every_shape_and_type_is_read_as_it_is(tmp_path: Path, kind: str) -> None:
    made, opening, expected = NAMED[kind]
    path = graphs.save(made, tmp_path)
    try:
        artifact = open_foreign(path, Provider.CPU, opening, SHAPE, labels=5)
    except UnsupportedModelError as error:
        assert kind == "bfloat16"  # where onnxruntime has no kernel for it
        assert "onnxruntime" in str(error)  # noqa: PT017
        return
    found = artifact.run_images(IMAGES)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert found.dtype == np.float32


# labels that are cut to 0 and 1: their scores do not tell what is answered
NAMED["labels of two"] = (
    model(
        ["n", 48],
        after=[*ARGMAX, ("Cast", ["label"], ["is"], {"to": 9}), ("Cast", ["is"], ["answer"], {"to": 7})],
        answer=(TensorProto.INT64, ["n"]),
    ),
    Opening(),
    np.eye(5)[np.minimum(scores(IMAGES).argmax(1), 1)],
)
PROVEN = frozenset(NAMED) - {"float16", "bfloat16", "labels of two"}


@pytest.mark.parametrize("kind", NAMED)
def test_what_can_be_proven_is_and_the_rest_says_why(tmp_path: Path, kind: str) -> None:
    made, opening, _ = NAMED[kind]
    try:
        artifact = open_foreign(graphs.save(made, tmp_path), Provider.CPU, opening, SHAPE, labels=5)
    except UnsupportedModelError:
        return
    deployed = Deployed(artifact)
    assert (deployed.prover is not None) == (kind in PROVEN), deployed.note
    assert (deployed.note == "") == (kind in PROVEN)
    if deployed.prover is None:
        return
    logits = artifact.run_images(IMAGES)
    labels = logits.argmax(axis=1)
    assert (deployed.prover.at_points(IMAGES, labels, read_logits(logits, labels).margin) > 0).mean() > 0.5


def test_other_inputs_are_fixed_and_the_others_are_named(tmp_path: Path) -> None:
    made = model(["n", 48], after=[("Mul", ["y", "temperature"], ["t"], {})])
    made.graph.input.append(graphs.value("temperature", [1]))
    path = graphs.save(made, tmp_path)
    artifact = open_foreign(path, Provider.CPU, Opening(constants={"temperature": 2.0}), SHAPE)
    np.testing.assert_allclose(artifact.run_images(IMAGES), 2 * scores(IMAGES), rtol=1e-4, atol=1e-3)
    with pytest.raises(
        UnsupportedModelError, match=r"got 2: .*temperature.*; fix the others with --constant NAME=VALUE"
    ):
        open_foreign(path, Provider.CPU, Opening(), SHAPE)
    with pytest.raises(ConfigError, match="--constant of one of its inputs, got 'heat'; it has 'x'"):
        open_foreign(path, Provider.CPU, Opening(constants={"heat": 2.0}), SHAPE)


def test_a_dropout_may_be_off_by_an_input_that_is_fixed(tmp_path: Path) -> None:
    made = model(["n", 48], after=[("Dropout", ["y", "half", "training"], ["t"], {})], half=np.float32(0.5))
    made.graph.input.append(graphs.value("training", [], TensorProto.BOOL))
    path = graphs.save(made, tmp_path)
    artifact = open_foreign(path, Provider.CPU, Opening(constants={"training": 0}), SHAPE)
    np.testing.assert_allclose(artifact.run_images(IMAGES), scores(IMAGES), rtol=1e-4, atol=1e-3)
    for constants in ({}, {"training": 1}):
        with pytest.raises(UnsupportedModelError, match="draws random numbers"):
            open_foreign(path, Provider.CPU, Opening(constants=constants), SHAPE)


def test_scores_across_a_fixed_batch_are_refused(tmp_path: Path) -> None:
    """[5, 2] would be read as [2, 5], and the scores of one image be those of several."""
    made = model([2, 48], after=[("Transpose", ["y"], ["t"], {"perm": [1, 0]})], answer=(TensorProto.FLOAT, [5, 2]))
    with pytest.raises(UnsupportedModelError, match="an answer for each image of a batch"):
        open_foreign(graphs.save(made, tmp_path), Provider.CPU, Opening(), SHAPE)


SCORE = [FIRST, ("Mul", ["s", "small"], ["m"], {})]
ONE: dict[str, list[graphs.Node]] = {
    "a probability by another function": [*SCORE, ("HardSigmoid", ["m"], ["p"], {})],
    "a probability that is cut": [*SCORE, ("Sigmoid", ["m"], ["g"], {}), ("Mul", ["g", "unit"], ["p"], {})],
    "labels as floats": [("ArgMax", ["y"], ["i"], {"axis": 1, "keepdims": 1}), ("Cast", ["i"], ["p"], {"to": 1})],
}


@pytest.mark.parametrize("kind", ONE)
def test_one_number_that_is_no_score_is_refused(tmp_path: Path, kind: str) -> None:
    """A probability would be cut at 0, and every image get the second class."""
    values = {"small": np.float32(1e-3), "unit": np.float32(1), **ENDS}
    path = graphs.save(model(["n", 48], after=ONE[kind], answer=(1, ["n", 1]), **values), tmp_path)
    with pytest.raises(UnsupportedModelError, match="looks like a probability or a label"):
        open_foreign(path, Provider.CPU, Opening(), SHAPE)


def test_a_probability_behind_a_quantisation_is_one(tmp_path: Path) -> None:
    after = [
        *SCORE,
        ("Sigmoid", ["m"], ["g"], {}),
        ("QuantizeLinear", ["g", "step"], ["q"], {}),
        ("DequantizeLinear", ["q", "step"], ["p"], {}),
    ]
    values = {"small": np.float32(1e-2), "step": np.float32(1 / 256), **ENDS}
    path = graphs.save(model(["n", 48], after=after, answer=(1, ["n", 1]), **values), tmp_path)
    found = open_foreign(path, Provider.CPU, Opening(), SHAPE).run_images(IMAGES)
    expected = 1 / (1 + np.exp(-scores(IMAGES)[:, :1] * 1e-2)) - 0.5
    np.testing.assert_allclose(found, expected * [0.0, 1.0], atol=1 / 256)


@pytest.mark.parametrize("agrees", [True, False])
def test_labels_beside_the_scores_have_to_be_those_of_the_largest(tmp_path: Path, agrees: bool) -> None:
    turned: list[graphs.Node] = [("Neg", ["y"], ["t"], {}), ("ArgMax", ["t"], ["label"], {"axis": 1, "keepdims": 0})]
    made = model(["n", 48], after=ARGMAX if agrees else turned)
    made.graph.output[0].CopyFrom(graphs.value("label", ["n"], TensorProto.INT64))
    made.graph.output.append(graphs.value("y", ["n", 5]))
    path = graphs.save(made, tmp_path)
    if agrees:
        assert open_foreign(path, Provider.CPU, Opening(), SHAPE).metadata.classes == 5
    else:
        with pytest.raises(UnsupportedModelError, match="'label' gives other labels than the largest of 'y'"):
            open_foreign(path, Provider.CPU, Opening(), SHAPE)
    assert open_foreign(path, Provider.CPU, Opening(output="y"), SHAPE).metadata.classes == 5


@pytest.mark.parametrize("names", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
def test_classes_of_other_names_have_to_be_asked_for(tmp_path: Path, names: list[int]) -> None:
    made = model(["n", 48], after=[("Softmax", ["y"], ["p"], {})])
    made.graph.node.append(helper.make_node("ZipMap", ["p"], ["m"], domain="ai.onnx.ml", classlabels_int64s=names))
    made.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="m"))
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    path = graphs.save(made, tmp_path)
    if names[0]:
        with pytest.raises(UnsupportedModelError, match=r"names its classes .*, and not 0 to 4"):
            open_foreign(path, Provider.CPU, Opening(), SHAPE)
    assert open_foreign(path, Provider.CPU, Opening(output="m"), SHAPE).metadata.classes == 5


@pytest.mark.parametrize(("kind", "number"), [(2, -1), (2, 257), (2, 0.7), (6, 2**32 + 1), (9, 2), (1, np.nan), (8, 1)])
def test_a_constant_that_its_type_does_not_hold_is_refused(tmp_path: Path, kind: int, number: float) -> None:
    made = model(["n", 48])
    made.graph.input.append(graphs.value("other", [1], kind))
    path = graphs.save(made, tmp_path)
    with pytest.raises(ConfigError, match=r"the input 'other' .* cannot be"):
        open_foreign(path, Provider.CPU, Opening(constants={"other": number}), SHAPE)


def test_a_packed_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx.gz"
    path.write_bytes(gzip.compress(model(["n", 48]).SerializeToString()))
    artifact = open_classifier(path, Provider.CPU, None, SHAPE)
    np.testing.assert_allclose(artifact.run_images(IMAGES), scores(IMAGES), rtol=1e-4, atol=1e-3)


def test_a_packed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSCERT_MAX_BYTES", "1000000")
    path = tmp_path / "model.onnx.gz"
    path.write_bytes(gzip.compress(bytes(2_000_000)))
    with pytest.raises(AbscertError, match="1,000,000 bytes"):
        open_classifier(path, Provider.CPU, None, SHAPE)


@pytest.mark.parametrize(
    ("sizes", "opening", "shape", "match"),
    [
        (["n", 47], Opening(), SHAPE, "an image shape of 47 values"),
        (["n", 3, 4, 4], Opening(layout=Layout.NHWC), SHAPE, "fits the input .* in nhwc"),
        (["n", 3, 4, 4], Opening(layout=Layout.FLAT), SHAPE, "layout nchw or nhwc"),
        (["n", 48], Opening(), None, "is flat; give its --image-shape"),
        (["n", 3, 4, 4], Opening(scale=InputScale(mean=(1.0, 2.0))), SHAPE, "expected one mean or 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, sizes: list[Any], opening: Opening, shape: tuple[int, int, int] | None, match: str
) -> None:
    path = graphs.save(model(sizes), tmp_path)
    with pytest.raises(ConfigError, match=match) as caught:
        open_foreign(path, Provider.CPU, opening, shape)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_this_project_says_itself_how_it_reads(tmp_path: Path) -> None:
    path = graphs.save(graphs.deployed(), tmp_path)
    assert isinstance(open_classifier(path, Provider.CPU), Artifact)
    with pytest.raises(ConfigError, match="says itself how it reads images"):
        open_classifier(path, Provider.CPU, Opening(scale=InputScale(PIXELS)))


numbers = st.floats(-300, 300, allow_nan=False, width=32)


@given(
    low=numbers,
    width=st.floats(0.01, 600),
    mean=numbers,
    std=st.floats(0.01, 300),
    pixels=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_ends_hold_the_scale_exactly_and_in_float32(
    low: float, width: float, mean: float, std: float, pixels: list[float]
) -> None:
    scale = InputScale((low, low + width), (mean,), (std,))
    made = Preprocessing((1, 2, 2), False, (4,), "float32", scale)
    images = np.array(pixels, dtype=np.float32).reshape(1, 1, 2, 2)
    lower, upper = (end.ravel() for end in made.ends(images, images))
    high = scale.input_range[1]
    exact = [
        (Fraction(low) + Fraction(pixel) * (Fraction(high) - Fraction(low)) - Fraction(mean)) / Fraction(std)
        for pixel in pixels
    ]
    f = np.float32
    ways = [
        np.array([float(value) for value in exact], dtype=np.float32),
        made.apply(images).ravel(),
        (images.ravel() * f(high - low) + f(low) - f(mean)) / f(std),
        (images.ravel() * f(high - low) + (f(low) - f(mean))) * (f(1) / f(std)),
        images.ravel() * (f(high - low) / f(std)) + (f(low) / f(std) - f(mean) / f(std)),
    ]
    for found in ways:
        assert (lower <= found).all()
        assert (found <= upper).all()
    for value, least, most in zip(exact, lower.tolist(), upper.tolist(), strict=True):
        assert Fraction(least) <= value <= Fraction(most)


def test_a_file_of_this_project_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graphs.save(graphs.deployed(), tmp_path)
    read: list[Path] = []

    def reading(path: Path) -> ModelProto:
        read.append(path)
        return read_model(path)

    for module in (foreign, opened):
        monkeypatch.setattr(module, "read_model", reading)
    assert open_classifier(path, Provider.CPU).grid is not None
    assert read == [path]
