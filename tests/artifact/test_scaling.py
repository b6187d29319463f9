"""Files of plain images: what `export_plain` writes, what is refused, and what the commands make of them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
import torch
from command_line import abscert, contents, refused
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tiny_networks import run_onnx
from torch import nn

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.export import export
from abscert_plugin.artifact.metadata import IMAGE, SCALED, read_metadata
from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.plain import export_plain
from abscert_plugin.blackbox import Provider
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.front import Cells, Pixels
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig

SHAPE = (1, 8, 8)
CLASSES = 10
CONFIG = NetworkConfig("fc-3-code", Activation.RELU, SHAPE, CLASSES, takes_intervals=False)
PROBES = np.random.default_rng(1).random((4, *SHAPE), dtype=np.float32)
PATH = Path("deploy.onnx")
ON = ("--data", "digits", "--limit", 10)
Edit = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return CONFIG.build(0).eval()


@pytest.fixture(scope="module")
def deploy(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_plain(network, CONFIG, "method=none", PROBES, tmp_path_factory.mktemp("plain")).deploy


@pytest.fixture(scope="module")
def with_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = NetworkConfig("fc-3-code", Activation.RELU, SHAPE, CLASSES)
    return export(config.build(0), config, Grid(3), "none", PROBES, tmp_path_factory.mktemp("cells")).deploy


def load(path: Path) -> onnx.ModelProto:
    return onnx.load_model(str(path))


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_file_says_what_it_is(deploy: Path) -> None:
    model = load(deploy)
    metadata = check_artifact(model, deploy)
    assert metadata == read_metadata(model, deploy)
    assert (metadata.image_shape, metadata.classes) == (SHAPE, CLASSES)
    assert (metadata.network, metadata.training) == ("fc-3-code-relu", "method=none")
    assert dict(metadata.as_properties()) == {entry.key: entry.value for entry in model.metadata_props}
    assert [value.name for value in model.graph.input] == [IMAGE]
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_value for size in dimensions[1:]] == list(SHAPE)
    assert dimensions[0].dim_param  # a free batch
    onnx.checker.check_model(model, full_check=True)


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_the_files_logits_are_those_of_torch(network: nn.Module, deploy: Path, seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    images = random.random((count, *SHAPE), dtype=np.float32)
    images = np.where(random.random(images.shape) < 0.2, np.rint(images), images)  # pixels of 0 and 1
    with torch.no_grad():
        expected = network(2 * torch.from_numpy(images) - 1).numpy()
    np.testing.assert_allclose(run_onnx(deploy, images)[0], expected, rtol=0, atol=1e-4)  # sums in another order


def test_another_scaling_would_be_told_by_the_logits(network: nn.Module, deploy: Path) -> None:
    with torch.no_grad():
        unscaled = network(torch.from_numpy(PROBES)).numpy()
    assert np.abs(run_onnx(deploy, PROBES)[0] - unscaled).max() > 1e-2


def test_nothing_else_is_written(deploy: Path) -> None:
    assert set(contents(deploy.parent)) == {"deploy.onnx"}


def test_what_is_scaled_lies_in_the_training_domain(deploy: Path) -> None:
    model = load(deploy)
    model.graph.output.append(graphs.value(SCALED, None))
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, *SHAPE)
    (scaled,) = graphs.run(model, pixels, [SCALED])
    assert np.array_equal(scaled, 2 * pixels - np.float32(1))
    assert (scaled.min(), scaled.max()) == (-1, 1)


def test_the_scaling_has_the_form_that_verifiers_read(deploy: Path) -> None:
    graph = load(deploy).graph
    given = {item.name: item for item in graph.initializer}
    front = [item for item in graph.node if item.output[0] in (SCALED, "scaling/doubled")]
    assert [item.op_type for item in front] == ["Add", "Add"]  # Marabou has no Sub of a smaller constant
    assert list(front[0].input) == [IMAGE, IMAGE]  # auto_LiRPA's patches have no Mul by one factor for all channels
    assert list(given[front[1].input[1]].dims) == [1, 1, 1, 1]


def with_former_scaling(path: Path, folder: Path) -> Path:
    """Return a copy of a file with the scaling as it was written before."""
    model = load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, dtype=np.float32), "scaling/two"))
    first = node(model, "scaling/doubled")
    first.op_type, first.input[1] = "Mul", "scaling/two"
    tensor(model, "scaling/minus_one").CopyFrom(numpy_helper.from_array(np.array(1, dtype=np.float32), "scaling/one"))
    last = node(model, SCALED)
    last.op_type, last.input[1] = "Sub", "scaling/one"
    return graphs.save(model, folder)


def test_a_former_file_still_opens_and_gives_the_same_bits(deploy: Path, tmp_path: Path) -> None:
    former = with_former_scaling(deploy, tmp_path)
    assert check_artifact(load(former), former) == check_artifact(load(deploy), deploy)
    assert np.array_equal(run_onnx(former, PROBES)[0], run_onnx(deploy, PROBES)[0])


# --- what is refused --------------------------------------------------------------------------------------------------


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(item for item in model.graph.initializer if item.name == name)


def node(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if output in item.output)


def constant(name: str, value: float, kind: type = np.float32) -> Edit:
    return lambda model: tensor(model, name).CopyFrom(
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, dtype=kind), name)
    )


def add(*nodes: onnx.NodeProto) -> Edit:
    return lambda model: model.graph.node.extend(nodes)


def branch(model: onnx.ModelProto) -> None:
    inside = helper.make_graph(
        [helper.make_node("Relu", [IMAGE], ["seen"])], "inside", [], [graphs.value("seen", None)]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["peek"], "peek", then_branch=inside, else_branch=inside))


def sparse(model: onnx.ModelProto) -> None:
    stored = model.graph.sparse_initializer.add()
    stored.values.CopyFrom(numpy_helper.from_array(np.array([3], dtype=np.float32), "scaling/minus_one"))


def swap(model: onnx.ModelProto) -> None:
    node(model, SCALED).input[:] = ["scaling/minus_one", "scaling/doubled"]


def drop_node(model: onnx.ModelProto) -> None:
    kept = [item for item in model.graph.node if SCALED not in item.output]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def drop_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.remove(tensor(model, "scaling/minus_one"))


def add_former(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.float32), "scaling/one"))


REFUSED: dict[str, Edit] = {
    "another summand": lambda model: node(model, "scaling/doubled").input.__setitem__(1, "scaling/minus_one"),
    "an offset that is one ulp away": constant("scaling/minus_one", np.nextafter(np.float32(-1), np.float32(0))),
    "another offset": constant("scaling/minus_one", 0),
    "a constant of another type": constant("scaling/minus_one", -1, np.float64),
    "a constant of another rank": lambda model: tensor(model, "scaling/minus_one").CopyFrom(
        numpy_helper.from_array(np.array(-1, dtype=np.float32), "scaling/minus_one")
    ),
    "the former offset beside that of today": add_former,
    "a constant that is missing": drop_constant,
    "a constant that stands twice": lambda model: model.graph.initializer.append(tensor(model, "scaling/minus_one")),
    "a constant that is sparse too": sparse,
    "a constant that is an input too": lambda model: model.graph.input.append(graphs.value("scaling/minus_one", [])),
    "another operator": lambda model: setattr(node(model, SCALED), "op_type", "Sub"),
    "an operator of another domain": lambda model: setattr(node(model, SCALED), "domain", "com.example"),
    "swapped operands": swap,
    "a node that is missing": drop_node,
    "a second definition of scaled": add(helper.make_node("Identity", [IMAGE], [SCALED], "again")),
    "a second definition of doubled": add(helper.make_node("Identity", [SCALED], ["scaling/doubled"], "again")),
    "scaled as a constant": lambda model: model.graph.initializer.append(
        graphs.constant(SCALED, np.array([1], np.float32))
    ),
    "a second reader of the image": add(helper.make_node("Relu", [IMAGE], ["peek"], "peek")),
    "a reader of what lies between": add(helper.make_node("Relu", ["scaling/doubled"], ["peek"], "peek")),
    "a reader of the image in a branch": branch,
    "the image as an output": lambda model: model.graph.output.append(graphs.value(IMAGE, None)),
    "what lies between as an output": lambda model: model.graph.output.append(graphs.value("scaling/doubled", None)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_scaling_is_refused(deploy: Path, name: str) -> None:
    model = load(deploy)
    check_artifact(model, PATH)
    REFUSED[name](model)
    with pytest.raises(UnsupportedModelError, match="is not 2 x - 1"):
        check_artifact(model, PATH)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "com.example"])
def test_functions_are_refused(deploy: Path, domain: str) -> None:
    model = load(deploy)
    inside = helper.make_node("Add", ["a", "b"], ["c"])
    model.functions.append(helper.make_function(domain, "Sub", ["a", "b"], ["c"], [inside], model.opset_import))
    with pytest.raises(UnsupportedModelError, match="defines functions of its own"):
        check_artifact(model, PATH)


def test_another_input_is_refused(deploy: Path) -> None:
    model = load(deploy)
    model.graph.input.append(graphs.value("mask", [1]))
    with pytest.raises(UnsupportedModelError, match=r"expected the one input `image`, got .*'mask'"):
        check_artifact(model, PATH)
    model = load(deploy)
    model.graph.input[0].name = "data"
    with pytest.raises(UnsupportedModelError, match=r"expected the one input `image`, got \['data'\]"):
        check_artifact(model, PATH)


KEYS = ["version", "pixel_range", "image_shape", "classes", "network", "training"]


def without(model: onnx.ModelProto, key: str) -> None:
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != f"abscert.{key}"}
    del model.metadata_props[:]
    helper.set_model_props(model, kept)


@pytest.mark.parametrize("key", KEYS)
def test_missing_metadata_are_named(deploy: Path, key: str) -> None:
    model = load(deploy)
    without(model, key)
    with pytest.raises(UnsupportedModelError, match=f"lacks the metadata .*abscert.{key}"):
        check_artifact(model, PATH)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pixel_range", "0,255", "abscert.pixel_range = '0,1'"),
        ("image_shape", "1,8", "are not valid"),
        ("image_shape", "1,8,8,8", "are not valid"),
        ("image_shape", "1,8,eight", "are not valid"),
        ("image_shape", "", "are not valid"),
        ("image_shape", "0,8,8", "a size is less than 1"),
        ("image_shape", "1,-8,8", "a size is less than 1"),
        ("classes", "0", "a size is less than 1"),
        ("classes", "ten", "are not valid"),
        ("classes", "1e1", "are not valid"),
    ],
)
def test_metadata_without_meaning_are_refused(deploy: Path, tmp_path: Path, key: str, value: str, words: str) -> None:
    model = load(deploy)
    without(model, key)
    model.metadata_props.add(key=f"abscert.{key}", value=value)
    with pytest.raises(UnsupportedModelError, match=words):
        check_artifact(model, PATH)
    path = graphs.save(model, tmp_path)
    assert words in refused("verify", path, *ON, "--claim", "ball", "--radius", "0.1", "--out", tmp_path / "out")


# --- files are told apart ---------------------------------------------------------------------------------------------


def test_files_are_told_apart(deploy: Path, with_cells: Path) -> None:
    plain, abstracted = load(deploy), load(with_cells)
    abstract = load(with_cells.with_name("abstract.onnx"))
    fronts = [check_artifact(model, PATH).front for model in (plain, abstracted, abstract)]
    assert fronts == [Pixels(), Cells(Grid(3)), Cells(Grid(3))]
    with pytest.raises(UnsupportedModelError, match="lacks the metadata"):
        check_artifact(graphs.linear(), PATH)
    with pytest.raises(UnsupportedModelError, match="is a classifier of plain images, without cells"):
        Artifact.open(deploy, Provider.CPU).cells  # noqa: B018 - raises
    without(abstracted, "cells")
    without(abstracted, "domain")
    with pytest.raises(UnsupportedModelError, match="is not 2 x - 1"):
        check_artifact(abstracted, PATH)  # its metadata say all that a plain file's do


@pytest.mark.parametrize("key", ["cells", "domain"])
def test_a_plain_file_that_names_cells_is_not_taken_for_one(deploy: Path, key: str) -> None:
    model = load(deploy)
    model.metadata_props.add(key=f"abscert.{key}", value={"cells": "3", "domain": "-1,1"}[key])
    with pytest.raises(UnsupportedModelError, match="lacks the metadata"):
        check_artifact(model, PATH)
    model.metadata_props.add(key="abscert.cells", value="3")
    model.metadata_props.add(key="abscert.domain", value="-1,1")
    with pytest.raises(UnsupportedModelError, match="not the abstraction"):
        check_artifact(model, PATH)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_claim_cell_is_refused_in_one_line(deploy: Path, tmp_path: Path) -> None:
    said = {
        (): "expected --radius for the claim ball",
        ("--claim", "cell"): "without cells: verify it with --claim ball",
    }
    for claim, words in said.items():
        assert words in refused("verify", deploy, *ON, *claim, "--out", tmp_path / "out")
        assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_ball_of_a_plain_file_is_verified_shown_and_checked(deploy: Path, tmp_path: Path) -> None:
    out, certificate = tmp_path / "out", tmp_path / "c.json"
    options = ("--claim", "ball", "--radius", "0.02", "--out", out, "--certificate", certificate)
    assert abscert("verify", deploy, *ON, *options, "--json").json["images"] == 10
    for arguments in ((out,), (out, "--html", tmp_path / "page.html")):
        assert "cell" not in abscert("show", *arguments).err
    assert (tmp_path / "page.html").stat().st_size > 1000
    assert abscert("check", certificate, deploy, "--data", "digits", "--json").json["holds"] is True


def test_a_certificate_of_cells_is_not_one_of_a_plain_file(deploy: Path, with_cells: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "c.json"
    abscert("verify", with_cells, *ON, "--out", tmp_path / "out", "--certificate", certificate, "--json")
    checks = abscert("check", certificate, deploy, "--data", "digits", "--json", status=1).json["checks"]
    failed = {check["name"]: check["detail"] for check in checks if not check["holds"]}
    assert set(failed) == {"model", "grid", "network"}


def test_a_certificate_of_cells_that_names_the_plain_file_fails_in_one_line(
    deploy: Path, with_cells: Path, tmp_path: Path
) -> None:
    certificate = tmp_path / "c.json"
    abscert("verify", with_cells, *ON, "--out", tmp_path / "out", "--certificate", certificate, "--json")
    value = json.loads(certificate.read_text())
    value["model"]["sha256"] = hashlib.sha256(deploy.read_bytes()).hexdigest()
    certificate.write_text(json.dumps(value))
    result = abscert("check", certificate, deploy, "--data", "digits", "--json", status=1)
    assert result.err == ""
    (detail,) = [check["detail"] for check in result.json["checks"] if "fits" in check["name"]]
    assert "without cells" in detail
    assert "\n" not in detail
