# Everything runs in .venv, which these targets make from pinned versions (requirements.txt).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# of the tests: one more than cores, since some wait for processes; make test WORKERS=0 runs them in one process
WORKERS ?= $$(( $$(nproc 2>/dev/null || echo 2) + 1 ))
PYTEST := $(BIN)/python -m pytest -q -n $(strip $(WORKERS)) --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint docs install-check dist results format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(STAMP) ## make .venv with the pinned dependencies

# without compiling: what is imported is compiled then
$(STAMP): requirements.txt requirements-lirpa.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: expected Python 3.11 or later, got $$($(PYTHON) --version 2>&1); run make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps -r requirements-lirpa.txt
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## train, export, verify, tune and guard on handwritten digits; files in runs/demo
	$(BIN)/abscert demo --out runs/demo --web

test: setup ## run every test, on all cores
	$(PYTEST)

test-fast: setup ## run the tests that are not marked slow
	$(PYTEST) -m "not slow"

lint: setup ## ruff and mypy, both strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## build the documentation into docs/_build/html; a warning fails
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

install-check: ## build what is published, and use it where the README's one pip command put it
	$(PYTHON) .ci/installation.py

dist: ## build what is published into dist/: source distribution and wheel, and the wheel of adapters/lirpa
	$(PYTHON) .ci/distributions.py dist

results: setup ## write docs/RESULTS.md and docs/results out of the records in benchmarks/records
	$(BIN)/python benchmarks/results.py

format: setup ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build build dist *.egg-info
