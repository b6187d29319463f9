"""Puts this folder on the path, for what the tests of several rooms share (small_plan.py, stored_records.py...)."""

import json
import os
from pathlib import Path

import pytest
from command_line import abscert
from filelock import FileLock
from small_plan import PLAN


@pytest.fixture(scope="session")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with plan.toml, what `compare run` left of it in results/, and said in facts.json; to be copied.

    One process of the tests carries it out for all of them.
    """
    home = tmp_path_factory.getbasetemp()
    shared = (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "small"
    with FileLock(f"{shared}.lock"):
        if not (shared / "facts.json").exists():
            shared.mkdir()
            (shared / "plan.toml").write_text(PLAN)
            facts = abscert("compare", "run", shared / "plan.toml", "--out", shared / "results", "--json").json
            (shared / "facts.json").write_text(json.dumps(facts))
    return shared
