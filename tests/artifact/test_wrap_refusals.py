"""Wrap refuses what it cannot put under abstraction, in one line that says why, and writes nothing."""

import contextlib
import errno
import os
from pathlib import Path

import bad_models as bad
import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from midpoint_oracle import assert_logits, listed, midpoints, stored_images
from onnx import TensorProto

from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.blackbox import BlackBox
from abscert_plugin.errors import AbscertError, ConfigError, ExportError, GridError, UnsupportedModelError
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import InputScale, Layout

pytestmark = pytest.mark.slow  # the file as a whole

CELLS = 7
OPTIONS = WrapOptions(Grid(CELLS))
FILES = ["abstract.onnx", "deploy.onnx"]


def refuse(
    path: Path,
    folder: Path,
    match: str,
    options: WrapOptions = OPTIONS,
    error: type[AbscertError] = UnsupportedModelError,
) -> str:
    """Check that this is refused, in one line, and that what `folder` holds stays as it was; return the line."""
    before = contents(folder)
    with pytest.raises(error, match=match) as caught:
        wrap(path, folder, options)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in listed(folder) if (folder / name).is_file()}


# files


@pytest.mark.parametrize("kind", bad.BAD_FILES)
def test_bad_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, match = bad.BAD_FILES[kind]
    path = make(tmp_path)
    assert str(path) in refuse(path, tmp_path / "out", match)


def test_what_the_bad_files_were_made_from_is_wrapped(tmp_path: Path) -> None:
    """Else they could be refused for something else than what is wrong with them."""
    wrapped = wrap(bad.good(tmp_path), tmp_path / "out", OPTIONS)
    assert wrapped.notes == ()
    wrap(bad.with_weights_at("inner/model.data")(tmp_path), tmp_path / "out", OPTIONS)
    wrap(bad.with_input(TensorProto.FLOAT, ["batch", 3, 4, 4])(tmp_path), tmp_path / "out", OPTIONS)
    assert listed(tmp_path / "out") == FILES


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_two_versions_of_operators_are_refused(tmp_path: Path, domain: str) -> None:
    """Onnxruntime takes the one that it reads last; an operator may mean another thing in the other one."""
    model = graphs.linear()
    model.opset_import.append(onnx.helper.make_opsetid(domain, 11))
    onnx.save(model, tmp_path / "two.onnx")
    refuse(tmp_path / "two.onnx", tmp_path / "out", "one version of the operators of ONNX")


@pytest.mark.parametrize("by_node", [True, False], ids=["node", "initializer"])
def test_dropout_that_is_off_is_no_random_number(tmp_path: Path, by_node: bool) -> None:
    path = graphs.save(bad.dropout(training=False, by_node=by_node), tmp_path)
    stored = stored_images(4, graphs.SHAPE)
    expected = midpoints(stored, CELLS).reshape(4, -1) @ graphs.weights().astype(np.float64)
    assert_logits(wrap(path, tmp_path / "out", OPTIONS), stored, CELLS, expected)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = graphs.linear().SerializeToString()
    path = tmp_path / bad.NAME
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refuse(path, tmp_path / "out", "is not an ONNX model|is empty")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_one_wrong_byte_is_wrapped_or_refused_and_nothing_between(tmp_path: Path, place: float, value: int) -> None:
    model = graphs.linear(before=[("Relu", ["x"], ["z"], {})], source="z")
    content = bytearray(model.SerializeToString())
    content[int(place * len(content))] = value
    path, out = tmp_path / bad.NAME, tmp_path / "out"
    path.write_bytes(content)
    for name in listed(out):
        (out / name).unlink()
    with contextlib.suppress(AbscertError):
        wrap(path, out, OPTIONS)
        assert listed(out) == FILES
        return
    assert listed(out) == []


def test_logits_that_change_from_run_to_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = BlackBox.run, []

    def drift(self: BlackBox, inputs: np.ndarray) -> np.ndarray:
        calls.append(1)
        return run(self, inputs) * np.float32(1 + len(calls) * 2.0**-20)

    monkeypatch.setattr(BlackBox, "run", drift)
    refuse(bad.good(tmp_path), tmp_path / "out", "gives other logits for the same image when run again")


def test_a_free_batch_that_mixes_images_is_fixed_to_1(tmp_path: Path) -> None:
    """Alone, an image has logits that no other image changes; only that is what a verdict may rest on."""
    wrapped = wrap(graphs.save(bad.mixing_images("batch"), tmp_path), tmp_path / "out", OPTIONS)
    assert len(wrapped.notes) == 1
    assert "other logits for images of a batch than alone" in wrapped.notes[0]
    (port,) = onnx.load_model(str(wrapped.deploy)).graph.input
    assert port.type.tensor_type.shape.dim[0].dim_value == 1


# options

NCHW: list[int | str] = ["batch", 3, 4, 4]
FREE = ["batch", "c", "h", "w"]
FLAT = ["batch", 48]
LAST = ["batch", 32, 32, 3]


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        (NCHW, {"layout": Layout.FLAT}, r"layout nchw or nhwc for the input 'x' \(float \[\?, 3, 4, 4\]\), got flat"),
        (LAST, {}, "may have its channels last; say --layout nhwc"),
        (["batch", 16, 3], {"image_shape": (3, 4, 4)}, "may have its channels last; say --layout nhwc"),
        (["batch", 1, 4, 4, 3], {"image_shape": (3, 4, 4)}, "may have its channels last; say --layout nhwc"),
        (FREE, {}, "leaves sizes free; give its --image-shape"),
        (FLAT, {}, "is flat; give its --image-shape"),
        (FLAT, {"image_shape": (3, 4, 5)}, "image shape of 48 values as the input .*, got 3,4,5"),
        (NCHW, {"image_shape": (4, 4, 3)}, "that fits the input .* in nchw, got 4,4,3"),
        (NCHW, {"image_shape": (3, 4, 4), "layout": Layout.NHWC}, "that fits the input .* in nhwc, got 3,4,4"),
        (NCHW, {"image_shape": (0, 4, 4)}, "channels,height,width of sizes from 1, got 0,4,4"),
        (FLAT, {"image_shape": (-3, -4, 4)}, "channels,height,width of sizes from 1, got -3,-4,4"),
        (NCHW, {"scale": InputScale(mean=(0.5, 0.5))}, "expected one mean or 3, one for each channel, got 2"),
        (NCHW, {"scale": InputScale(mean=())}, "expected one mean or 3, one for each channel, got 0"),
        (NCHW, {"scale": InputScale(std=(0.5,) * 4)}, "expected one std or 3, one for each channel, got 4"),
        (NCHW, {"output": "probabilities"}, "output that holds the logits, got 'probabilities'; it has 'y'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, shape: list[int | str], options: dict[str, object], match: str
) -> None:
    path = bad.with_input(TensorProto.FLOAT, shape)(tmp_path)
    chosen = WrapOptions(Grid(CELLS), **options)  # type: ignore[arg-type]
    assert str(path) in refuse(path, tmp_path / "out", match, chosen, ConfigError)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"input_range": (1.0, 1.0)}, "low < high, got 1,1"),
        ({"input_range": (255.0, 0.0)}, "low < high, got 255,0"),
        ({"input_range": (0.0, float("inf"))}, "finite"),
        ({"mean": (float("nan"),)}, "finite"),
        ({"std": (float("inf"),)}, "finite"),
        ({"std": (1.0, 0.0, 1.0)}, "every std above 0"),
        ({"std": (-0.5,)}, "every std above 0"),
        ({"std": ()}, "every std above 0"),
        ({"input_range": (0.0, 1e39)}, "at most 8.5e"),
        ({"std": (1e-40,)}, "at most 8.5e"),
        ({"input_range": (0.0, 1e30), "std": (1e-10,)}, "at most 8.5e"),
        ({"mean": (1e30,), "std": (1.0, 1e-10)}, "at most 8.5e"),
    ],
)
def test_scales_without_meaning_are_refused(arguments: dict[str, tuple[float, ...]], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        InputScale(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "scale", [InputScale(), InputScale((-1.0, 1.0)), InputScale((0.0, 255.0), mean=(127.5,))], ids=str
)
def test_a_model_that_reads_bytes_is_given_bytes_alone(tmp_path: Path, scale: InputScale) -> None:
    path = bad.with_input(TensorProto.UINT8, NCHW)(tmp_path)
    match = "input range of 0,255 without mean and std for a model that reads bytes"
    refuse(path, tmp_path / "out", match, WrapOptions(Grid(CELLS), scale=scale), ConfigError)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(8), scale=InputScale((0.0, 255.0))))
    stored = stored_images(4, graphs.SHAPE)
    assert_logits(wrapped, stored, 8, np.rint(255 * midpoints(stored, 8)).reshape(4, -1))


def test_a_model_that_reads_small_integers_is_given_no_larger_ones(tmp_path: Path) -> None:
    path = bad.with_input(TensorProto.INT8, NCHW)(tmp_path)
    match = "input range of -128,127 without mean and std for a model that reads .* got 0,255"
    refuse(path, tmp_path / "out", match, WrapOptions(Grid(CELLS), scale=InputScale((0.0, 255.0))), ConfigError)
    wrapped = wrap(path, tmp_path / "out", WrapOptions(Grid(8), scale=InputScale((-128.0, 127.0))))
    stored = stored_images(4, graphs.SHAPE)
    assert_logits(wrapped, stored, 8, np.rint(255 * midpoints(stored, 8) - 128).reshape(4, -1))


@pytest.mark.parametrize("shape", [["batch", 3, 16], ["batch", 16, 3], ["batch", 1, 4, 4, 3]], ids=str)
def test_pixels_on_one_axis_are_put_where_the_layout_says(tmp_path: Path, shape: list[int | str]) -> None:
    path = bad.with_input(TensorProto.FLOAT, shape)(tmp_path)
    is_last = shape[-1] == 3
    options = WrapOptions(Grid(CELLS), image_shape=(3, 4, 4), layout=Layout.NHWC if is_last else None)
    wrapped = wrap(path, tmp_path / "out", options)
    stored = stored_images(4, graphs.SHAPE)
    middle = midpoints(stored, CELLS)
    assert_logits(wrapped, stored, CELLS, (middle.transpose(0, 2, 3, 1) if is_last else middle).reshape(4, -1))


def test_several_outputs_that_may_be_logits_are_listed(tmp_path: Path) -> None:
    model = graphs.linear(after=[("Softmax", ["y"], ["p"], {"axis": 1})])
    model.graph.output.append(graphs.value("y", ["batch", graphs.CLASSES]))
    path = graphs.save(model, tmp_path)
    refuse(path, tmp_path / "out", r"name one with --output: 'p' .*, 'y' ", error=ConfigError)
    stored = stored_images(4, graphs.SHAPE)
    logits = midpoints(stored, CELLS).reshape(4, -1) @ graphs.weights().astype(np.float64)
    powers = np.exp(logits)
    for name, expected in (("y", logits), ("p", powers / powers.sum(axis=1, keepdims=True))):
        wrapped = wrap(path, tmp_path / name, WrapOptions(Grid(CELLS), output=name))
        assert_logits(wrapped, stored, CELLS, expected)


@pytest.mark.parametrize("cells", [0, -1, 65_536])
def test_a_grid_that_cannot_exist_is_refused(cells: int) -> None:
    with pytest.raises(GridError, match=f"from 1 to 65,535, got {cells}"):
        WrapOptions(Grid(cells))


# where it is written


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_place_of_the_folder_is_kept(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    path = bad.good(tmp_path)
    match = f"cannot write into .*{out}: .*choose another folder"
    with pytest.raises(ExportError, match=match):
        wrap(path, tmp_path / out, OPTIONS)
    assert (tmp_path / "file").read_text() == "mine"
    assert listed(tmp_path) == ["file", bad.NAME]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    refuse(bad.good(tmp_path), out, "cannot write into .*out: Permission denied", error=ExportError)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_kept(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    refuse(bad.good(tmp_path), out, f"{name}, but a folder of this name is there", error=ExportError)
    assert listed(out) == [name]


@pytest.mark.parametrize("full", [bad.NAME, *FILES])
def test_a_full_disk_leaves_what_an_earlier_wrap_wrote(
    tmp_path: Path, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = bad.good(tmp_path), tmp_path / "out"
    wrap(path, out, WrapOptions(Grid(3)))
    write_bytes = Path.write_bytes

    def fill(target: Path, content: bytes) -> int:
        if target.name == full:
            write_bytes(target, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(target, content)

    monkeypatch.setattr(Path, "write_bytes", fill)
    refuse(path, out, "cannot write into .*: No space left on device; free space there", error=ExportError)
    assert listed(out) == FILES


@pytest.mark.parametrize("name", FILES)
def test_the_source_is_never_overwritten(tmp_path: Path, name: str) -> None:
    path = graphs.save(graphs.linear(), tmp_path, name)
    match = f"{name} belongs to the classifier itself and would be replaced; choose another folder"
    refuse(path, tmp_path, match, error=ConfigError)
    assert listed(tmp_path) == [name]
    assert path.read_bytes() == graphs.linear().SerializeToString()


def test_the_source_is_not_overwritten_by_another_name_of_it(tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    out.mkdir()
    path = graphs.save(graphs.linear(), models)
    (out / "deploy.onnx").symlink_to(path)
    refuse(path, out, "deploy.onnx belongs to the classifier itself", error=ConfigError)
    (tmp_path / "link").symlink_to(out / "deploy.onnx")
    refuse(tmp_path / "link", out, "deploy.onnx belongs to the classifier itself", error=ConfigError)
    assert (out / "deploy.onnx").is_symlink()
    (tmp_path / "same").symlink_to(models)
    graphs.save(graphs.linear(), models, "abstract.onnx")
    refuse(models / "abstract.onnx", tmp_path / "same", "abstract.onnx belongs to", error=ConfigError)


def test_the_tensors_of_the_source_are_not_overwritten(tmp_path: Path) -> None:
    path = bad.with_weights_at("deploy.onnx.data")(tmp_path)
    refuse(path, path.parent, "deploy.onnx.data belongs to the classifier itself", error=ConfigError)
    wrap(path, tmp_path / "out", OPTIONS)
    assert listed(tmp_path / "out") == FILES
