"""Build what is published, install it as the README says into a fresh environment, and use it there.

Two jobs, side by side: one builds a source distribution and wheels and looks at them; the other carries out the
README's command, in an environment that has another `compare` and another `baselines`, and runs the demo, examples
and a ball there.
"""

import hashlib
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distributions import QUICKLY, ROOT, build_and_look, environment, expect, pip, run

COMMAND = re.compile(r"^(?: {4})?pip install ('\.\[.*)$", re.MULTILINE)
THEIRS = ("compare", "baselines")
EXAMPLES = (("train_and_verify", "example"), ("bound_by_auto_lirpa", "0.1"))
EVERY_MODULE = """
import importlib, pkgutil, sys, abscert_plugin
for module in pkgutil.walk_packages(abscert_plugin.__path__, "abscert_plugin."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name != "ray":  # an extra of its own
            raise
from abscert_plugin.compare.plans.plan import read_plan, shipped_plans
from abscert_plugin.compare.tables.formats import templates
from abscert_plugin.compare.tables.published import published
assert all(read_plan(name).runs() for name in shipped_plans()) and published()
templates().get_template("page/report.html")
print(len([name for name in sys.modules if name.startswith("abscert_plugin")]))
"""


def documented() -> list[str]:
    """Return the words of the README's one command that installs a checkout: `pip install '.[...` and so on."""
    lines = COMMAND.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    if len(lines) != 1:
        sys.exit(f"error: expected one line `pip install '.[...]' ...` in the README, got {lines}")
    return shlex.split(lines[0], comments=True)


def put_theirs(python: Path, folder: Path) -> dict[Path, str]:
    """Put modules of others by the names of our folders beside what will be installed; return their checksums."""
    where = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    paths = [where / name / "__init__.py" for name in THEIRS]
    for path in paths:
        path.parent.mkdir()
        path.write_text("raise RuntimeError('this is the module of others')\n", encoding="utf-8")
    return checksums(paths)


def checksums(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the sha256 of every file in the folders of these files."""
    files = [file for path in paths for file in path.parent.rglob("*") if file.is_file()]
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def use_what_is_installed(folder: Path) -> str:
    """Install by one command, and run the demo, the examples, a comparison's plans and a ball there."""
    python = environment(folder / "venv")
    theirs = put_theirs(python, folder)
    constraints = folder / "constraints.txt"
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    constraints.write_text(pinned.replace("onnxruntime-gpu==", "onnxruntime=="), encoding="utf-8")
    pip(python, "install", *QUICKLY, *documented(), "--constraint", constraints, cwd=ROOT)
    with ThreadPoolExecutor(2) as pool:
        balls = pool.submit(demo_and_balls, python.with_name("abscert"), folder)
        count = int(run(python, "-c", EVERY_MODULE, cwd=folder).splitlines()[-1])
        for name, argument in EXAMPLES:
            shutil.copy(ROOT / "examples" / f"{name}.py", folder)
            run(python, f"{name}.py", argument, cwd=folder)
        certified, rows = balls.result()
    expect(checksums(list(theirs)), theirs, "modules of others after the installation")
    pip(python, "uninstall", "--yes", "abscert-plugin", "abscert-lirpa", cwd=folder)
    expect(checksums(list(theirs)), theirs, "modules of others after the removal")
    return f"installed by one command; {count} modules imported; CROWN certified {certified} of {rows} balls"


def demo_and_balls(abscert: Path, folder: Path) -> tuple[int, int]:
    """Run the demo and verify balls of its file by CROWN: return how many that certified, and of how many."""
    run(abscert, "demo", "--out", "demo", cwd=folder)
    ball = shlex.split("--data digits --claim ball --radius 0.1 --limit 60 --bound crown --out verdicts --json")
    told = run(abscert, "verify", "demo/ball/deploy.onnx", *ball, cwd=folder)
    rows = [json.loads(line) for line in (folder / "verdicts" / "records.jsonl").read_text().splitlines()]
    by_bound = sum(row["verdict"] == "certified" and row["method"] == "crown" for row in rows)
    if not by_bound:
        sys.exit(f"error: expected balls that CROWN certifies, got {told}")
    return by_bound, len(rows)


def main() -> None:
    """Carry out both jobs, and say what was found."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folders = [Path(name) / "built", Path(name) / "used"]
        for folder in folders:
            folder.mkdir()
        jobs = [
            pool.submit(job, folder)
            for job, folder in zip((build_and_look, use_what_is_installed), folders, strict=True)
        ]
        for job in jobs:
            print(job.result())


if __name__ == "__main__":
    main()
