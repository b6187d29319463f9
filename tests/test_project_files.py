"""What describes the project to other tools agrees with pyproject.toml and the Makefile."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
PYPROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: Final[dict[str, Any]] = PYPROJECT["project"]
PACKAGES: Final = ("abscert_plugin", "baselines", "compare")
MAKEFILE: Final = (ROOT / "Makefile").read_text()


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_project() -> None:
    citation = read_yaml("CITATION.cff")
    (paper,) = citation["references"]
    for entry in ("version", "license"):
        assert citation[entry] == PROJECT[entry]
    assert (citation["title"], citation["keywords"]) == (PROJECT["name"], PROJECT["keywords"])
    assert (len(paper["authors"]), paper["year"]) == (7, 2023)
    assert paper["title"] in (ROOT / "docs" / "METHOD.md").read_text(encoding="utf-8")


def test_a_commit_is_checked_by_what_lint_runs() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    lint = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in repository["hooks"]] == lint


def test_the_workflow_runs_targets_and_extras_that_there_are() -> None:
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    steps = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    assert set(re.findall(r"make ([a-z-]+)", steps)) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    (extras,) = re.findall(r"\.\[([a-z,]+)\]", steps)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert versions == sorted(versions, key=lambda text: int(text.split(".")[1]))


def test_the_gate_runs_targets_that_there_are() -> None:
    (parts,) = re.findall(r"^for parts in (.*); do$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    parts = parts.replace('"', "")  # what is made side by side
    assert set(parts.split()) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert {"lint", "docs", "test", "install-check"} <= set(parts.split())


def test_whatever_is_no_module_comes_with_its_package() -> None:
    (patterns,) = PYPROJECT["tool"]["setuptools"]["package-data"].values()
    for package in PACKAGES:
        files = {path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert files == {path for pattern in patterns for path in (ROOT / package).rglob(pattern)}
        assert ROOT / package / "py.typed" in files
