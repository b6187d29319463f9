"""Files of trainings, verifications and models, changed as no program would: one line and a status, never 70."""

import shutil
from pathlib import Path

import onnx
import pytest
from command_line import FAST, abscert, train
from fuzzing import Reader, fuzz
from hypothesis import strategies as st
from mutations import ODD_VALUES, byte_files, json_files, json_line_files

BALL = ("--claim", "ball", "--radius", "0.3", "--limit", 3)
RESUME = ("--resume", "--out", "HERE")
SHOW = ("show", "HERE", "--html", "HERE/page.html")
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
    Reader("verified/run.json", json_files, [SHOW, AGAIN]),
    Reader("verified/records.jsonl", json_line_files, [SHOW, AGAIN]),
    Reader("verified/counterexamples/00000003.npy", byte_files, [SHOW, (*AGAIN, "--certificate", "HERE/new.json")]),
    Reader("certificate/it.json", json_files, [("check", "HERE/it.json", "HOME/deploy.onnx", "--sample", 1)]),
    Reader("model/deploy.onnx", metadata, [("verify", "HERE/deploy.onnx", "--limit", 2, "--out", "HERE/out")]),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that the readers read."""
    home = tmp_path_factory.mktemp("fuzz")
    trained = train(home / "run", "--cells", 2)
    (home / "model").mkdir()
    for place in (home, home / "model"):
        shutil.copy(trained / "deploy.onnx", place)
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
