# `make up` and `make test` each prepare a fresh Debian 12 by themselves; `make help` lists the rest.
VENV ?= .venv
PYTHON = $(VENV)/bin/python
STORE = $(VENV)/bin/store
WORKERS ?= 2
ARGS ?=
export VENV

.PHONY: help up test lint unit system bench soak lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

up: ## a whole cluster in the foreground (ARGS="--image book=2G" is passed on)
	@tools/setup up
	@$(STORE) up $(ARGS)

test: ## lint, types, floors, unit, simulation and system tests
	@tools/setup test
	@$(MAKE) --no-print-directory lint unit system

lint: ## ruff, mypy --strict, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

unit: ## everything that starts no processes, on $(WORKERS) workers
	$(PYTHON) -m pytest -q -n $(WORKERS) -m "not system" $(ARGS)

system: ## real processes, one test after the other
	$(PYTHON) -m pytest -q -m system $(ARGS)

bench: ## figures, with a raw disk and a RAM disk beside them
	@tools/setup test
	@$(PYTHON) tools/bench.py $(ARGS)

soak: ## the simulator for as long as you like: ARGS="FIRST COUNT"
	@tools/setup test
	$(PYTHON) -m tests.simulation.explore $(if $(ARGS),$(ARGS),100000 20000)

lock: ## exact versions again from pyproject.toml
	tools/lock

clean: ## what tests and tools leave behind; not the environment, not ./var
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
