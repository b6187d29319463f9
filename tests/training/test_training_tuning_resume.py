"""Algorithm 3 in a folder: interrupted anywhere it ends with the same table, and no folder holds two tunings."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_trainings import Watcher, digits_data, digits_spec

from abscert_plugin.data import DataSet
from abscert_plugin.errors import AbscertError, CheckpointError
from abscert_plugin.networks import Activation
from abscert_plugin.training import tuning
from abscert_plugin.training.checkpoint import read_checkpoint
from abscert_plugin.training.loop import SilentObserver
from abscert_plugin.training.run import TrainedRun
from abscert_plugin.training.tuning import Tuned, TuningConfig, mean_gradients, tune
from abscert_plugin.training.tuning_step import TUNING, TuningStep, step_folder

CONFIG = TuningConfig(0.1, most_steps=3)
DATA = digits_data(24, 24)
SPEC = digits_spec(epochs=2, batch_size=12)


@pytest.fixture(autouse=True, scope="module")
def never_stops() -> Iterator[None]:
    """Keep the real gradients of the real trainings, but never a pair that ends the tuning."""

    def gradients(run: TrainedRun, data: DataSet) -> tuple[float, float]:
        lower, upper = mean_gradients(run, data)
        return lower, abs(upper)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "mean_gradients", gradients)
        yield


def run_tuning(
    folder: Path,
    observer: Callable[[int], Any] = lambda _: SilentObserver(),
    on_step: Callable[[TuningStep], None] = lambda _: None,
    **changes: Any,
) -> Tuned:
    spec = replace(SPEC, **changes.get("spec", {}))
    data = changes.get("data", DATA)
    return tune(spec, replace(CONFIG, **changes.get("tuning", {})), data, folder, observer, on_step)


def table(tuned: Tuned) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in msgspec.to_builtins(step).items() if key != "seconds"} for step in tuned.steps
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, never_stops: None) -> list[dict[str, Any]]:
    return table(run_tuning(tmp_path_factory.mktemp("undisturbed")))


def assert_ends_as(undisturbed: list[dict[str, Any]], folder: Path) -> None:
    tuned = run_tuning(folder)
    assert table(tuned) == undisturbed
    stored = json.loads((folder / TUNING).read_text())
    assert stored["steps"] == [msgspec.to_builtins(step) for step in tuned.steps]
    for step in tuned.steps:
        assert read_checkpoint(step_folder(folder, step.cells)).description["cells"] == step.cells


def test_the_undisturbed_tuning_would_show_a_difference(undisturbed: list[dict[str, Any]]) -> None:
    assert [row["cells"] for row in undisturbed] == [2, 3, 4]
    for key in ("validation_error", "lower_gradient", "upper_gradient"):
        assert len({row[key] for row in undisturbed}) > 1


@pytest.mark.parametrize("after", [1, 2, 3])
def test_between_two_steps(tmp_path: Path, undisturbed: list[dict[str, Any]], after: int) -> None:
    def stop(step: TuningStep) -> None:
        if step.cells == after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tuning(tmp_path, on_step=stop)
    assert len(json.loads((tmp_path / TUNING).read_text())["steps"]) == after
    trained: list[int] = []

    def observer(cells: int) -> SilentObserver:
        trained.append(cells)
        return SilentObserver()

    run_tuning(tmp_path, observer=observer)
    assert trained == [2, 3, 4][after:]  # nothing that was done is done again
    assert_ends_as(undisturbed, tmp_path)


@pytest.mark.parametrize("watcher", [{"interrupt_after_epoch": 1}, {"interrupt_at_step": 4}])
@pytest.mark.parametrize("cells", [2, 4])
def test_inside_a_step(tmp_path: Path, undisturbed: list[dict[str, Any]], watcher: dict[str, Any], cells: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_tuning(tmp_path, lambda count: Watcher(**watcher) if count == cells else SilentObserver())
    assert (tmp_path / TUNING).exists() == (cells > 2)
    assert_ends_as(undisturbed, tmp_path)


def test_between_a_training_and_its_row(
    tmp_path: Path, undisturbed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, value: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_tuning(tmp_path)
    assert read_checkpoint(step_folder(tmp_path, 2)).finished
    assert not (tmp_path / TUNING).exists()
    assert_ends_as(undisturbed, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": {"radius": 0.05}}, r"tuning.radius: there 0.1, now 0.05"),
        ({"tuning": {"least_step": 0.3}}, "tuning.least_step"),
        ({"tuning": {"coarsest": 3}}, "tuning.coarsest: there 2, now 3"),
        ({"spec": {"network": "fc-3"}}, "network: there 'dm-small', now 'fc-3'"),
        ({"spec": {"activation": Activation.TANH}}, "activation"),
        ({"spec": {"training": replace(SPEC.training, seed=4)}}, "training.seed: there 3, now 4"),
        ({"data": replace(DATA, training=replace(DATA.training, sha256="another"))}, "data_sha256"),
        ({"data": replace(DATA, validation=replace(DATA.validation, sha256="another"))}, "validation_sha256"),
    ],
)
def test_the_folder_of_another_tuning_is_refused_and_left_alone(
    tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_tuning(tmp_path, on_step=_stop_at_once)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=message):
        run_tuning(tmp_path, **changes)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def _stop_at_once(step: TuningStep) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"description": 1, "steps": []}', '{"description": {}, "steps": []}', '{"steps": 3}', "\xff"],
)
def test_a_file_that_is_no_tuning_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / TUNING).write_text(content, encoding="latin-1")
    with pytest.raises(AbscertError, match=TUNING.replace(".", r"\.") + "|holds another training"):
        run_tuning(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [TUNING]
    assert (tmp_path / TUNING).read_text(encoding="latin-1") == content


def test_steps_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_tuning(tmp_path, on_step=_stop_at_once)
    stored = json.loads((tmp_path / TUNING).read_text())
    del stored["steps"][0]["upper_gradient"]
    (tmp_path / TUNING).write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="not a tuning's file"):
        run_tuning(tmp_path)


def test_what_is_not_given_is_null_and_files_with_the_word_none_are_read(
    tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run_tuning(tmp_path)
    path = tmp_path / TUNING
    text = path.read_text()
    assert ": null" in text
    assert '"None"' not in text
    path.write_text(text.replace(": null", ': "None"'))  # the tuning's own `most_steps` has always been null
    stored = json.loads(path.read_text())
    stored["description"]["tuning"] = json.loads(text)["description"]["tuning"]
    path.write_text(json.dumps(stored))
    assert table(run_tuning(tmp_path)) == undisturbed
