"""Plans: what they expand to, that a run's key is all that it depends on, and what is refused."""

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from abscert_plugin.errors import ConfigError
from abscert_plugin.training.config import Optimiser, default_config
from abscert_plugin.training.methods import METHODS
from compare.plans.plan import read_plan
from compare.plans.planned_run import Run, as_mapping
from compare.running.defaults import training_spec
from compare.tables.published import PublishedFigure, Quantity, published
from compare.tables.selection import is_admissible

PLAN = """
title = "two by two"
[[grid]]
data = ["digits"]
network = ["fc-3", "fc-5"]
method = ["ibp", "reachable"]
radius = ["0.1", "8/255"]
cells = [2, 4]
claims = ["cell", "ball"]
[grid.options]
reachable = {loss = "mtl-ibp", share = "0.3"}
"""
RUN = Run(data="digits", network="fc-3", method="ibp", radius="0.1", certify=("0.1",))


def plan_of(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def test_a_plan_is_every_combination_once(tmp_path: Path) -> None:
    runs = read_plan(str(plan_of(tmp_path, PLAN))).runs()
    found = sorted((run.network, run.method, run.radius, run.cells) for run in runs)
    plain = [(network, "ibp", radius, None) for network in ("fc-3", "fc-5") for radius in ("0.1", "8/255")]
    on_cells = [(n, "reachable", r, c) for n in ("fc-3", "fc-5") for r in ("0.1", "8/255") for c in (2, 4)]
    assert found == sorted([*plain, *on_cells], key=lambda row: (*row[:3], row[3] or 0))
    assert len({run.key for run in runs}) == len(runs)
    for run in runs:
        assert run.certify == (run.radius,)
        # what has no cells has no claim about them
        assert run.claims == (("cell", "ball") if run.method == "reachable" else ("ball",))
        assert run.options == ({"loss": "mtl-ibp", "share": "0.3"} if run.method == "reachable" else {})
    own = PLAN.replace("[[grid]]", "[[grid]]\nsolver = 'abscert'")
    assert read_plan(str(plan_of(tmp_path, own))).runs() == runs
    again = PLAN + PLAN.split("\n", 2)[2]
    assert read_plan(str(plan_of(tmp_path, again))).runs() == runs


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "mnist"),
        ("network", "fc-5"),
        ("method", "sabr"),
        ("radius", "0.2"),
        ("activation", "tanh"),
        ("options", {"fast": "false"}),
        ("radius_scale", "training"),
        ("certify", ("0.1", "0.2")),
        ("cells", 2),
        ("seed", 1),
        ("epochs", 3),
        ("batch_size", 64),
        ("learning_rate", 0.01),
        ("claims", ("cell", "ball")),
        ("timeout", 2.0),
        ("solver", "other"),
        ("limit", 10),
        ("ball_limit", 10),
        ("image_size", 64),
        ("arithmetic", "this-runtime"),
        ("protocol", "paper"),
    ],
)
def test_every_part_of_a_run_is_in_its_key(field: str, value: object) -> None:
    changed = msgspec.structs.replace(RUN, **{field: value})
    assert changed.key != RUN.key
    assert msgspec.convert(as_mapping(changed), Run).key == changed.key


def test_every_part_of_a_run_is_under_test_above() -> None:
    (marked,) = cast(Any, test_every_part_of_a_run_is_in_its_key).pytestmark
    assert {field for field, _ in marked.args[1]} == set(Run.__struct_fields__)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("title", "titel"), "no key 'titel'; did you mean title"),
        (('"ibp"', '"hope"'), "expected a method: one of"),
        (('"0.1"', '"-1"'), "radius from 0 to 1"),
        (('"0.1"', '"far"'), "radius such as"),
        (('"0.1"', "0.1"), "expected text, got a number at grid"),
        (('claims = ["cell", "ball"]', 'claims = ["all"]'), "expected the claims: one of cell, ball; got 'all'"),
        (("cells = [2, 4]", ""), "expected cells"),
        (('share = "0.3"', 'shar = "0.3"'), "no option 'shar'"),
        (('share = "0.3"', 'share = "3"'), "share from 0 to 1"),
        (("[[grid]]", "protocol = 'new'\n[[grid]]"), "the protocol: one of sound, paper, cpu"),
        (("[[grid]]", "[[grid]]\nsolver = 'hope'"), "expected a solver: one of abscert.*; got 'hope'"),
        (("[[grid]]", "[[grid]"), "cannot be read"),
    ],
)
def test_a_plan_without_meaning_is_refused_in_one_line(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = PLAN.replace(*change)
    assert text != PLAN
    with pytest.raises(ConfigError, match=words) as caught:
        read_plan(str(plan_of(tmp_path, text))).runs()
    assert len(str(caught.value).splitlines()) == 1


def test_a_plan_nested_too_deeply_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("title = " + "[" * 10_000)
    with pytest.raises(ConfigError, match=r"the plan .*deep\.toml cannot be read") as caught:
        read_plan(str(tmp_path / "deep.toml"))
    assert "\n" not in str(caught.value)


def test_a_plan_that_is_not_there_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits-smoke"):
        read_plan("no-such-plan")
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file or directory$"):
        read_plan(str(tmp_path / "none.toml"))


PART = '[[grid]]\ndata = ["digits"]\nnetwork = ["fc-3"]\nmethod = ["ibp"]\nradius = ["0.1"]\n'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"digits"', '"digit"', "a data set: one of digits"),
        ('"fc-3"', '"fc-33"', "expected a network: one of"),
        ('"ibp"', '"ipb"', "expected a method: one of"),
        ('"0.1"]', '"0.1"]\nactivation = ["rleu"]', "expected an activation: one of"),
        ('"ibp"', '"lbp"]\nactivation = ["relu"', "lbp trains networks of ParamRamp"),
        ('"ibp"', '"llm"]\nactivation = ["tanh"', "llm chooses the slopes of ReLUs"),
        ('"fc-3"]\nmethod = ["ibp"', '"cnn-7"]\nmethod = ["crown-ibp"', "not written for BatchNorm"),
        ('"fc-3"', '"alexnet"', "at least 63x63 pixels"),
        ('"digits"]\nnetwork = ["fc-3"', '"imagenet"]\nnetwork = ["resnet18"', "arithmetic for the layer Residual"),
        ('"digits"]\nnetwork = ["fc-3"', '"imagenet"]\nnetwork = ["inception-v1"', "arithmetic for the layer Branches"),
        (
            '"digits"]\nnetwork = ["fc-3"]\nmethod = ["ibp"',
            '"imagenet"]\nnetwork = ["vgg11"]\nmethod = ["adv-ibp"',
            "for the layer",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused_before_anything_is(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert read_plan(str(plan_of(tmp_path, 'title = "a"\n' + PART))).runs()
    with pytest.raises(ConfigError, match=said):
        read_plan(str(plan_of(tmp_path, 'title = "a"\n' + PART.replace(old, new)))).runs()


@pytest.mark.slow
def test_table_2_is_of_the_runs_of_table_1() -> None:
    assert read_plan("paper-table2").runs() == read_plan("paper-table1").runs()


def test_a_plan_that_includes_others_is_not_included(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 'title = "a"\ninclude = ["paper-table2"]\n')
    with pytest.raises(ConfigError, match="cannot be included itself"):
        read_plan(str(plan)).runs()
    assert read_plan(str(plan_of(tmp_path, 'title = "a"\ninclude = ["digits-smoke"]\n' + PART))).runs()[:-1] == (
        read_plan("digits-smoke").runs()
    )


def sweep(least: str, step: str) -> list[int]:
    """Return the numbers of cells N whose width 2 / N falls by at least a step, down to twice the least epsilon."""
    found = [2]
    for cells in range(3, 256):
        falls = Fraction(2, found[-1]) - Fraction(2, cells)
        if falls >= Fraction(step) and Fraction(2, cells) >= 2 * Fraction(least):
            found.append(cells)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("data", "least"), [("mnist", "1/10"), ("cifar10", "2/255")])
def test_table_1_sweeps_the_cells_as_the_code_of_the_paper_does(data: str, least: str) -> None:
    radii = {"mnist": ("0.1", "0.2", "0.3", "0.4"), "cifar10": ("2/255", "4/255", "6/255", "8/255", "16/255")}[data]
    thresholds = {int(1 / Fraction(radius)) for radius in radii}
    runs = [run for run in read_plan("paper-table1").runs() if run.data == data and run.method == "abstrain"]
    assert {run.cells for run in runs} == {*sweep(least, "1/100"), *thresholds}
    assert {run.cells for run in runs if "ball" in run.claims} == thresholds


@pytest.mark.parametrize(
    ("network", "step"), [("alexnet", "1/50"), ("vgg11", "1/50"), ("inception-v1", "1/50"), ("resnet18", "1/25")]
)
def test_table_5_is_trained_as_the_code_of_the_paper_does(network: str, step: str) -> None:
    runs = [run for run in read_plan("paper-table5").runs() if run.network == network]
    thresholds = {int(1 / Fraction(radius)) for radius in ("2/255", "4/255", "8/255")}
    assert {run.cells for run in runs} == {*sweep("2/255", step), *thresholds}
    assert {run.cells for run in runs if "ball" in run.claims} == thresholds
    for run in runs:
        chosen, usual = training_spec(run, None).training, default_config("imagenet", network)
        assert chosen.optimiser is usual.optimiser is Optimiser.SGD
        for name in ("epochs", "batch_size", "learning_rate", "weight_decay"):
            assert getattr(chosen, name) == getattr(usual, name)


def fills(run: Run, figure: PublishedFigure) -> bool:
    """Return whether a run is of a printed figure's network, and its training and claims are those of its radius."""
    activation = run.activation or str(METHODS.named(run.method).activation)
    if (run.data, run.network, activation) != (figure.data, figure.network, figure.activation):
        return False
    if run.method != figure.method or figure.radius is None:
        return False
    if run.method == "abstrain":
        return run.cells is not None and is_admissible(run.cells, figure.radius) and "cell" in run.claims
    return run.trained_for.pixel == figure.radius.pixel and run.certify == (run.radius,) and "ball" in run.claims


@pytest.mark.slow
@pytest.mark.parametrize("table", [1, 4, 5])
def test_every_printed_error_has_a_run(table: int) -> None:
    runs = read_plan(f"paper-table{table}").runs()
    printed = [
        figure
        for figure in published()
        if figure.table == table and figure.quantity is Quantity.VERIFIED_ERROR and figure.value is not None
    ]
    assert printed
    for figure in printed:
        assert any(fills(run, figure) for run in runs), figure
    assert {run.protocol for run in runs} == {"paper"}
    assert all(run.limit is None for run in runs)
