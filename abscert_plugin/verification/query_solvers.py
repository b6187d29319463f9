"""Solvers that are other programs: how each is found, asked a VNN-LIB query about a network, and read."""

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from abscert_plugin.errors import ConfigError, VerifierError
from abscert_plugin.verification.answers import Answer, read_answer
from abscert_plugin.verification.child_process import MOST_BYTES, Ended, run_within

_GRACE: Final = 30.0  # seconds beyond its own time after which a solver is killed: the larger ones take ten to start
_VERSION_SECONDS: Final = 60.0  # for saying which version it is
_SCRIPT: Final = "run_instance.sh"
_PREPARATION: Final = "prepare_instance.sh"
_SHELL: Final = "bash"
_ENDS_OTHERS: Final = re.compile(r"^(?!\s*#).*?\b((?:killall|pkill)\b[^;|&#\n]*)", re.MULTILINE)
_CATEGORY: Final = "abscert"
_UNKNOWN: Final = "of unknown version"


@final
@dataclass(frozen=True, slots=True)
class Task:
    """A query on the disk.

    Args:
        network: the ONNX file.
        version_1, version_2: the query in both versions of VNN-LIB; the second calls the network `f`.
        results: where a competition's script writes its answer; it is not there yet.
        seconds: that may be spent.
        size: entries of the network's input.
    """

    network: Path
    version_1: Path
    version_2: Path
    results: Path
    seconds: float
    size: int

    @property
    def whole_seconds(self) -> str:
        """The time as the standard takes it."""
        return str(max(1, int(self.seconds)))


@final
@dataclass(frozen=True, slots=True)
class QuerySolver:
    """Another program that answers queries.

    Args:
        name: what it is called.
        version: its version, or words that say there is none.
        commands: the programs that are run for a task, one after another; all but the last have to succeed.
        is_printed: whether the answer is what the last one prints; else it stands in the results file.
    """

    name: str
    version: str
    commands: Callable[[Task], Sequence[Sequence[str]]]
    is_printed: bool

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.name} {self.version}"

    def ask(self, task: Task) -> Answer:
        """Return its answer to a query.

        Raises:
            VerifierError: if it cannot be started, fails, takes too long, or gives no answer.
        """
        folder, limit = task.results.parent, task.seconds + _GRACE
        *before, last = self.commands(task)
        for command in before:
            ended = run_within(command, folder, limit)
            if ended.status:
                name = Path(command[1] if command[0] == _SHELL else command[0]).name
                raise VerifierError(f"{name} ended with status {ended.status}: {ended.last_words}")
        ended = run_within(last, folder, limit)
        text = ended.out if self.is_printed else _content(task.results)
        if not text.strip():
            raise VerifierError(f"it ended with status {ended.status} and no answer: {ended.last_words}")
        return read_answer(text, task.size)


def _content(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MOST_BYTES)


# --- programs that speak a language of the field ------------------------------------------------------------------


def standard_solver(program: str) -> QuerySolver:
    """Return a program that has the command line of the VNN-LIB standard: `verify QUERY --network f=MODEL`."""

    def commands(task: Task) -> Sequence[Sequence[str]]:
        asked = [program, "verify", str(task.version_2), "--network", f"f={task.network}"]
        return [[*asked, "--timeout", task.whole_seconds]]

    return QuerySolver(Path(program).name, _version([program, "--version"]), commands, is_printed=True)


def competition_solver(folder: Path, category: str) -> QuerySolver:
    """Return the scripts of a competition entry, interface v1; the version is the checksum of the one that decides.

    Raises:
        ConfigError: if a script ends programs by their names, which may be this one, or another user's work.
    """
    folder = folder.resolve()
    script, preparation = (folder / name for name in (_SCRIPT, _PREPARATION))
    for path in (script, preparation):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if (found := _ENDS_OTHERS.search(text)) is not None:
            raise ConfigError(
                f"{path} ends every program of a name on this machine ({' '.join(found[1].split())}), which is for a "
                f"machine of its own; name a folder with a copy of {_SCRIPT} without that"
            )

    def commands(task: Task) -> Sequence[Sequence[str]]:
        about = ["v1", category, str(task.network), str(task.version_1)]
        prepared = [[_SHELL, str(preparation), *about]] if preparation.is_file() else []
        return [*prepared, [_SHELL, str(script), *about, str(task.results), task.whole_seconds]]

    version = f"({_SCRIPT} {hashlib.sha256(script.read_bytes()).hexdigest()[:12]})"
    return QuerySolver("/".join(folder.parts[-2:]), version, commands, is_printed=False)


# --- programs of their own ----------------------------------------------------------------------------------------

_MARABOU: Final = """
import sys
from maraboupy import Marabou
model, query, results, seconds = sys.argv[1:]
network = Marabou.read_onnx(model)
options = Marabou.createOptions(verbosity=0, timeoutInSeconds=int(seconds))
word, values, _ = network.solve(propertyFilename=query, options=options, verbose=False)
inputs = network.inputVars[0].flatten()
lines = [f"(X_{place} {values[int(variable)]!r})" for place, variable in enumerate(inputs)] if values else []
with open(results, "w") as file:
    print({"TIMEOUT": "timeout", "UNKNOWN": "unknown"}.get(word, word), *lines, sep="\\n", file=file)
"""
# Its modules import each other by bare names, from their own folder. It keeps the input that it found in another file.
_CROWN: Final = """
import pathlib, runpy, sys
from importlib.util import find_spec
folder = pathlib.Path(find_spec("abcrown").submodule_search_locations[0])
model, query, results, seconds = sys.argv[1:]
config, found = (pathlib.Path(results).with_name(name) for name in ("config.yaml", "found.txt"))
config.write_text("general: {}\\n")
sys.path.insert(0, str(folder))
sys.argv = ["abcrown.py", "--device", "cpu", "--config", str(config), "--onnx_path", model, "--vnnlib_path", query]
sys.argv += ["--timeout", seconds, "--results_file", results, "--save_adv_example", "--cex_path", str(found)]
try:
    runpy.run_path(str(folder / "abcrown.py"), run_name="__main__")
finally:
    if found.exists():
        with open(results, "a") as file:
            file.write("\\n" + found.read_text())
"""


def vibecheck(where: str) -> QuerySolver:
    """Return vibecheck, whose program is beside this Python, on the path, or where it is said to be."""
    beside = Path(sys.executable).with_name("vibecheck")
    program = where or shutil.which("vibecheck") or (str(beside) if beside.is_file() else "")
    if not program or shutil.which(program) is None:
        raise ConfigError(
            f"expected the program {program or 'vibecheck'}, of the package vibecheck-nn: pip install it into an "
            "environment of its own, and name it with --then vibecheck=/path/to/bin/vibecheck"
        )
    program = str(shutil.which(program))
    python = Path(program).resolve().with_name("python")

    def commands(task: Task) -> Sequence[Sequence[str]]:
        command = [program, "--net", str(task.network), "--spec", str(task.version_1), "--device", "cpu"]
        return [[*command, "--timeout", task.whole_seconds, "--results-file", str(task.results)]]

    version = _version([str(python), *_asks_package("vibecheck-nn")]) if python.is_file() else _UNKNOWN
    return QuerySolver("vibecheck", version, commands, is_printed=False)


def _in_python(name: str, package: str, module: str, source: str) -> Callable[[str], QuerySolver]:
    """Return what finds a solver that is a package of a Python, which runs a source."""

    def found(where: str) -> QuerySolver:
        python = shutil.which(where or sys.executable) or ""
        there = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        if not python or _run([python, "-c", there]).status:
            raise ConfigError(
                f"expected the package {module} in {where or sys.executable}: install it into an environment of its "
                f"own, and name its Python with --then {name}=/path/to/bin/python"
            )

        def commands(task: Task) -> Sequence[Sequence[str]]:
            files = (task.network, task.version_1, task.results)
            return [[python, "-c", source, *map(str, files), task.whole_seconds]]

        return QuerySolver(name, _version([python, *_asks_package(package)]), commands, is_printed=False)

    return found


def _asks_package(package: str) -> list[str]:
    return ["-c", f"from importlib.metadata import version; print(version({package!r}))"]


SHIPPED: Final[Mapping[str, Callable[[str], QuerySolver]]] = MappingProxyType(
    {
        "vibecheck": vibecheck,
        "marabou": _in_python("marabou", "maraboupy", "maraboupy", _MARABOU),
        "alpha-beta-CROWN": _in_python("alpha-beta-CROWN", "abcrown", "abcrown", _CROWN),
    }
)
"""Solvers that are known by name, each by where it is: empty for where this Python finds it."""


def found_solver(named: str) -> QuerySolver | None:
    """Return the program that an option names; None where it names none.

    Args:
        named: one of `SHIPPED`, or `NAME=WHERE` of one; a folder with run_instance.sh, or `FOLDER=CATEGORY`; or a
            program that has the standard's command line.

    Raises:
        ConfigError: if it names one of `SHIPPED` that is not there.
    """
    name, sign, where = named.partition("=")
    if name in SHIPPED:
        return SHIPPED[name](where)
    folder = Path(named)
    if (folder / _SCRIPT).is_file():
        return competition_solver(folder, _CATEGORY)
    if sign and (Path(name) / _SCRIPT).is_file():
        return competition_solver(Path(name), where)
    program = shutil.which(named)
    return None if program is None else standard_solver(str(Path(program).absolute()))


def from_anywhere(named: str) -> str:
    """Return what names the same program in any folder: paths, of which the first of our names is none, absolute."""
    first, sign, where = named.partition("=")
    if first not in SHIPPED and (os.sep in first or (Path(first) / _SCRIPT).is_file()):
        first = str(Path(first).absolute())
    if os.sep in where:
        where = str(Path(where).absolute())
    return f"{first}{sign}{where}"


def _version(command: Sequence[str]) -> str:
    """Return the first line that a program prints, or words that say there is none."""
    try:
        ended = _run(command)
    except VerifierError:
        return _UNKNOWN
    lines = [line.strip() for line in ended.out.splitlines() if line.strip()]
    return lines[0][:40] if lines and not ended.status else _UNKNOWN


def _run(command: Sequence[str]) -> Ended:
    with tempfile.TemporaryDirectory() as folder:
        return run_within(command, Path(folder), _VERSION_SECONDS)
