"""The table of methods: options in text, refusals of one line, one step of each method, and methods from elsewhere."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from registered import write_package
from torch import nn

from abscert_plugin.claim import Radius, RadiusScale
from abscert_plugin.data import DataSet, Split, load_data
from abscert_plugin.errors import ConfigError
from abscert_plugin.grid import Grid
from abscert_plugin.networks import NetworkConfig
from abscert_plugin.training.feed import Feed
from abscert_plugin.training.loop import error_rate
from abscert_plugin.training.method import Method
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.objective import Moment
from abscert_plugin.training.reachable import ReachableMethod
from abscert_plugin.training.robust import BoundKind, RobustConfig, RobustLoss
from baselines.ibp import Ibp
from baselines.mtl_ibp import MtlIbp
from baselines.plain import Pgd, Plain
from baselines.sabr import Sabr

CPU = torch.device("cpu")
RADIUS = Radius.parse("0.1")
NAMES = sorted(METHODS)


def create(name: str, **given: str) -> Method:
    return METHODS.named(name).create(RADIUS, given)


# --- options in text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("plain", {}, Plain()),
        ("ibp", {}, Ibp(RADIUS)),
        ("ibp", {"fast": "false", "start": "0.25"}, Ibp(RADIUS, fast=False, start=0.25)),
        ("ibp", {"fast": "true", "ramp": "1e-1"}, Ibp(RADIUS, fast=True, ramp=0.1)),
        ("ibp", {"fast": "0"}, Ibp(RADIUS, fast=False)),
        ("pgd", {"attack_steps": "3", "ramp": "0"}, Pgd(RADIUS, attack_steps=3, ramp=0.0)),
        ("sabr", {"share": "1", "attack_steps": "2"}, Sabr(RADIUS, share=1.0, attack_steps=2)),
        ("mtl-ibp", {"share": "0.02"}, MtlIbp(RADIUS, share=0.02)),
        (
            "reachable",
            {"loss": "mtl-ibp", "bounds": "crown-ibp", "smooth": "true", "regulariser": "0"},
            ReachableMethod(
                RobustConfig(RADIUS, loss=RobustLoss.MTL_IBP, bounds=BoundKind.CROWN_IBP, smooth=True, regulariser=0.0)
            ),
        ),
    ],
)
def test_text_becomes_values_of_the_options_types(name: str, given: dict[str, str], expected: Method) -> None:
    found = create(name, **given)
    assert found == expected
    # 1 and True are equal to 1.0: compare the types too
    assert repr(found) == repr(expected)


def refusal(name: str, **given: str) -> str:
    with pytest.raises(ConfigError) as caught:
        create(name, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_with_a_list_of_those_there_are(name: str) -> None:
    text = refusal(name, nonsense="1")
    assert text.startswith(f"{name} has no option 'nonsense'")
    names = METHODS.named(name).option_names
    assert all(option in text for option in names or ("no options",))


@pytest.mark.parametrize("name", NAMES)
def test_the_radius_is_no_option_in_text(name: str) -> None:
    assert "has no option 'radius'" in refusal(name, radius="0.3")


@pytest.mark.parametrize(
    ("name", "option", "text"),
    [
        ("ibp", "fast", "perhaps"),
        ("ibp", "ramp", "half"),
        ("ibp", "ramp", ""),
        ("pgd", "attack_steps", "2.5"),
        ("pgd", "attack_steps", "many"),
        ("sabr", "share", "1/2"),
        ("sabr", "share", ".5"),
    ],
)
def test_text_of_another_type_is_refused_with_its_option_and_what_was_given(name: str, option: str, text: str) -> None:
    message = refusal(name, **{option: text})
    assert name in message
    assert f"value of {option}, got {text!r}" in message


def test_a_value_that_is_no_member_is_refused_with_a_list_of_those_there_are() -> None:
    message = refusal("reachable", loss="hinge")
    assert all(str(member) in message for member in RobustLoss)


@pytest.mark.parametrize(
    ("name", "option", "text", "words"),
    [
        ("ibp", "start", "-0.1", "start from 0 to 1"),
        ("ibp", "ramp", "nan", "ramp from 0 to 1"),
        ("crown-ibp", "bounds_end", "1.5", "bounds_end from 0 to 1"),
        ("crown-ibp", "natural_end", "-1", "natural_end from 0 to 1"),
        ("sabr", "share", "2", "share from 0 to 1"),
        ("mtl-ibp", "attack_steps", "0", "attack_steps of at least 1"),
        ("pgd", "attack_steps", "-1", "attack_steps of at least 1"),
        ("reachable", "regulariser", "inf", "regulariser of at least 0"),
    ],
)
def test_values_without_meaning_are_refused(name: str, option: str, text: str, words: str) -> None:
    assert words in refusal(name, **{option: text})


def test_an_unknown_method_is_refused_with_a_list_of_those_there_are() -> None:
    with pytest.raises(ConfigError, match="got 'crown'") as caught:
        METHODS.named("crown")
    assert all(name in str(caught.value) for name in NAMES)
    assert "\n" not in str(caught.value)


# --- every row -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_data("digits", Split.TRAIN).first(8)


@pytest.mark.slow
@pytest.mark.parametrize("radius", ["0", "0.1", "1"])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_takes_steps_and_judges_at_any_radius(name: str, radius: str, digits: DataSet) -> None:
    entry = METHODS.named(name)
    method = entry.create(Radius.parse(radius), {})
    config = NetworkConfig("fc-3", entry.activation, digits.shape, len(digits.classes), method.takes_intervals)
    made = cast(nn.Sequential, config.build(0))
    method.prepare(made)
    objective = method.build(Grid(4) if method.takes_intervals else None, digits.levels, CPU)
    batch = digits.take(np.arange(8))
    images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    optimiser = torch.optim.SGD(made.parameters(), lr=1e-4)
    for step in (0, 15, 30, 95):  # before the rise, in it on both sides of its bend, after it
        before = cast(nn.Linear, made[1]).weight.detach().clone()
        loss = objective.loss(made, objective.encode(images), labels, Moment(step, 10, 10))
        optimiser.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
        assert torch.isfinite(loss.detach())
        assert len(gradients) >= 6  # three layers; a bend that is not learnt yet has none
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        optimiser.step()
        assert not torch.equal(cast(nn.Linear, made[1]).weight, before)
        assert 0 <= error_rate(made, objective, Feed(digits, CPU)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_say_what_a_method_is(name: str) -> None:
    entry, method = METHODS.named(name), create(name)
    assert entry.name == name
    assert entry.summary
    assert entry.source
    grid = Grid(4) if method.takes_intervals else None
    assert method.claim == method.build(grid, 255, CPU).claim
    assert method.takes_intervals == (name in {"abstrain", "reachable"})


@pytest.mark.parametrize("name", NAMES)
def test_the_description_can_be_stored_and_tells_radii_apart(name: str) -> None:
    entry = METHODS.named(name)
    radii = (RADIUS, Radius.parse("0.1", RadiusScale.TRAINING), Radius.parse("0.2"))
    stored = [json.dumps(dict(entry.create(radius, {}).describe())) for radius in radii]
    assert len(set(stored)) == (1 if name in {"plain", "abstrain"} else 3)
    assert json.loads(stored[0]) == dict(create(name).describe())


# --- methods from elsewhere ----------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return what installs a package whose entry points name these objects of it, and has the table read anew."""

    def write(code: str, **entries: str) -> None:
        name = f"methods_of_{tmp_path.name.replace('-', '_').replace('[', '_').replace(']', '_')}"
        write_package(tmp_path, name, code, {"abscert.methods": entries})
        monkeypatch.syspath_prepend(tmp_path)
        METHODS.__dict__.pop("_entries", None)

    yield write
    monkeypatch.undo()
    METHODS.__dict__.pop("_entries", None)


THEIRS = """
from abscert_plugin.training.method import MethodEntry
from baselines.plain import Plain
THEIRS = MethodEntry("theirs", "as plain", "nowhere", Plain, lambda options: options)
"""


def test_a_registered_method_appears(install: Callable[..., None]) -> None:
    install(THEIRS, theirs="THEIRS")
    assert sorted(METHODS) == sorted([*NAMES, "theirs"])
    assert create("theirs") == Plain()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_taken_is_refused(install: Callable[..., None], name: str) -> None:
    install(THEIRS.replace('"theirs"', repr(name)), theirs="THEIRS")
    with pytest.raises(ConfigError, match=f"the method {name} is registered twice in abscert.methods, by .*:THEIRS"):
        METHODS.named("plain")


def test_what_is_no_entry_is_left_out_and_named(install: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    install("class Other: pass", other="Other")
    assert sorted(METHODS) == NAMES
    assert "left out other" in caplog.text
    assert "expected a MethodEntry, got type" in caplog.text
