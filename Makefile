# Every target sets up .venv by itself: only Python (3.11 to 3.13) and make are needed.
#   make demo    the first example and a page with its pictures, from an empty machine
#   make test    the test suite (PYTEST_ARGS="-n 0 -k pulp" to choose)
#   make lint    ruff, ruff format, mypy
#   make bench   the benchmarks, as JSON and a Markdown table

RUNS_HERE := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do $$p $(RUNS_HERE) && { echo $$p; break; }; done)
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test lint bench clean

demo: $(VENV)/.user
	$(BIN)/python examples/01_pulp.py
	$(BIN)/python examples/pulp_page.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .jax_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "lmmjax needs Python 3.11, 3.12 or 3.13: none found, name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml | $(BIN)/python
	$(PIP) --editable ".[plots]"
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.user
