# Every target may be repeated; what is done already is not done again.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FRONT_END := src/supercloud/web/foreign/htmx.min.js

.PHONY: help setup packages images demo test check unit system apart bench faults clean

help: ## Show what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

packages: ## Install the Debian packages that are missing (root), or say which are
	@scripts/install-debian-packages

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(FRONT_END): package-lock.json scripts/fetch-front-end
	@scripts/fetch-front-end

images: $(STAMP) ## Build, or find in the cache, the blanket and guest images
	$(BIN)/python -m supercloud.images build

setup: packages $(STAMP) $(FRONT_END) images ## Debian packages if missing, virtual environment, images

demo: setup ## Run the main job on real VMs and print what it measured
	$(BIN)/supercloud demo

check: packages $(STAMP) ## Formatting, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: packages $(STAMP) $(FRONT_END) ## The tests that need no VM
	$(BIN)/pytest -m "not system" -n 3 --durations=25

# A sample of faults takes ten minutes, on a slow machine twice that, which `make test` has not got to spare there.
APART := tests/system/test_faults.py
system: setup ## The tests on real QEMU, libvirt, kernels and guests
	$(BIN)/pytest -m system --durations=15 $(APART:%=--ignore %)

apart: setup ## A sample of faults on real VMs, and a second copy that has to be seen
	$(BIN)/pytest $(APART)

test: check unit system ## Every check and test

bench: setup ## Measure; writes JSON and docs/benchmarks.md
	$(BIN)/supercloud bench all --write-docs docs/benchmarks.md

faults: setup ## The full matrix of faults on real VMs; resumable
	$(BIN)/python -m tests.system.faults

clean: ## Remove the virtual environment; images stay in the cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
