# Two commands set everything up: `make setup`, then `make test`. Nothing outside this folder is touched
# (pip's own cache aside); `make clean` and removing .venv undo everything.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := metaworld,babyai,minari,lerobot,robomimic,images,report,text,language,planner,serve,export,dev
WORKERS ?= 2

# Small networks on small batches run slower with many threads than with one, and tests run side by side.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo bench constraints clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "qseq needs Python 3.11 or newer; found $$($(PYTHON) --version); try: make setup PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# One pip command for everything: installing simulators one after another replaces the pinned MuJoCo.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $(STAMP)

setup: $(STAMP) ## Create .venv and install everything, pinned

lint: setup ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Apply the formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup lint ## Lint, then the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS)

demo: setup ## Meta-World from sloppy data to a report: runs/demo/report.html
	$(BIN)/python examples/metaworld_demo.py

bench: setup ## Run every benchmark in benchmarks/
	@set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

constraints: setup ## Write the versions of .venv into constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove caches and build leftovers (keeps .venv and runs)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
