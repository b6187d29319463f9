"""Checkpoints: the same tensors come back, a failing write keeps the old ones, and damage is one clear error."""

import json
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_trainings import same_checkpoint, same_tensors
from torch import Tensor

from abscert_plugin.errors import AbscertError, CheckpointError, RecordError
from abscert_plugin.files import read_json, write_json
from abscert_plugin.records import CHECKPOINT
from abscert_plugin.training import checkpoint as checkpoint_module
from abscert_plugin.training.checkpoint import Checkpoint, check_same, read_checkpoint, write_checkpoint

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
SIZE_LIMIT = 2000  # bytes; a tensor of 1000 floats does not fit


def row(epoch: int, error: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 1 / 3, "validation_error": error, "learning_rate": 1e-300, "seconds": 0.1}


def checkpoint(epoch: int, best_epoch: int = 1, size: int = 3, **parts: Any) -> Checkpoint:
    """Return a checkpoint whose tensors tell its epochs."""
    whole = Checkpoint(
        epoch=epoch,
        description={"method": "abstrain", "training": {"seed": 1, "learning_rate": 0.1}, "image_shape": [1, 8, 8]},
        history=tuple(row(number) for number in range(1, epoch + 1)),
        state={"network.w": torch.full((size,), float(epoch)), "optimiser.0.step": torch.tensor(float(epoch))},
        best_epoch=best_epoch,
        best={"network.w": torch.full((size,), float(best_epoch))},
        finished=False,
    )
    return replace(whole, **parts)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert same_checkpoint(found, expected)
    assert found.history == expected.history


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the checkpoint of epoch 2, the best of which is epoch 1."""
    write_checkpoint(tmp_path, checkpoint(1))
    write_checkpoint(tmp_path, checkpoint(2))
    return tmp_path


tensors = st.builds(
    lambda dtype, shape, seed: (
        torch.empty(shape, dtype=torch.float64).uniform_(-3, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 99),
)
table = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12), tensors, max_size=4
)
facts = st.dictionaries(
    st.text(max_size=5),
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    max_size=4,
)


@pytest.mark.slow
@given(table, table, facts, st.lists(facts, min_size=1, max_size=3), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    state: dict[str, Tensor],
    best: dict[str, Tensor],
    description: dict[str, Any],
    more: list[dict[str, Any]],
    finished: bool,
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    history = tuple(facts | row(number) for number, facts in enumerate(more, start=1))
    best_epoch = max(1, len(history) - 1)
    written = Checkpoint(len(history), {"options": description}, history, state, best_epoch, best, finished)
    write_checkpoint(folder, written)
    assert_same(read_checkpoint(folder), written)


def test_special_numbers_and_views_come_back_bit_for_bit(tmp_path: Path) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    state = {"special": special, "view": torch.arange(6.0).view(2, 3).T, "of parameters": torch.nn.Parameter(special)}
    write_checkpoint(tmp_path, checkpoint(1, state=state))
    found = read_checkpoint(tmp_path).state
    assert found["special"].numpy().tobytes() == special.numpy().tobytes()
    assert found["of parameters"].numpy().tobytes() == special.numpy().tobytes()
    assert torch.equal(found["view"], state["view"])


def test_a_folder_holds_one_checkpoint_of_tensors_and_json(folder: Path) -> None:
    assert names(folder) == ["best-0001.safetensors", CHECKPOINT, "last-0002.safetensors"]
    assert_same(read_checkpoint(folder), checkpoint(2))
    write_checkpoint(folder, checkpoint(3, best_epoch=3))
    assert names(folder) == ["best-0003.safetensors", CHECKPOINT, "last-0003.safetensors"]
    assert_same(read_checkpoint(folder), checkpoint(3, best_epoch=3))
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not content.startswith((b"PK", b"\x80"))  # torch.save writes a zip file, pickle the byte 0x80
        assert b"{" in content[:9]  # JSON, after its length in safetensors


def test_files_that_are_not_of_checkpoints_stay(folder: Path) -> None:
    (folder / "deploy.onnx").write_text("a model")
    (folder / "mine.safetensors").write_text("a tensor")
    write_checkpoint(folder, checkpoint(3))
    assert {"deploy.onnx", "mine.safetensors"} <= set(names(folder))


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a limit, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE_LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "too_large",
    [
        {"state": {"network.w": torch.zeros(1000)}},
        {"best": {"network.w": torch.zeros(1000)}},
        {"history": tuple(row(number) for number in range(1, 40))},
    ],
)
def test_a_full_disk_keeps_the_former_checkpoint(folder: Path, too_large: dict[str, Any]) -> None:
    with full_disk(), pytest.raises(AbscertError, match="cannot write") as caught:
        write_checkpoint(folder, checkpoint(3, best_epoch=3, **too_large))
    assert "\n" not in str(caught.value)
    assert_same(read_checkpoint(folder), checkpoint(2))
    assert not [name for name in names(folder) if name.endswith(".part")]
    write_checkpoint(folder, checkpoint(3, best_epoch=3))  # with room again
    assert_same(read_checkpoint(folder), checkpoint(3, best_epoch=3))


@pytest.mark.parametrize("blocked", ["last-0003.safetensors", "best-0003.safetensors"])
def test_a_file_that_cannot_be_replaced_keeps_the_former_checkpoint(folder: Path, blocked: str) -> None:
    (folder / blocked).mkdir()
    with pytest.raises(CheckpointError, match="the former checkpoint is kept"):
        write_checkpoint(folder, checkpoint(3, best_epoch=3))
    assert_same(read_checkpoint(folder), checkpoint(2))


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        write_checkpoint(tmp_path / "file", checkpoint(1))


def test_tensors_have_reached_the_disk_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut leaves a checkpoint.json that names empty files."""
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, Path.replace

    def synced(file: int) -> None:
        done.append(("synced", os.fstat(file).st_ino))
        sync(file)

    def named_as(part: Path, to: Path) -> Path:
        done.append(("named", part.stat().st_ino))
        return replace(part, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", named_as)
    write_checkpoint(tmp_path, checkpoint(1))
    named = [place for place, (what, _) in enumerate(done) if what == "named"]
    assert len(named) == 3
    assert all(("synced", done[place][1]) in done[:place] for place in named)


@pytest.mark.skipif(os.name == "nt", reason="modes are of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_weights_have_the_mode_that_the_process_gives_to_files(tmp_path: Path, umask: int) -> None:
    part = tmp_path / ".last-0001.safetensors.part"
    part.touch(0o600)  # as a kill while they were written leaves it
    former = os.umask(umask)
    try:
        write_checkpoint(tmp_path, checkpoint(1))
    finally:
        os.umask(former)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_between_two_writes_leaves_a_whole_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The process is gone before the first, second or third file is written, or before the old ones are removed."""
    calls = 0

    def killable(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            nonlocal calls
            if calls == moment:
                raise KeyboardInterrupt
            calls += 1
            function(*arguments, **options)

        return call

    monkeypatch.setattr(checkpoint_module, "_write_tensors", killable(checkpoint_module._write_tensors))
    monkeypatch.setattr(checkpoint_module, "write_json", killable(write_json))
    monkeypatch.setattr(Path, "unlink", killable(Path.unlink))
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(folder, checkpoint(3, best_epoch=3))
    monkeypatch.undo()
    expected = checkpoint(2) if moment < 3 else checkpoint(3, best_epoch=3)
    assert_same(read_checkpoint(folder), expected)
    write_checkpoint(folder, checkpoint(3, best_epoch=3))  # as the resumed training does
    assert names(folder) == ["best-0003.safetensors", CHECKPOINT, "last-0003.safetensors"]


def read_refused(folder: Path, error: type[AbscertError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    read_refused(tmp_path, CheckpointError, f"got no {CHECKPOINT} there")


@pytest.mark.parametrize("name", ["last-0002.safetensors", "best-0001.safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\xff" * 100,
        lambda content: content[:8] + b"[" + content[9:],
        lambda content: pickle.dumps({"network.w": [0.0]}),
    ],
    ids=["empty", "no header", "half header", "one byte short", "one byte more", "noise", "header no JSON", "pickle"],
)
def test_damaged_tensors_are_refused(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    read_refused(folder, CheckpointError, f"{name} is missing or corrupt")


@pytest.mark.parametrize("name", ["last-0002.safetensors", "best-0001.safetensors"])
def test_missing_tensors_are_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    read_refused(folder, CheckpointError, f"{name} is missing or corrupt")


def test_every_truncation_of_the_json_is_refused(folder: Path) -> None:
    path = folder / CHECKPOINT
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        read_refused(folder, RecordError, "is not a JSON file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "is not a JSON file"),
        (b"[1, 2]", "expected a JSON object"),
        (b"null", "expected a JSON object"),
    ],
)
def test_json_of_another_kind_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / CHECKPOINT).write_bytes(content)
    read_refused(folder, RecordError, message)


def with_json(folder: Path, **changes: Any) -> None:
    value = json.loads((folder / CHECKPOINT).read_text())
    (folder / CHECKPOINT).write_text(json.dumps({**value, **changes}))


KEYS = ("epoch", "best_epoch", "finished", "state_file", "best_file", "description", "history")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    value = json.loads((folder / CHECKPOINT).read_text())
    del value[key]
    (folder / CHECKPOINT).write_text(json.dumps(value))
    read_refused(folder, CheckpointError, f"lacks the key '{key}'")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, 1.5, [1], "x", {"a": 1}], ids=str)
def test_a_value_of_another_type_is_refused(folder: Path, key: str, value: Any) -> None:
    fits = {"state_file": str, "best_file": str, "description": dict}
    if isinstance(value, fits.get(key, ())):
        pytest.skip("it is of the type that is asked for")
    with_json(folder, **{key: value})
    read_refused(folder, CheckpointError, f"is not a checkpoint: .*{key}")


@pytest.mark.parametrize("schema", [0, 2, None, "1"])
def test_another_schema_is_refused(folder: Path, schema: Any) -> None:
    with_json(folder, schema=schema)
    read_refused(folder, CheckpointError, f"expected a checkpoint of schema 1 .* got {schema}")


def test_a_pickle_in_the_place_of_tensors_is_not_run(folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path, str]]:
            return Path.write_text, (folder / "run.txt", "a pickle was run")

    torch.save({"network.w": Payload()}, folder / "weights.pt")
    with_json(folder, state_file="weights.pt")
    read_refused(folder, CheckpointError, "weights.pt is missing or corrupt")
    assert not (folder / "run.txt").exists()


def test_tensor_files_are_looked_for_in_the_folder_alone(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    safetensors.torch.save_file({"network.w": torch.zeros(1)}, folder / "outside.safetensors")
    write_checkpoint(inner, checkpoint(1))
    for place in ("../outside.safetensors", str(folder / "outside.safetensors")):
        with_json(inner, state_file=place)
        read_refused(inner, CheckpointError, "inner/outside.safetensors is missing or corrupt")


@given(facts, facts)
def test_descriptions_are_the_same_just_where_they_are_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    pruned = [{key: value for key, value in part.items() if value is not None} for part in (first, second)]
    if pruned[0] == pruned[1]:
        check_same(first, second, Path("out"))
    else:
        with pytest.raises(CheckpointError, match="holds another training"):
            check_same(first, second, Path("out"))


def test_tensors_of_one_file_are_not_those_of_another(folder: Path) -> None:
    """What the comparisons above rest on."""
    found = read_checkpoint(folder)
    assert not same_tensors(found.state, found.best)
    assert not same_tensors(found.best, {"network.w": torch.full((3,), 1.0, dtype=torch.float64)})
    assert not same_tensors({"w": torch.tensor([0.0])}, {"w": torch.tensor([-0.0])})


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 3},
        {"epoch": -1},
        {"best_epoch": 0},
        {"best_epoch": 3},
        {"history": []},
        {"history": [{}, {}]},
        {"history": [{**row(1), "loss": "low"}, row(2)]},
        {"history": [row(1), {**row(2), "seconds": None}]},
    ],
    ids=str,
)
def test_a_history_that_is_not_of_its_epochs_is_refused(folder: Path, change: dict[str, Any]) -> None:
    value = read_json(folder / CHECKPOINT)
    write_json(folder / CHECKPOINT, {**value, **change})
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: .*train again into another --out"):
        read_checkpoint(folder)


def test_tensors_are_read_up_to_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abscert_plugin.training.checkpoint._LIMIT", 10)
    with pytest.raises(CheckpointError, match=r"last-0002\.safetensors holds [0-9,]+ bytes.*ABSCERT_MAX_BYTES"):
        read_checkpoint(folder)
