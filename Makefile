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
DEMO_GROUP ?= /measurements/reflectance/r10m
PYTEST_OPTIONS ?=
BENCH_OPTIONS ?=

.PHONY: help setup demo test lint bench lock clean
help:
	@sed -n '1,5s/^# //p' Makefile

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/dev.txt pyproject.toml runner/pyproject.toml
	@python=$$(scripts/find-python) && "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable ./runner --editable .
	@touch $@

demo: setup
	@mkdir -p $(DEMO)
	$(BIN)/geozarr-nb doctor
	$(BIN)/geozarr-nb sample $(DEMO)/sample.zarr --overwrite
	$(BIN)/geozarr-nb inspect $(DEMO)/sample.zarr
	$(BIN)/geozarr-nb estimate $(DEMO)/sample.zarr --groups $(DEMO_GROUP)
	$(BIN)/geozarr-nb convert $(DEMO)/sample.zarr $(DEMO)/sample_r10m.zarr --groups $(DEMO_GROUP) --if-exists overwrite
	$(BIN)/geozarr-nb preview $(DEMO)/sample_r10m.zarr $(DEMO)/preview.png
	@echo
	@echo "What happened: a product with a Sentinel-2 tile's structure was written to $(DEMO)/sample.zarr; its group"
	@echo "$(DEMO_GROUP) was converted to $(DEMO)/sample_r10m.zarr, with overviews, and compared with the source;"
	@echo "$(DEMO)/preview.png was drawn from one of its overviews. To open it:"
	@echo
	@echo "  $(BIN)/python -c 'import geozarr_nb as gz; print(gz.open(\"$(DEMO)/sample_r10m.zarr\"))'"

test: setup
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

bench: setup
	$(BIN)/python benchmarks/run.py $(BENCH_OPTIONS)

clean:
	rm -rf $(VENV) $(DEMO) dist .pytest_cache .mypy_cache .ruff_cache

# Pins with hashes for everything, resolved for the oldest supported Python. Needs uv.
lock:
	uv pip compile --quiet --upgrade --universal --python-version 3.12 --generate-hashes --no-annotate --no-header \
		--all-extras runner/pyproject.toml pyproject.toml --no-emit-package geozarr-runner -o requirements/dev.txt
