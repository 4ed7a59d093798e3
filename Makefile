PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## Create .venv and install everything into it

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@# W&B's checker of sweeps, for tests; it asks for numpy < 2 and runs with 2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps sweeps
	touch $@

demo: .venv/installed ## Train conv_vae on digits that need no download, show results (a minute or two)
	$(BIN)/python train.py data=digits

test: .venv/installed ## Run all tests (data below VARIATA_DATA is used where present)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/installed ## Check style, types, and that imports run down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed ## Compare training with hand-written loops, time its start; writes outputs/bench.json
	$(BIN)/python benchmarks/bench.py
