# The verbs are serve, test, check, bench, clean. Everything else is in README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
FINETUNE := .venv-finetune
PYTEST := -m pytest -n 3 --dist loadfile --no-loadscope-reorder
SHELL := /bin/sh
.DEFAULT_GOAL := help
# A service that compiles all that it imports starts three times as late, and tests start a hundred.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help serve test coverage nightly test-finetune check bench soak finetune-demo lock clean

help: ## show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

serve: $(VENV)/.ready ## start the service on 127.0.0.1:8000
	@$(BIN)/aigbb serve $(ARGS)

test: $(VENV)/.tests ## install what tests need; lint, types and the tests that do not take long
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python $(PYTEST) $(ARGS)

coverage: $(VENV)/.tests ## which lines and branches make test runs, in the service and its commands
	@$(UV) pip install --quiet --python $(BIN)/python coverage==7.17.5
	@rm -rf .coverage .coverage.*
	@$(BIN)/python -m coverage run $(PYTEST) -q $(ARGS); failed=$$?; \
		$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report && exit $$failed

nightly: $(VENV)/.tests ## all that make test leaves out, and a table of it: an hour or more
	$(BIN)/python -m tests.nightly $(ARGS)

test-finetune: $(FINETUNE)/.ready ## test training, with torch
	$(FINETUNE)/bin/python -m pytest finetune/tests -W default -q

check: $(VENV)/.tests ## lint and types only
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready ## measure this checkout beside what one would use instead
	$(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/.ready ## mixed work and faults for minutes; is anything lost, wrong or left?
	$(BIN)/python -m benchmarks.soak $(ARGS)

finetune-demo: $(FINETUNE)/.ready ## data, a tiny model, training, evaluation, and a talk in which functions are run: minutes
	@$(FINETUNE)/bin/python -m finetune.demo $(ARGS)

lock: $(VENV)/.ready ## renew requirements.lock
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate requirements.txt tests/requirements.txt -o requirements.lock

clean: ## remove the virtual environments (the service's home .aigbb stays)
	rm -rf $(VENV) $(FINETUNE)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aigbb-functions needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; run: make PYTHON=python3.12 serve")'
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"

$(VENV)/.ready: requirements.txt kernels/requirements.txt requirements.lock pyproject.toml | $(UV)
	@echo "Installing the service's packages ..."
	@$(UV) pip install --quiet --python $(BIN)/python -r requirements.txt -c requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

$(FINETUNE)/.ready: finetune/requirements.txt requirements.txt requirements.lock
	@echo "Installing what fine-tuning needs into $(FINETUNE) (torch is large) ..."
	@$(PYTHON) -m venv $(FINETUNE)
	@$(FINETUNE)/bin/python -m pip install --quiet --disable-pip-version-check -r finetune/requirements.txt \
		$$(grep -E '^pytest(-timeout)?==' tests/requirements.txt) -c requirements.lock
	@$(FINETUNE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.tests: tests/requirements.txt $(VENV)/.ready
	@echo "Installing what the tests need ..."
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& { apt-get install -y -q bubblewrap || { apt-get update -q && apt-get install -y -q bubblewrap; }; } >/dev/null 2>&1; } \
		|| echo "bubblewrap is not here, so confinement will not be tested: apt-get install bubblewrap"
	@$(UV) pip install --quiet --python $(BIN)/python -r tests/requirements.txt -c requirements.lock
	@touch $@
