"""The rules that a reviewer would have to remember: who imports, prints and loads what."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from abscert_plugin.artifact.export import export
from abscert_plugin.grid import Grid
from abscert_plugin.networks import Activation, NetworkConfig

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("abscert_plugin", "baselines", "compare")
FORBIDDEN: Final[Mapping[str, tuple[str, ...]]] = {
    "abscert_plugin": ("baselines", "compare"),
    "baselines": ("compare",),
    "compare": (),
}
COMPARE_ROOMS: Final = ("cli", "page", "landscape", "tables", "timing", "running", "results", "plans")
"""The rooms of compare, from top to bottom: each imports those that follow it, and itself."""
LONGEST_FILE: Final = 400
# The rooms of the core, from the ground up: a room imports itself and those below it.
FLOORS: Final = (
    ("errors",),
    ("choices", "cores", "decimals", "draws", "memory"),
    ("plugins", "telling", "wording"),
    ("files",),
    ("folders",),
    ("engines",),
    ("grid", "claim"),
    ("records",),
    ("ball", "preprocessing"),
    ("front",),
    ("data", "networks", "abstraction"),
    ("graph",),
    ("blackbox",),
    ("artifact",),
    ("reading",),
    ("bounds",),
    ("guards", "lirpa"),
    ("training",),
    ("verification", "query"),
    ("instances",),
    ("report",),
    ("api",),
    ("cli",),
)
FLOOR: Final = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PRINTERS: Final = ("print", "print_json", "echo", "secho")
STREAMS: Final = ("sys.argv", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__")


@dataclass(frozen=True)
class Module:
    """A source file: its path from the repository's root, and its text."""

    path: str
    text: str

    @property
    def package(self) -> str:
        return self.path.split("/", maxsplit=1)[0]

    @property
    def is_cli(self) -> bool:
        return "/cli/" in self.path or self.path.endswith("/cli.py")

    def nodes(self) -> tuple[ast.AST, ...]:
        return nodes_of(self.text)


@cache
def nodes_of(text: str) -> tuple[ast.AST, ...]:
    """Return the nodes of a source; several rules read each file."""
    return tuple(ast.walk(ast.parse(text)))


@cache
def aliases(module: Module) -> dict[str, str]:
    """Return what each imported name stands for, such as np: numpy, or load: torch.load."""
    names: dict[str, str] = {}
    for node in module.nodes():
        if isinstance(node, ast.Import):
            for item in node.names:
                root = item.name.split(".")[0]
                names[item.asname or root] = item.name if item.asname else root
        elif isinstance(node, ast.ImportFrom):
            names |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    return names


def dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    """Return the full name of an expression such as `np.load`; what cannot be resolved is `?`."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return "?"


def calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    names = aliases(module)
    for node in module.nodes():
        if isinstance(node, ast.Call):
            yield dotted(node.func, names), node


@cache
def imported(module: Module) -> set[str]:
    """Return every module that is imported by a statement, or by name with importlib."""
    found = set(aliases(module).values())
    for node in module.nodes():
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    for name, call in calls(module):
        if name in ("importlib.import_module", "__import__") and call.args and isinstance(call.args[0], ast.Constant):
            found.add(str(call.args[0].value))
    return {name.split(".")[0] for name in found}


@cache
def full_names(module: Module) -> set[str]:
    """Return the full name of every module that is imported by a statement, and of every name out of one."""
    found: set[str] = set()
    for node in module.nodes():
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{item.name}" for item in node.names}
    return found


def has_keyword(call: ast.Call, name: str, value: bool) -> bool:
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
    )


# --- the rules: each returns what is wrong with a module -------------------------------------------------------------


def imports_against_the_direction(module: Module) -> list[str]:
    return sorted(imported(module) & set(FORBIDDEN[module.package]))


def imports_from_above(module: Module) -> list[str]:
    """Return the rooms of the core that a module imports and that do not lie below its own."""
    if module.package != "abscert_plugin" or (module.path.count("/") == 1 and module.path.endswith("__init__.py")):
        return []
    own = module.path.split("/")[1].removesuffix(".py")
    names = {name for name in full_names(module) if name.startswith("abscert_plugin.")}
    rooms = {name.split(".")[1] for name in names if not name.startswith("abscert_plugin.__")} - {own}
    return sorted(room for room in rooms if FLOOR.get(room, len(FLOORS)) >= FLOOR[own])


def imports_a_higher_room_of_compare(module: Module) -> list[str]:
    """Return the rooms of compare above a module's own that it imports; a module in no room is a breach."""
    package, *inner = module.path.split("/")
    if package != "compare" or inner == ["__init__.py"]:
        return []
    if inner[0] not in COMPARE_ROOMS:
        return [f"{module.path} is in no room"]
    above = {f"compare.{room}" for room in COMPARE_ROOMS[: COMPARE_ROOMS.index(inner[0])]}
    return sorted(above & {".".join(name.split(".")[:2]) for name in full_names(module)})


def imports_onnxruntime(module: Module) -> list[str]:
    allowed = module.path == "abscert_plugin/blackbox.py"
    return [] if allowed else sorted(imported(module) & {"onnxruntime"})


def imports_auto_lirpa(module: Module) -> list[str]:
    allowed = module.path.startswith("abscert_plugin/lirpa/")
    return [] if allowed else sorted(imported(module) & {"auto_LiRPA"})


def prints_or_reads_arguments(module: Module) -> list[str]:
    if module.is_cli:
        return []
    names = aliases(module)
    printed = [name for name, _ in calls(module) if name.split(".")[-1] in PRINTERS]
    attributes = [dotted(node, names) for node in module.nodes() if isinstance(node, ast.Attribute)]
    imported_streams = [name for name in names.values() if name in STREAMS]
    return printed + [name for name in attributes if name in STREAMS] + imported_streams


def is_too_long(module: Module) -> list[str]:
    lines = len(module.text.splitlines())
    return [f"{lines} lines"] if lines > LONGEST_FILE else []


def loads_what_could_run_code(module: Module) -> list[str]:
    found = []
    for name, call in calls(module):
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler") or name.split(".")[0] in ("dill", "joblib"):
            found.append(name)
        if name == "torch.load" and not has_keyword(call, "weights_only", True):
            found.append(name)
        if name == "numpy.load" and has_keyword(call, "allow_pickle", True):
            found.append(name)
    return found


Rule = Callable[[Module], list[str]]
CORE = "abscert_plugin/grid.py"
BREACHES: list[tuple[Rule, str, str]] = [
    (imports_against_the_direction, CORE, "import baselines.cli"),
    (imports_against_the_direction, CORE, "from compare.plans.plan import Plan"),
    (imports_against_the_direction, CORE, "def late():\n    import compare"),
    (imports_against_the_direction, CORE, "import importlib\nimportlib.import_module('baselines.ibp')"),
    (imports_against_the_direction, "baselines/ibp.py", "from compare import tables"),
    (imports_from_above, CORE, "from abscert_plugin.front import Cells"),
    (imports_from_above, CORE, "from abscert_plugin.claim import Claim"),
    (imports_from_above, CORE, "def late():\n    import abscert_plugin.artifact.phi"),
    (imports_from_above, "abscert_plugin/bounds/intervals.py", "from abscert_plugin import training"),
    (imports_from_above, "abscert_plugin/bounds/intervals.py", "from abscert_plugin.lirpa.compat import load_lirpa"),
    (imports_from_above, "abscert_plugin/report/page.py", "from abscert_plugin.cli.console import OUT"),
    (imports_from_above, "abscert_plugin/report/page.py", "from abscert_plugin.nowhere import x"),
    (imports_a_higher_room_of_compare, "compare/plans/plan.py", "from compare.tables.selection import chosen"),
    (imports_a_higher_room_of_compare, "compare/results/keep.py", "def late():\n    import compare.running.worker"),
    (imports_a_higher_room_of_compare, "compare/timing/rounds.py", "from compare import page"),
    (imports_a_higher_room_of_compare, "compare/check.py", ""),
    (imports_onnxruntime, CORE, "import onnxruntime"),
    (imports_onnxruntime, "compare/running/runner.py", "from onnxruntime.capi import x"),
    (imports_onnxruntime, "baselines/blackbox.py", "import onnxruntime as ort"),
    (imports_auto_lirpa, CORE, "from auto_LiRPA import BoundedModule"),
    (
        imports_auto_lirpa,
        "baselines/ibp.py",
        "from importlib import import_module\nimport_module('auto_LiRPA.perturbations')",
    ),
    (prints_or_reads_arguments, CORE, "print(1)"),
    (prints_or_reads_arguments, CORE, "from rich.console import Console\nConsole().print(1)"),
    (prints_or_reads_arguments, CORE, "import rich\nrich.print(1)"),
    (prints_or_reads_arguments, CORE, "import typer\ntyper.echo(1)"),
    (prints_or_reads_arguments, CORE, "from typer import echo as say\nsay(1)"),
    (prints_or_reads_arguments, CORE, "import sys\nname = sys.argv[1]"),
    (prints_or_reads_arguments, CORE, "from sys import argv"),
    (prints_or_reads_arguments, CORE, "import sys\nsys.stdout.write('1')"),
    (prints_or_reads_arguments, "abscert_plugin/client.py", "print(1)"),
    (is_too_long, CORE, "pass\n" * 401),
    (loads_what_could_run_code, CORE, "import pickle\npickle.load(file)"),
    (loads_what_could_run_code, CORE, "from pickle import loads as read\nread(data)"),
    (loads_what_could_run_code, CORE, "import pickle\npickle.Unpickler(file).load()"),
    (loads_what_could_run_code, CORE, "import torch\ntorch.load(path)"),
    (loads_what_could_run_code, CORE, "import torch as t\nt.load(path, weights_only=False)"),
    (loads_what_could_run_code, CORE, "import torch\ntorch.load(path, weights_only=choice)"),
    (loads_what_could_run_code, CORE, "import numpy as np\nnp.load(path, allow_pickle=True)"),
]
ALLOWED: list[tuple[Rule, str, str]] = [
    (imports_against_the_direction, "baselines/ibp.py", "import abscert_plugin.grid"),
    (imports_against_the_direction, "compare/plans/plan.py", "import baselines, abscert_plugin"),
    (imports_from_above, CORE, "from abscert_plugin.errors import GridError"),
    (
        imports_from_above,
        "abscert_plugin/cli/verify.py",
        "from abscert_plugin.cli import options\nimport abscert_plugin.grid",
    ),
    (imports_from_above, "abscert_plugin/artifact/export.py", "import abscert_plugin"),
    (imports_from_above, "baselines/ibp.py", "from abscert_plugin.cli import options"),
    (imports_a_higher_room_of_compare, "compare/page/curves.py", "import compare.tables.selection, compare.plans.plan"),
    (imports_a_higher_room_of_compare, "compare/timing/rounds.py", "from compare.timing import workload"),
    (imports_onnxruntime, "abscert_plugin/blackbox.py", "import onnxruntime"),
    (imports_auto_lirpa, "abscert_plugin/lirpa/bounds.py", "import auto_LiRPA"),
    (prints_or_reads_arguments, "abscert_plugin/cli/show.py", "import sys\nprint(sys.argv)"),
    (prints_or_reads_arguments, "compare/cli.py", "print(1)"),
    (prints_or_reads_arguments, CORE, "import sys\nprinted = sys.version"),
    (is_too_long, CORE, "pass\n" * 400),
    (loads_what_could_run_code, CORE, "import torch\ntorch.load(path, weights_only=True)"),
    (loads_what_could_run_code, CORE, "import numpy as np\nnp.load(path, allow_pickle=False)"),
    (loads_what_could_run_code, CORE, "import json\njson.load(file)"),
]
RULES: Final = tuple(dict.fromkeys(rule for rule, _, _ in BREACHES))


def modules() -> list[Module]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return [Module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    found = {module.path: wrong for module in modules() if (wrong := rule(module))}
    assert found == {}


@pytest.mark.parametrize(("rule", "path", "text"), BREACHES)
def test_the_rule_sees_a_breach(rule: Rule, path: str, text: str) -> None:
    assert rule(Module(path, text))


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_the_rule_allows_what_is_allowed(rule: Rule, path: str, text: str) -> None:
    assert not rule(Module(path, text))


def test_the_rules_look_at_all_three_packages() -> None:
    assert {module.package for module in modules()} == set(PACKAGES)
    assert len(modules()) > 50


# --- what starts without torch ---------------------------------------------------------------------------------------


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["abscert_plugin.cli", "abscert_plugin.cli.verify"])
def test_the_command_line_starts_without_torch(name: str) -> None:
    done = run_python(
        f"""
        import sys
        import {name}
        heavy = {{"torch", "auto_LiRPA", "sklearn"}} & set(sys.modules)
        assert not heavy, heavy
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_verify_runs_without_torch(tmp_path: Path) -> None:
    config = NetworkConfig("fc-3-code", Activation.RELU, (1, 8, 8), 10)
    probes = np.zeros((1, 1, 8, 8), dtype=np.float32)
    deploy = export(config.build(0), config, Grid(5), "none", probes, tmp_path).deploy
    done = run_python(
        """
        import sys
        from pathlib import Path
        from abscert_plugin.cli.verify import verify
        verify(
            Path(sys.argv[1]), data="digits", limit=20, out=Path(sys.argv[2]), arithmetic="this-runtime", json=True
        )
        assert "torch" not in sys.modules
        """,
        str(deploy),
        str(tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 20


@pytest.mark.slow
def test_the_check_for_torch_sees_torch() -> None:
    done = run_python("import sys, abscert_plugin.abstraction\nassert 'torch' not in sys.modules")
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
