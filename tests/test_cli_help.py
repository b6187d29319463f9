"""Help: every option in a group with its default, an example that is a command, whole summaries, as wide as asked."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import abscert, refused
from typer.main import get_command

from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.cli import app, manual, names
from abscert_plugin.data import DATA_SETS
from abscert_plugin.networks import NETWORKS, Activation
from abscert_plugin.training.edges import EdgeChoice
from abscert_plugin.training.methods import METHODS
from abscert_plugin.verification.query_solvers import SHIPPED
from abscert_plugin.verification.solvers import OWN, SOLVERS

ROOT: Any = get_command(app.build_app())


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that is not hidden, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


COMMANDS = dict(commands())


def parse(line: str) -> None:
    """Raise what typer raises for a command line that it refuses; nothing is run."""
    words = shlex.split(line)
    assert words[0] == "abscert"
    command: Any = ROOT
    while hasattr(command, "commands"):
        words = words[1:]
        command = command.commands[words[0]]
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_has_an_example_that_calls_it(path: tuple[str, ...]) -> None:
    lines = COMMANDS[path].epilog.splitlines()
    assert lines
    for line in lines:
        assert line.startswith(" ".join(("abscert", *path)))
        parse(line)


def test_what_people_do_are_commands() -> None:
    lines = [line.partition(": ")[2] for line in app.GUIDE.splitlines()]
    assert [shlex.split(line)[1] for line in lines] == ["verify", "train", "guard", "compare"]
    for line in lines:
        parse(line)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_in_a_group_and_says_its_default(path: tuple[str, ...]) -> None:
    for option in COMMANDS[path].params:
        if option.param_type_name == "argument":
            continue
        assert option.rich_help_panel in manual.GROUPS, option.name
        has_one = option.is_flag or option.required or option.multiple or option.default is not None
        assert has_one or "[default: " in option.help, option.name


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("words", [(), ("verify",), ("compare",), ("baseline", "train"), ("compare", "landscape")])
def test_a_page_keeps_to_the_width_and_cuts_nothing(
    width: int, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = abscert(*words, "--help").out
    lines = page.splitlines()
    assert max(map(len, lines)) <= width
    assert "..." not in page.replace("[RUNS...]", "").replace("RUNS...", "")
    together = " ".join(page.split())
    node: Any = ROOT
    for word in words:
        node = node.commands[word]
    for command in getattr(node, "commands", {}).values():
        assert command.hidden or " ".join(command.help.split("\n\n")[0].split()) in together
    assert abscert(*words, "-h").out == page


def test_a_group_alone_prints_its_help() -> None:
    assert abscert("compare").out == abscert("compare", "--help").out


def test_the_names_that_are_read_without_torch_are_those_of_the_tables() -> None:
    assert names.methods() == tuple(METHODS)
    assert names.networks() == tuple(NETWORKS)
    assert names.data_sets() == tuple(DATA_SETS)
    assert names.solvers() == tuple(SOLVERS)
    assert names.followers() == (*SHIPPED, *(name for name in SOLVERS if name != OWN))
    assert tuple(Activation) == names.ACTIVATIONS
    assert tuple(BoundMethod) == names.BOUNDS
    assert tuple(EdgeChoice) == names.EDGES


def test_help_and_names_need_no_torch() -> None:
    code = (
        "import sys; from abscert_plugin.cli import main; sys.argv = ['abscert', 'train', '-h']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "crown-ibp" in done.stdout


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("tran",), "train"),
        (("compare", "tabels"), "tables"),
        (("train", "--epoch", "1"), "--epochs"),
        (("verify", "x.onnx", "--claim", "bal"), "ball"),
        (("verify", "x.onnx", "--provider", "cpuu"), "cpu"),
        (("train", "--out", "OUT", "--method", "crown_ibp"), "crown-ibp"),
        (("train", "--out", "OUT", "--network", "cnn7"), "cnn-7"),
        (("train", "--out", "OUT", "--data", "MNIST"), "mnist"),
        (("train", "--out", "OUT", "--activation", "rellu"), "relu"),
        (("train", "--out", "OUT", "--edges", "sparce"), "sparse"),
        (("train", "--out", "OUT", "--method", "ibp", "--radius", "0.1", "--set", "rampp=0.5"), "ramp"),
        (("compare", "run", "digit-smoke"), "digits-smoke"),
        (("compare", "run", "digits-smoke", "--method", "abstrian"), "abstrain"),
        (("compare", "run", "digits-smoke", "--engine", "locl"), "local"),
        (("compare", "tables", "--format", "markdwn"), "markdown"),
        (("compare", "tables", "--table", "error"), "errors"),
        (("supports", "--unsat-proof"), "--unsat-proofs"),
    ],
)
def test_a_word_that_is_almost_one_is_guessed(words: tuple[str, ...], meant: str, tmp_path: Any) -> None:
    line = refused(*(tmp_path / "out" if word == "OUT" else word for word in words))
    assert line.endswith(f"; did you mean {meant}?"), line


@pytest.mark.parametrize("name", list(app._MODULES))
def test_a_command_of_ours_is_found_without_the_others(name: str) -> None:
    commands = get_command(app.build_app(name)).commands  # type: ignore[attr-defined]
    assert name in commands
    assert not {"compare", "baseline"} & set(commands)
    assert set(commands) <= set(ROOT.commands)
