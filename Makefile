# Every target may be repeated; what is done already is not done again.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FRONT_END := src/supercloud/web/foreign/htmx.min.js

.PHONY: help setup packages images demo test check unit system apart microhypervisor microhypervisor-host bench faults clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 24

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
	$(BIN)/pytest -m "not system" --hypothesis-profile ci -n 3 --durations=25

# Each of these brings up blankets of its own and takes ten minutes, on a slow machine twice that; `make test` has 45 in
# all. So of the first kind one takes its turn there, by the number of commits: a commit always has the same, and four
# in a row have them all; the faults are others each time. The others only stand apart: what they need to succeed is a machine with nothing else to do.
# The platforms' contract on the real micro-hypervisor is in `make microhypervisor`.
TURNS := $(addprefix tests/system/,test_overlay.py test_upgrade.py test_examples.py test_faults.py)
APART := $(addprefix tests/system/,test_nested_blanket.py test_attack.py test_benign.py test_microhypervisor_blankets.py)
COMMITS := $(shell git rev-list --count HEAD 2>/dev/null || echo 0)
TURN ?= $(word $(shell expr $(COMMITS) % 4 + 1),$(TURNS))
export SUPERCLOUD_FAULTS_SEED ?= $(COMMITS)

system: setup ## The tests on real QEMU, libvirt, kernels and guests, with one of the long ones (TURN=file: which)
	$(BIN)/pytest -m system -x --durations=15 $(patsubst %,--ignore %,$(APART) $(filter-out $(TURN),$(TURNS))) \
	  --deselect tests/contract/test_platform.py

apart: setup ## All the long ones: overlay, upgrade, examples, faults, a blanket inside a blanket, attacks, benign work
	$(BIN)/pytest $(TURNS) $(APART)

microhypervisor: setup ## Build the micro-hypervisor, test it, count its lines
	$(MAKE) -C microhypervisor test

microhypervisor-host: packages ## The same but for what boots: half a minute
	$(MAKE) -C microhypervisor host fuzz tcb FUZZ_SECONDS=4

test: check unit microhypervisor-host system ## Every check, and every test but for `make apart`

bench: setup ## Measure; writes JSON and docs/benchmarks.md
	$(BIN)/supercloud bench all --write-docs docs/benchmarks.md

faults: setup ## The full matrix of faults on real VMs; resumable
	$(BIN)/python -m tests.system.faults

clean: ## Remove the virtual environment; images stay in the cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
