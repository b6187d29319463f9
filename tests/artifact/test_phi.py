"""phi as ONNX nodes: equal to the grid to the bit, and no other graph passes for it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphs as graphs
import onnxruntime
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from abscert_plugin.artifact.contract import check_artifact
from abscert_plugin.artifact.metadata import IMAGE, INTERVAL, LOGITS
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.grid import Grid

PATH = Path("deploy.onnx")


@functools.cache
def _session(grid: Grid) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        graphs.phi_model(grid).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _phi(grid: Grid, images: np.ndarray) -> np.ndarray:
    return _session(grid).run(None, {IMAGE: images})[0]


@pytest.mark.parametrize("first", range(1, 256, 51))
def test_phi_graph_equals_the_grid_at_every_edge_and_its_neighbours(first: int) -> None:
    for cells in range(first, first + 51):
        edges = Grid(cells).edges
        ideal = (np.arange(cells + 1) / cells).astype(np.float32)
        near = [edges, ideal, *(np.nextafter(edges, np.float32(end)) for end in (-1, 2))]
        tiny = np.array([np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).tiny], dtype=np.float32)
        pixels = np.concatenate([*near, tiny, np.linspace(0, 1, 256, dtype=np.float32)])
        images = pixels[(pixels >= 0) & (pixels <= 1)].reshape(1, 1, 1, -1)
        assert _phi(Grid(cells), images).tobytes() == Grid(cells).interval_image(images).tobytes(), cells


@given(grid=strategies.grids(), data=st.data())
def test_phi_graph_equals_the_grid_on_any_pixels(grid: Grid, data: st.DataObject) -> None:
    images = data.draw(strategies.pixel_images(grid, (2, 3, 2, 2)))
    assert _phi(grid, images).tobytes() == grid.interval_image(images).tobytes()


@pytest.mark.parametrize("cells", [1, 2, 5, 8, 9, 255])
def test_a_pixel_of_no_number_costs_no_other_image_its_cells(cells: int) -> None:
    images = np.full((4, 1, 1, 2), 0.7, dtype=np.float32)
    images[:3, 0, 0, 0] = np.inf, -np.inf, np.nan
    found, inside = _phi(Grid(cells), images), np.nan_to_num(images, posinf=1.0, neginf=0.0)
    assert found[[0, 1, 3]].tobytes() == Grid(cells).interval_image(inside[[0, 1, 3]]).tobytes()


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23])
def test_phi_graph_means_the_same_in_later_operator_sets(opset: int) -> None:
    images = graphs.random_images(3)
    (interval,) = graphs.run(graphs.phi_model(Grid(10), opset), images)
    assert interval.tobytes() == Grid(10).interval_image(images).tobytes()


@pytest.mark.parametrize("cells", [1, 2, 5, 128, 129, 255])
def test_check_accepts_what_export_writes(cells: int) -> None:
    assert check_artifact(graphs.deployed(cells), PATH).grid == Grid(cells)


def _table(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == f"phi/{name}")


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def _shifted(name: str, index: int, towards: float) -> Callable[[onnx.ModelProto], None]:
    def break_it(model: onnx.ModelProto) -> None:
        tensor = _table(model, name)
        values = numpy_helper.to_array(tensor).copy()
        values[index] = np.nextafter(values[index], np.float32(towards))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return break_it


def _swap_lower_and_upper_tables(model: onnx.ModelProto) -> None:
    lower, upper = _table(model, "lower"), _table(model, "upper")
    lower.raw_data, upper.raw_data = upper.raw_data, lower.raw_data


def _swap_concatenation(model: onnx.ModelProto) -> None:
    _node(model, INTERVAL).input[:] = ["phi/upper_ends", "phi/lower_ends"]


def _change_step(model: onnx.ModelProto) -> None:
    _table(model, "step_2").CopyFrom(numpy_helper.from_array(np.array(3, dtype=np.int64), "phi/step_2"))


def _edge_to_the_lower_cell(model: onnx.ModelProto) -> None:
    _node(model, "phi/above_2").op_type = "Greater"


def _foreign_operator(model: onnx.ModelProto) -> None:
    _node(model, "phi/edge_2").domain = "com.example"


def _change_axis(model: onnx.ModelProto) -> None:
    _node(model, INTERVAL).attribute[0].i = 2


def _drop_search(model: onnx.ModelProto) -> None:
    kept = [node for node in model.graph.node if node.name != "phi/cell_1"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _node(model, "phi/lower_ends").input[1] = "phi/cell_2"


def _read_image(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [IMAGE], ["peek"], "peek"))


def _read_image_in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", [IMAGE], ["seen"])], "branch", [], [graphs.value("seen", None)]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["peek"], "peek", then_branch=branch, else_branch=branch))


def _give_image_out_of_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [graphs.value(IMAGE, None)])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["peek"], "peek", then_branch=branch, else_branch=branch))


def _give_image_out(model: onnx.ModelProto) -> None:
    model.graph.output.append(graphs.value(IMAGE, None))


def _bypass(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Concat", [IMAGE, IMAGE], [INTERVAL], "other", axis=1))


def _two_tables(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(_table(model, "edges"))


def _sparse_table(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([0.3], dtype=np.float32), "phi/edges"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1], dtype=np.int64), "phi/indices"))
    sparse.dims.append(8)


def _replaceable_table(model: onnx.ModelProto) -> None:
    model.graph.input.append(graphs.value("phi/edges", [8]))


def _constant_cells(model: onnx.ModelProto) -> None:
    cells = np.zeros((1, *graphs.SHAPE), dtype=np.int64)
    model.graph.initializer.append(numpy_helper.from_array(cells, "phi/cell_1"))


def _other_cells(model: onnx.ModelProto) -> None:
    next(entry for entry in model.metadata_props if entry.key == "abscert.cells").value = "6"


BREAKS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "an edge one ulp up": _shifted("edges", 2, 1),
    "an edge one ulp down": _shifted("edges", 4, 0),
    "a lower end one ulp up": _shifted("lower", 0, 1),
    "an upper end one ulp down": _shifted("upper", 4, -1),
    **{
        function.__name__: function
        for function in (
            _swap_lower_and_upper_tables,
            _swap_concatenation,
            _change_step,
            _edge_to_the_lower_cell,
            _foreign_operator,
            _change_axis,
            _drop_search,
            _read_image,
            _read_image_in_a_branch,
            _give_image_out_of_a_branch,
            _give_image_out,
            _bypass,
            _two_tables,
            _sparse_table,
            _replaceable_table,
            _constant_cells,
            _other_cells,
        )
    },
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS.keys())
def test_check_refuses_a_graph_that_is_not_phi(break_it: Callable[[onnx.ModelProto], None]) -> None:
    model = graphs.deployed(5)
    check_artifact(model, PATH)
    break_it(model)
    with pytest.raises(UnsupportedModelError, match="is not the abstraction that its metadata name") as error:
        check_artifact(model, PATH)
    assert "\n" not in str(error.value)


@given(cells=st.integers(2, 255), table=st.sampled_from(["edges", "lower", "upper"]), data=st.data())
def test_check_refuses_any_table_off_by_one_ulp(cells: int, table: str, data: st.DataObject) -> None:
    model = graphs.deployed(cells)
    index = data.draw(st.integers(0, cells - 1))
    _shifted(table, index, data.draw(st.sampled_from([-2, 2])))(model)
    with pytest.raises(UnsupportedModelError, match="not the abstraction"):
        check_artifact(model, PATH)


def test_an_edge_one_ulp_up_would_change_a_cell() -> None:
    model = graphs.deployed(5)
    edge = Grid(5).edges[2]
    images = np.full((1, *graphs.SHAPE), edge, dtype=np.float32)
    expected = Grid(5).interval_image(images)
    _shifted("edges", 2, 1)(model)
    model.graph.output.append(graphs.value(INTERVAL, None))
    (interval,) = graphs.run(model, images, [INTERVAL])
    assert (interval != expected).all()


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_check_refuses_functions_that_replace_operators(domain: str) -> None:
    model = graphs.deployed()
    node = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function(domain, "Gather", ["a"], ["b"], [node], model.opset_import))
    with pytest.raises(UnsupportedModelError, match="functions under the names of standard operators"):
        check_artifact(model, PATH)


def test_check_refuses_a_second_input() -> None:
    model = graphs.deployed()
    model.graph.input.append(graphs.value("mask", [1]))
    with pytest.raises(UnsupportedModelError, match=r"expected one input.*'mask'"):
        check_artifact(model, PATH)


def test_check_refuses_another_name_of_the_input() -> None:
    model = graphs.deployed()
    model.graph.input[0].name = "data"
    with pytest.raises(UnsupportedModelError, match=r"expected one input.*'data'"):
        check_artifact(model, PATH)


def test_check_accepts_an_interval_network_without_phi() -> None:
    model = graphs.deployed()
    abstract = onnx.ModelProto()
    abstract.CopyFrom(model)
    kept = [node for node in model.graph.node if node.output[0] in ("flat", LOGITS)]
    del abstract.graph.node[:], abstract.graph.input[:]
    abstract.graph.node.extend(kept)
    abstract.graph.input.append(graphs.value(INTERVAL, ["batch", 6, 4, 4]))
    assert check_artifact(abstract, PATH).grid == Grid(5)
