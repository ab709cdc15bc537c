# Everything a newcomer needs; plain `make` shows this list.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's find-links, where a machine may keep a torch build of its own.
PIP_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
export UV_FIND_LINKS ?= $(shell echo $(PIP_LINKS) | tr ' ' ',')
# Where Python is told not to keep what it compiles, every start of a worker or server takes three seconds more.
unexport PYTHONDONTWRITEBYTECODE
# Spinning threads of torch starve everything else on a small machine.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

# Each worker takes a run of files, whose tests share what they load, and at the end what others have left.
PARALLEL := -n auto --dist worksteal
# Many of these tests wait for a moment, so on a small machine two workers a core are quicker.
FAST = -n $(shell $(PYTHON) -c 'import os; n = os.cpu_count() or 1; print(max(n, min(2 * n, 8)))') --dist worksteal

FAULTS := tests/integration/chaos tests/integration/hostile

.PHONY: help install demo fast test unit integration faults check chaos simulate bench lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[36mmake %-11s\033[0m %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make the environment in .venv (every other target does it when needed)

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install ## Start broker, S3, MLflow and a worker, send real requests, show the answers
	$(BIN)/python -m examples.demo

fast: install ## Run the unit tests that need no servers, slow processes, seconds or published weights
	REBALANCE_SEEDS=5 $(BIN)/pytest $(FAST) -m "not (weights or processes or waits)" tests/unit $(PYTEST_ARGS)

test: check ## Run lint, types and all tests, three kinds beside each other
	$(MAKE) --no-print-directory --jobs=3 --output-sync=target unit integration faults

unit: install ## Run all tests that need no servers
	$(BIN)/pytest $(PARALLEL) --ignore=tests/integration $(PYTEST_ARGS)

integration: install ## Run the tests that start a broker, a store, a registry and workers
	$(BIN)/pytest tests/integration $(FAULTS:%=--ignore=%) $(PYTEST_ARGS)

faults: install ## Kill workers and brokers for some rounds, send some hostile files (make chaos: many)
	$(BIN)/pytest $(FAULTS) $(PYTEST_ARGS)

check: install ## Run ruff, mypy --strict, the import rules and the list of words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.words

chaos: install ## Kill workers and brokers for many rounds, send hostile files: nothing is lost
	CHAOS_ROUNDS=20 $(BIN)/pytest $(FAULTS) $(PYTEST_ARGS)

simulate: install ## Run the delivery core on a broker in memory with RUNS=1000 seeds from FIRST=0
	$(BIN)/python -m tests.simulation.run --runs $(or $(RUNS),1000) --first $(or $(FIRST),0)

bench: install ## Measure speed and memory against baselines in interleaved runs
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m examples.bench

lock: install ## Compile constraints.txt from pyproject.toml
	env -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --universal --python-version 3.11 \
		--constraint constraints.txt --no-annotate --no-header --quiet --output-file $(VENV)/constraints.new
	{ echo "# Every version that make installs; rewritten by 'make lock' from pyproject.toml, names no index."; \
		cat $(VENV)/constraints.new; } > constraints.txt

clean: ## Remove the environment, local data and caches of this checkout
	rm -rf $(VENV) .local .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
