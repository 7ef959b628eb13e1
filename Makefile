# make demo   environment, sample product, conversion, verified result, preview
# make test   all tests; it installs what they need, and uses a browser and a cluster where there are
# make test-fast  those that need no conversion, browser, cluster or documentation, and are quick: a minute
# make test-newest  those of the SDK with the newest xarray, zarr and all else, without the converter, in .venv-newest
# make converter VERSION=0.11.1  what another release of the converter changes: options, layout, small conversions
# make nightly    what takes hours: more kinds and stores, a cluster's faults, random documents, full-size benchmarks
# make e2e        the cluster's tests on a cluster that is made for them, with Docker and k3d or kind (ON=kind; KEEP=1)
# make chaos      breaks the cluster that KUBECONFIG names, part by part, while jobs run on it
# make lint   ruff, mypy --strict, import direction
# make bench  our run against the bare converter, side by side
# make setup  only the environment (.venv)
# make jupyter    front ends and the documentation's tools as well
# make notebooks  executes the tutorials and writes them back; NOTEBOOKS=notebooks/3_on_a_cluster.ipynb for that one
# make docs       the documentation with the tutorials, into docs/_build/html
# make wheels chart  what a release consists of besides the image, in dist/
# make check-wheels  installs the wheels into an empty environment and converts with them
# make licences sbom  what the image holds, as a table and as a CycloneDX document, in dist/
# make audit      is something known against what we pin? (asks the network, or ADVISORIES=FOLDER)
#
# On a cluster (NAMESPACE, CLUSTER, IMAGE, CONTEXT, JOB):
# make k3d           a k3d cluster on this machine, with k3d $(K3D_VERSION) where there is none
# make build         the runner's image, with docker, podman or buildah
# make load-k3d      takes it into the k3d cluster (into kind: scripts/image load-kind IMAGE CLUSTER)
# make argo-install  Argo Workflows $(ARGO_VERSION), from ARGO_MANIFEST
# make template pvc  the workflow template with its roles, and the claim for outputs
# make submit        a job from params.json
# make status        all jobs; make logs, pod, events: what a job says, its pod, what the cluster says
# make doctor        is everything there, and what to do where it is not
# make cluster-gc    finished pods and images that lost their name
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
DEMO_GROUP ?= /measurements/reflectance/r10m
PYTEST_OPTIONS ?=
TEST_PROCESSES ?= 2
TEST_AGAIN ?=
BENCH_OPTIONS ?=
BUILD_OPTIONS ?=
NOTEBOOKS ?=

# The jobs' namespace and claim, the k3d cluster, the runner's image; an empty CONTEXT is the kubeconfig's own.
NAMESPACE ?= argo
PVC_NAME ?= geozarr-pvc
CLUSTER ?= geozarr
IMAGE ?= eopf-geozarr:dev
CONTEXT ?= $(GEOZARR_KUBE_CONTEXT)
# One job; empty for the newest (logs) or for all (pod, events).
JOB ?=
ARGO_VERSION ?= v3.6.5
ARGO_NAMESPACE ?= argo
ARGO_TIMEOUT ?= 180s
K3D_VERSION ?= v5.7.5
# An address or a file.
ARGO_MANIFEST ?= https://github.com/argoproj/argo-workflows/releases/download/$(ARGO_VERSION)/install.yaml

.PHONY: help setup jupyter notebooks docs demo test test-fast test-newest converter nightly chaos e2e lint bench lock clean
.PHONY: wheels chart check-version check-wheels release-notes publish push-chart supply licences sbom audit
.PHONY: k3d build load-k3d argo-install template pvc submit status logs pod events doctor cluster-gc
help:
	@sed -n '/^SHELL/q; s/^# \{0,1\}//; s/$$(ARGO_VERSION)/$(ARGO_VERSION)/; s/$$(K3D_VERSION)/$(K3D_VERSION)/; p' Makefile

setup: $(VENV)/.ready

$(VENV)/.ready: requirements/dev.txt pyproject.toml runner/pyproject.toml
	@python=$$(scripts/find-python) && "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable ./runner --editable .
	@touch $@

# Front ends and the documentation's tools; what the product needs is pinned alike in both files.
jupyter: $(VENV)/.jupyter

$(VENV)/.jupyter: $(VENV)/.ready requirements/jupyter.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/jupyter.txt
	@touch $@

# What lists the image's contents and asks about them; what the product needs is pinned alike here too.
supply: $(VENV)/.supply

$(VENV)/.supply: $(VENV)/.ready requirements/supply.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/supply.txt
	@touch $@

licences: supply
	@mkdir -p dist
	$(BIN)/python scripts/contents.py licences >dist/licences.md

sbom: supply
	@mkdir -p dist
	$(BIN)/python scripts/contents.py sbom >dist/sbom.json

audit: supply
	$(BIN)/python scripts/audit.py $(if $(ADVISORIES),--advisories "$(ADVISORIES)")

notebooks: jupyter
	$(BIN)/python scripts/execute_notebooks.py $(NOTEBOOKS)

docs: jupyter
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

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
	@echo
	@echo "The same by clicking: make jupyter, then $(BIN)/jupyter lab, and in a cell"
	@echo
	@echo "  import geozarr_nb as gz; gz.ui(\"$(DEMO)/sample.zarr\")"

# What breaks a cluster's parts on purpose comes last, and alone. With TEST_AGAIN=1 what failed is tried once more, by
# itself, and told at the end.
test nightly: export TEST_AGAIN := $(TEST_AGAIN)
test: jupyter supply
	scripts/tests $(BIN)/python "not alone and not nightly" "-n $(TEST_PROCESSES) --dist loadscope" $(PYTEST_OPTIONS)
	@[ -z "$${GEOZARR_TEST_CLUSTER:-}" ] || scripts/tests $(BIN)/python "alone and not nightly" "" $(PYTEST_OPTIONS) || [ $$? = 5 ] # 5: the options leave none

FAST := not slow and not converter and not browser and not tutorial and not cluster and not docs and not supply and not nightly
test-fast: export GEOZARR_TEST_FAST := 1
test-fast: export GEOZARR_FUZZ_EXAMPLES := 30
test-fast: setup
	$(BIN)/python -m pytest -q -m "$(FAST)" -n $(TEST_PROCESSES) --dist loadscope $(PYTEST_OPTIONS)

# What a kernel may have that nobody pinned. The converter is not there, and neither are the tests that need it.
NEWEST ?= .venv-newest
test-newest: export GEOZARR_TEST_FAST := 1
test-newest: export GEOZARR_FUZZ_EXAMPLES := 30
test-newest:
	@python=$$(scripts/find-python) && "$$python" -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv # pip tries a hundred versions of botocore
	$(NEWEST)/bin/python -m uv pip install --quiet --python $(NEWEST)/bin/python --upgrade --editable ./runner --editable ".[notebook,cluster,completion,dev,verify]"
	$(NEWEST)/bin/python -m pytest -q -m "$(FAST)" -n $(TEST_PROCESSES) --dist loadscope $(PYTEST_OPTIONS)

# The release gets an environment of its own. Minutes: it converts a dozen small products.
CONVERTER ?= .venv-converter
converter: setup
	@[ -n "$(VERSION)" ] || { echo "name the release: make converter VERSION=0.11.1" >&2; exit 2; }
	@$(BIN)/python scripts/compare_converter.py $(VERSION) $(CONVERTER)

# A cluster for tests alone: GEOZARR_CLUSTER_KILL and GEOZARR_CLUSTER_UP say how its components are ended and started.
chaos: setup
	$(BIN)/python -m pytest -s -m cluster tests/cluster/test_chaos.py $(PYTEST_OPTIONS)

e2e: export PYTHON := $(BIN)/python
e2e: export IMAGE := $(IMAGE)
e2e: export PYTEST_OPTIONS := $(PYTEST_OPTIONS)
e2e: setup
	@scripts/e2e $(ON)

nightly: jupyter supply
	GEOZARR_FUZZ_EXAMPLES=10000 scripts/tests $(BIN)/python "not nightly" "-n $(TEST_PROCESSES)" tests/hostile/test_fuzz_metadata.py
	scripts/tests $(BIN)/python nightly "" $(PYTEST_OPTIONS)
	$(BIN)/python benchmarks/run.py --all --size 10980

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: setup
	$(BIN)/python benchmarks/run.py $(BENCH_OPTIONS)

clean:
	rm -rf $(VENV) $(NEWEST) $(CONVERTER) $(DEMO) dist docs/_build docs/tutorials .pytest_cache .mypy_cache .ruff_cache

# Pins with hashes for everything, resolved for the oldest supported Python. Needs uv. The image's are the same
# versions: those of the runner with the converter, and of what builds the runner's wheel.
PIN := uv pip compile --quiet --upgrade --universal --python-version 3.12 --generate-hashes --no-annotate --no-header
define RUNNER_FOLLOWS
# What the image holds. The bounds are those that eopf-geozarr and its own dependencies give, not the versions of the
# uv.lock in its repository: that lock is for its tests, is older than its releases, and has numcodecs 0.16.5, while
# 0.17.1 is the first one that decodes no pickle. What the newer ones change is found by `make test` and
# `make converter VERSION=...`.
endef
lock: export RUNNER_FOLLOWS := $(RUNNER_FOLLOWS)
lock:
	$(PIN) --extra convert --extra local --extra notebook --extra cluster --extra completion --extra dev \
		runner/pyproject.toml pyproject.toml --no-emit-package geozarr-runner -o requirements/dev.txt
	$(PIN) --constraints requirements/dev.txt --extra notebook --extra jupyter --extra docs \
		pyproject.toml --no-emit-package geozarr-runner -o requirements/jupyter.txt
	$(PIN) --constraints requirements/dev.txt --constraints requirements/jupyter.txt --extra supply \
		pyproject.toml --no-emit-package geozarr-runner --no-emit-package pip -o requirements/supply.txt
	$(PIN) --constraints requirements/dev.txt --extra convert runner/pyproject.toml -o requirements/runner.txt
	printf '%s\n' "$$RUNNER_FOLLOWS" | cat - requirements/runner.txt >requirements/runner.txt.new && mv requirements/runner.txt.new requirements/runner.txt
	echo hatchling | $(PIN) --constraints requirements/dev.txt - -o requirements/build.txt

wheels: setup
	rm -f dist/*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist ./runner .

chart:
	rm -f dist/geozarr-*.tgz
	helm package charts/geozarr --destination dist

check-wheels:
	@scripts/check-wheels dist

check-version:
	@scripts/release check $(VERSION)

release-notes:
	@scripts/release notes $(VERSION)

publish:
	@scripts/release publish $(VERSION)

push-chart:
	@scripts/release push-chart $(VERSION) $(CHARTS)

k3d:
	@scripts/image k3d $(CLUSTER) $(K3D_VERSION)

build:
	@scripts/image build $(IMAGE) $(BUILD_OPTIONS)

load-k3d:
	@scripts/image load-k3d $(IMAGE) $(CLUSTER)

argo-install template pvc pod events cluster-gc logs: export CLUSTER := $(CLUSTER)
argo-install template pvc pod events cluster-gc logs: export NAMESPACE := $(NAMESPACE)
argo-install template pvc pod events cluster-gc logs: export CONTEXT := $(CONTEXT)
pvc: export PVC_NAME := $(PVC_NAME)
pod events: export JOB := $(JOB)
argo-install: export ARGO_VERSION := $(ARGO_VERSION)
argo-install: export ARGO_NAMESPACE := $(ARGO_NAMESPACE)
argo-install: export ARGO_TIMEOUT := $(ARGO_TIMEOUT)
argo-install: export ARGO_MANIFEST := $(ARGO_MANIFEST)
argo-install template pvc pod events cluster-gc:
	@scripts/on-cluster $@

# The file is named, so that what it says of image and claim counts.
submit status logs doctor: export GEOZARR_PARAMS := $(or $(GEOZARR_PARAMS),params.json)
submit status logs doctor: export GEOZARR_BACKEND := argo
submit status logs doctor: export GEOZARR_NAMESPACE := $(NAMESPACE)
ifneq ($(origin PVC_NAME),file)
submit doctor: export GEOZARR_PVC_NAME := $(PVC_NAME)
endif
submit status logs doctor: export GEOZARR_KUBE_CONTEXT := $(CONTEXT)
ifneq ($(origin IMAGE),file)
submit doctor: export GEOZARR_IMAGE := $(IMAGE)
endif
submit: setup
	@$(BIN)/geozarr-nb submit

status: setup
	@$(BIN)/geozarr-nb jobs

logs: export JOB := $(JOB)
logs: setup
	@job=$${JOB:-$$(scripts/on-cluster newest)}; $(BIN)/geozarr-nb logs --follow "$$job"

doctor: setup
	@$(BIN)/geozarr-nb doctor
