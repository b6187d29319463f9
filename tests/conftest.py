"""Settings and fixtures of all tests: the hypothesis profile, and the data sets that some of them need."""

import os
from pathlib import Path

import pytest
from array_checks import begin_test, check_arrays_alone
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded: workers that each use every core slow each other down
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    # a worker inherits the width that xdist wrote there; the console of `abscert` would keep it for the whole process
    os.environ.pop("COLUMNS", None)

check_arrays_alone()

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)  # what does not say otherwise
settings.load_profile("ci")  # --hypothesis-profile chooses another

DATA_VARIABLE = "ABSCERT_TEST_DATA"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with slow tests first, so that no worker is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup() -> None:
    """Let functions be checked in the first calls of each test."""
    begin_test()


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """Return the folder to pass as `--data-dir` for MNIST, or skip."""
    folder = Path(os.environ.get(DATA_VARIABLE) or SHARED_DATA)
    if not list((folder / "mnist").glob("t10k-images-idx3-ubyte*")):
        pytest.skip(f"no MNIST in {folder / 'mnist'}; set ${DATA_VARIABLE} to the folder that holds mnist/")
    return folder
