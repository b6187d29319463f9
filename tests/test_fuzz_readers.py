"""Files of trainings, verifications and models, changed as no program would: one line and a status, never 70."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import FAST, abscert, linear_model, train
from fuzzing import Reader, fuzz
from hypothesis import strategies as st
from mutations import ODD_VALUES, byte_files, json_files, json_line_files

from abscert_plugin.data import Split, load_data
from abscert_plugin.records import read_records

BALL = ("--claim", "ball", "--radius", "0.3", "--limit", 3)
RESUME = ("--resume", "--out", "HERE")
SHOW = ("show", "HERE", "--html", "HERE/page.html")
CARD = ("card", "HOME/deploy.onnx", "--out", "HERE/card")
AGAIN = ("verify", "HOME/deploy.onnx", *BALL, "--out", "HERE")


def metadata(content: bytes) -> st.SearchStrategy[bytes]:
    """Return an ONNX file with one entry of its metadata changed, removed or doubled."""
    model = onnx.load_model_from_string(content)
    held = {entry.key: entry.value for entry in model.metadata_props}
    texts = st.one_of(st.sampled_from([value for value in ODD_VALUES if isinstance(value, str)]), st.text(max_size=5))

    def changed(key: str, value: str | None) -> bytes:
        del model.metadata_props[:]
        kept = {name: text for name, text in held.items() if name != key}
        added = {} if value is None else {key: value.encode("utf-8", "replace").decode()}
        onnx.helper.set_model_props(model, kept | added)
        return bytes(model.SerializeToString())

    return st.builds(changed, st.sampled_from([*held, "abscert.edges"]), st.one_of(st.none(), texts))


@st.composite
def graph_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Return an ONNX file with one to three bytes changed that belong to no tensor's values."""
    changed, values = bytearray(content), set()
    for tensor in onnx.load_model_from_string(content).graph.initializer:
        begin = content.find(tensor.raw_data) if len(tensor.raw_data) > 100 else 0
        values |= set(range(begin, begin + len(tensor.raw_data))) if begin else set()
    places = sorted(set(range(len(content))) - values)
    for place in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        changed[place] = draw(st.one_of(st.integers(0, 255), st.just(changed[place] ^ 1)))
    return bytes(changed)


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    """Return what onnxruntime gives for images, one by one."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    return np.concatenate([session.run(None, {port.name: image[None]})[0] for image in images])


def certified_is_answered(here: Path) -> None:
    """Assert that the file, run by onnxruntime alone, gives certified images their labels."""
    rows = read_records(here / "out" / "records.jsonl")
    test = load_data("digits", Split.TEST).first(len(rows))
    logits = logits_of(here / "deploy.onnx", test.pixels(test.take(np.arange(len(rows))).images))
    for row, found in zip(rows, logits, strict=True):
        if row.verdict == "certified":
            assert found[row.label] >= found.max() - 1e-4 * np.abs(found).max()  # of another order of sums


def wrapped_is_the_model(here: Path) -> None:
    """Assert that the wrapped file gives the model's logits of the mid-points of two cells."""
    session = onnxruntime.InferenceSession(str(here / "out" / "deploy.onnx"), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    middle = np.where(images < 0.5, 0.25, 0.75).astype(np.float32)
    found, expected = logits_of(here / "out" / "deploy.onnx", images), logits_of(here / "model.onnx", middle)
    assert np.allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


READERS = (
    Reader(
        "run/checkpoint.json",
        json_files,
        [
            ("export", "HERE"),
            ("train", "--data", "digits", *FAST, "--cells", 2, *RESUME),
            ("verify", "HOME/deploy.onnx", *BALL[:-1], 1, "--checkpoint", "HERE", "--out", "HERE/out"),
            ("compare", "landscape", "HERE", "--points", 3, "--limit", 1, "--into", "HERE/picture.png"),
        ],
    ),
    Reader("run/best-0001.safetensors", byte_files, [("export", "HERE")]),
    Reader("tune/tune.json", json_files, [("tune", *FAST, "--radius", "0.2", "--steps", 1, *RESUME)]),
    Reader("verified/run.json", json_files, [SHOW, AGAIN, (*CARD, "--records", "HERE")]),
    Reader("verified/records.jsonl", json_line_files, [SHOW, AGAIN, (*CARD, "--records", "HERE")]),
    Reader("verified/counterexamples/00000003.npy", byte_files, [SHOW, (*AGAIN, "--certificate", "HERE/new.json")]),
    Reader(
        "certificate/it.json",
        json_files,
        [("check", "HERE/it.json", "HOME/deploy.onnx", "--sample", 1), (*CARD, "--certificate", "HERE/it.json")],
    ),
    Reader("trained/run.json", json_files, [("card", "HERE")]),
    Reader("trained/history.jsonl", json_line_files, [("card", "HERE")]),
    Reader("trained/guard.onnx", metadata, [("card", "HERE")]),
    Reader("model/deploy.onnx", metadata, [("verify", "HERE/deploy.onnx", "--limit", 2, "--out", "HERE/out")]),
    Reader(
        "graph/deploy.onnx",
        graph_bytes,
        [("verify", "HERE/deploy.onnx", *claim, "--limit", 2, "--out", "HERE/out") for claim in ((), BALL[:-2])],
        certified_is_answered,
    ),
    Reader(
        "plain/model.onnx",
        graph_bytes,
        [("wrap", "HERE/model.onnx", "--cells", 2, "--out", "HERE/out")],
        wrapped_is_the_model,
    ),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that the readers read."""
    home = tmp_path_factory.mktemp("fuzz")
    trained = train(home / "run", "--cells", 2)
    for name in ("model", "graph", "plain"):
        (home / name).mkdir()
    linear_model(home / "plain" / "model.onnx")
    for place in (home, home / "model", home / "graph"):
        shutil.copy(trained / "deploy.onnx", place)
    shutil.copytree(trained, home / "trained", ignore=lambda _, names: [one for one in names if "tensors" in one])
    abscert("guard", home / "deploy.onnx", "--radius", "0.1", "--out", home / "trained" / "guard.onnx")
    abscert("tune", *FAST, "--radius", "0.2", "--steps", 1, "--out", home / "tune")
    certificate = home / "certificate" / "it.json"
    abscert("verify", home / "deploy.onnx", *BALL, "--out", home / "verified", "--certificate", certificate)
    for path in (home / "run" / "deploy.onnx", *home.glob("*/abstract.onnx"), home / "tune" / "deploy.onnx"):
        path.unlink()  # heavy, and of no interest in a copy
    return home


(
    test_a_changed_file_is_refused_in_one_line_or_taken,
    test_what_stands_in_the_place_of_a_file_is_refused_in_one_line,
    test_whole_files_are_taken,
) = fuzz(READERS)
