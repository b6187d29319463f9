"""Install this checkout with the README's pip commands into a fresh environment, and verify a ball by bounds there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## Installation without make\n(.*?)^#+ ", re.DOTALL | re.MULTILINE)
NAME = "abscert-plugin"
PACKAGES = ("abscert_plugin", "baselines", "compare")


def documented() -> list[list[str]]:
    """Return the words of each pip command in the README's section on installation."""
    section = SECTION.search((ROOT / "README.md").read_text(encoding="utf-8"))
    lines = re.findall(r"^    (pip install .*)$", section[1] if section else "", re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    if len(commands) != 2 or sum(word.startswith(NAME) for words in commands for word in words) != 1:
        sys.exit(f"error: expected two pip commands in the README, one of them of {NAME}, got {commands}")
    return commands


def run(*words: object, cwd: Path) -> str:
    """Return what a command prints; the whole check ends where it fails."""
    done = subprocess.run([*map(str, words)], cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"error: {shlex.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def source(into: Path) -> Path:
    """Return a copy of what is packaged: building leaves metadata beside the code, which would hide those of .venv."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, into / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, into)
    return into


def main() -> None:
    """Carry out the commands, of this checkout in place of the published package, and use what they installed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        checkout = source(folder / "source")
        for _, *words in documented():
            here = [re.sub(f"^{NAME}", lambda _: str(checkout), word) for word in words]
            run(python, "-m", "pip", "--quiet", *here, "--constraint", ROOT / "requirements.txt", cwd=folder)
        abscert = python.with_name("abscert")
        training = shlex.split("train --data digits --network fc-3 --cells 2 --epochs 2 --device cpu --out run")
        run(abscert, *training, cwd=folder)
        ball = shlex.split("--data digits --claim ball --radius 0.02 --limit 60 --bound crown --out verdicts --json")
        told = json.loads(run(abscert, "verify", "run/deploy.onnx", *ball, cwd=folder))
        rows = [json.loads(line) for line in (folder / "verdicts" / "records.jsonl").read_text().splitlines()]
        by_bound = sum(row["verdict"] == "certified" and row["method"] == "crown" for row in rows)
        if not by_bound:
            sys.exit(f"error: expected balls that CROWN certifies, got {told}")
        print(f"installed as documented; CROWN certified {by_bound} of {len(rows)} balls")


if __name__ == "__main__":
    main()
