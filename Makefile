# Every target with its meaning is printed by bare `make`. PYTHON names the interpreter that `.venv` is made from.
PYTHON ?= python3
BIN := .venv/bin
# Test processes at once: they wait more than they work.
JOBS ?= 3
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
        --universal --python-version 3.11 $(if $(UPGRADE),--upgrade)

export PYTHONDONTWRITEBYTECODE :=
export LITELLM_LOCAL_MODEL_COST_MAP := True

.DEFAULT_GOAL := help
.PHONY: help install up test fault swarm bench bench-meter lint unit fix precision map lock clean distclean

help: ## Print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Make .venv and .venv-litellm from the lock files (instant where nothing changed)
	@$(PYTHON) deploy/install.py

up: install ## Run the whole chain in the foreground, demo models included; Ctrl-C ends it
	@exec $(BIN)/sundial up

test: install lint ## Everything that must hold: lint, types and all tests
	@$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not sweep"

fault: install ## The whole fault matrix, with every place of its sweeps
	@$(BIN)/pytest -n $(JOBS) --dist loadfile tests/fault

swarm: install ## Random faults on all parts under load, then the truth (SECONDS=600 SEEDS="1 2 3 4 5" KEEP=folder)
	@$(BIN)/python -m tests.swarm --seconds $(or $(SECONDS),600) $(if $(KEEP),--keep $(KEEP)) $(or $(SEEDS),1 2 3 4 5)

lint: install ## Form and types: ruff check, ruff format --check, mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: install ## The fast tests only: nothing is started
	@$(BIN)/pytest tests/unit

fix: install ## Bring the form in order: ruff check --fix, ruff format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

precision: install ## Measure the counting and pricing on the recorded calls, as docs/precision.md has it (1 min)
	@$(BIN)/python -m tests.precision

bench: install ## Measure the gateway beside nginx, Go's proxy and more; BENCH="--write" stores it (Debian: nginx-light, golang-go, gcc)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bench.txt
	@$(BIN)/python -m tests.bench $(BENCH)

bench-meter: install ## Measure what an event costs the meter and Postgres (BENCH="--accounts 1000")
	@$(BIN)/python -m tests.bench.meter $(BENCH)

map: install ## Write the tables of ARCHITECTURE.md (files, limits) and docs/settings.md anew
	@$(BIN)/python -m tests.harness.map
	@$(BIN)/python -m tests.harness.settings_map

lock: install ## Compile requirements/*.txt again (UPGRADE=1: to the latest releases)
	@$(LOCK) requirements/installer.in -o requirements/installer.txt
	@$(LOCK) pyproject.toml --all-extras -o requirements/dev.txt
	@$(LOCK) pyproject.toml --extra gateway -c requirements/dev.txt -o requirements/gateway.txt
	@$(LOCK) pyproject.toml --extra meter -c requirements/dev.txt -o requirements/meter.txt
	@$(LOCK) requirements/bench.in -c requirements/dev.txt -o requirements/bench.txt
	@$(LOCK) requirements/litellm-proxy.in -o requirements/litellm-proxy.txt

clean: ## Remove caches and build leavings; data in .sundial and the environments stay
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv and .venv-litellm too; data in .sundial stays
	@rm -rf .venv .venv-litellm
