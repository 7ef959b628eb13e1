# make demo   environment, sample product, conversion, verified result, preview
# make test   everything that can be tested here
# make lint   ruff, mypy --strict, import direction
# make bench  our run against the bare converter, side by side
# make setup  only the environment (.venv)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: help setup demo test lint bench lock clean
help:
	@sed -n '1,5s/^# //p' Makefile

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/dev.txt pyproject.toml runner/pyproject.toml
	@python=$$(scripts/find-python) && "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable ./runner --editable .
	@touch $@

# Pins with hashes for everything, resolved for the oldest supported Python. Needs uv.
lock:
	uv pip compile --quiet --upgrade --universal --python-version 3.12 --generate-hashes --no-annotate --no-header \
		--all-extras runner/pyproject.toml pyproject.toml --no-emit-package geozarr-runner -o requirements/dev.txt
